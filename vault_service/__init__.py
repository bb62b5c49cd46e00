"""ssn-vault keeps each Social Security number once, encrypted, and gives everybody else a token."""

__version__ = "0.1.0"
