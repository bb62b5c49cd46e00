"""A process that refuses dumps leaves no core and cannot be read by others of its user (promise 1)."""

import subprocess
import sys

# 3 is PR_GET_DUMPABLE, prctl(2).
_ASK = """
import ctypes, resource
from vault_service.process import refuse_dumps
refuse_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_it_is_not_dumpable_and_leaves_no_core() -> None:
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    assert asked.stdout.split() == ["0", "0", "0"]
