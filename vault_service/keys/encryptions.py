"""Counts what each data key has encrypted: AES-GCM with random nonces allows 2^32 (NIST SP 800-38D, section 8.3).

Counts are reserved in the database in blocks, ahead of use, so that the stored figure is never too small,
whatever crashes, and a transaction seldom has to touch it.
"""

import threading
from typing import Final

import structlog

from vault_service.errors import CallError, Reason
from vault_service.storage.engine import Transaction
from vault_service.storage.rotation import reserve_encryptions

MOST_ENCRYPTIONS: Final = 2**32
_BLOCK: Final = 100_000
_log: Final = structlog.stdlib.get_logger("ssn_vault.keys")


class EncryptionMeter:
    """One instance a process; any thread may take."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def take(self, tx: Transaction, domain: str, version: int, count: int) -> None:
        """Count `count` encryptions under a data key, before they are made. KEYS_UNAVAILABLE at the limit."""
        if not count:
            return
        key = (domain, version)
        with self._lock:
            if self._left.get(key, 0) >= count:
                self._left[key] -= count
                return
        if reserve_encryptions(tx, domain, version, count + _BLOCK) > MOST_ENCRYPTIONS:
            _log.critical("a data key has encrypted all it may: rotate it", domain=domain, version=version)
            raise CallError(Reason.KEYS_UNAVAILABLE)

        def give() -> None:
            with self._lock:
                self._left[key] = self._left.get(key, 0) + _BLOCK

        tx.after_commit.append(give)  # rolled back, it was never reserved
