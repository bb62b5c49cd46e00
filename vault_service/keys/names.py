"""Names of keys: what a key version protects, and what its wrapping key in Vault is called."""

from enum import StrEnum
from typing import NamedTuple


class KeyKind(StrEnum):
    """What a key is for."""

    DATA = "data"  # AES-256-GCM: encrypts payloads
    INDEX = "index"  # HMAC-SHA-256: makes blind indexes


class KeyName(NamedTuple):
    """One version of one key. `scope` is a domain or an agreement; the two never share a name."""

    scope: str
    kind: KeyKind
    version: int

    @property
    def transit(self) -> str:
        """The transit key in Vault that wraps this version and no other."""
        return f"ssn-vault-{self.scope}-{self.kind}-{self.version}"
