"""The log stream: the hash of every event leaves the process before the answer does, and each checkpoint follows.

A superuser of the database can make an event vanish from it, even inside a commit; not from this stream. One
JSON line a transaction goes to the log; when it has not left within the log's deadline the calls fail with
AUDIT_UNAVAILABLE and no plaintext leaves. While the log cannot be written no call is begun.
"""

import json
from collections.abc import Sequence
from typing import Final

from vault_service.errors import CallError, Reason
from vault_service.log_writer import LogWriter, NotWrittenError
from vault_service.storage.events import EventRow

# A line stays below 4,096 bytes: what a pipe takes in one piece (PIPE_BUF), whoever else writes to it.
_EVENTS_A_LINE: Final = 32


class HashStream:
    """Writes to the log. Any thread may write."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log

    @property
    def trouble(self) -> str:
        """Why hashes do not leave now; empty when they do."""
        return self._log.trouble

    def announce(self, events: Sequence[EventRow]) -> None:
        """Write the ids and hashes of committed events. CallError AUDIT_UNAVAILABLE when that fails."""
        if not events:
            return
        parts = [events[at : at + _EVENTS_A_LINE] for at in range(0, len(events), _EVENTS_A_LINE)]
        self._write([{"logger": "ssn_vault.events", "events": [[e.id, e.hash.hex()] for e in part]} for part in parts])

    def announce_checkpoint(self, note: str) -> None:
        """Write a checkpoint of the log. CallError AUDIT_UNAVAILABLE when that fails."""
        self._write([{"logger": "ssn_vault.checkpoints", "note": note}], later=False)  # the next one covers more

    def _write(self, lines: Sequence[dict[str, object]], *, later: bool = True) -> None:
        try:
            self._log.write([json.dumps(line) for line in lines], later=later)
        except NotWrittenError:
            raise CallError(Reason.AUDIT_UNAVAILABLE) from None
