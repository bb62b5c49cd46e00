"""The log stream: the hash of every event leaves the process before the answer does, and each checkpoint follows.

A superuser of the database can make an event vanish from it, even inside a commit; not from this stream. One
JSON line a transaction goes to a file descriptor; when it cannot be written the calls fail with
AUDIT_UNAVAILABLE and no plaintext leaves.
"""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from vault_service.errors import CallError, Reason
from vault_service.storage.events import EventRow

# A line stays below 4,096 bytes: what a pipe takes in one piece (PIPE_BUF), whoever else writes to it.
_EVENTS_A_LINE: Final = 32


class HashStream:
    """Writes to `descriptor` (standard output in production). Any thread may write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._broken_line = False

    def announce(self, events: Sequence[EventRow]) -> None:
        """Write the ids and hashes of committed events. CallError AUDIT_UNAVAILABLE when that fails."""
        if not events:
            return
        with self._lock:
            for at in range(0, len(events), _EVENTS_A_LINE):
                part = events[at : at + _EVENTS_A_LINE]
                self._write_line({"logger": "ssn_vault.events", "events": [[e.id, e.hash.hex()] for e in part]})

    def announce_checkpoint(self, note: str) -> None:
        """Write a checkpoint of the log. CallError AUDIT_UNAVAILABLE when that fails."""
        with self._lock:
            self._write_line({"logger": "ssn_vault.checkpoints", "note": note})

    def _write_line(self, content: Mapping[str, object]) -> None:
        line = json.dumps(content)
        data = line.encode() + b"\n"
        if self._broken_line:
            data = b"\n" + data  # an earlier line was cut off: this one starts afresh
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._broken_line = written < len(data)
                data = data[written:]
        except OSError:
            raise CallError(Reason.AUDIT_UNAVAILABLE) from None
