"""ssn-vault keeps each Social Security number once, encrypted, and gives everybody else a token."""

import os

__version__ = "0.1.0"

# Before anything imports gRPC, whose core would write a line of its own, past the log, for every probe that hangs up.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
