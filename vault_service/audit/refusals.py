"""Refusals in the record: each one an event, until one caller floods; then counted, one event a minute.

What was refused comes in; whether it gets an event of its own, and later the counts, go out. No I/O.
"""

import threading
from collections import Counter
from typing import NamedTuple

_MINUTE_MS = 60_000


class RefusalKey(NamedTuple):
    """What refusals are counted by."""

    client: str
    method: str
    reason: str


class RefusalMeter:
    """Counts refusals by client, method and reason, in minutes of the database's clock."""

    def __init__(self, each_per_minute: int) -> None:
        """`each_per_minute`: how many of one kind get an event of their own in a minute."""
        self._each = each_per_minute
        self._minute = 0
        self._seen: Counter[RefusalKey] = Counter()
        self._withheld: Counter[RefusalKey] = Counter()
        self._lock = threading.Lock()

    def admit(self, key: RefusalKey, now_ms: int) -> bool:
        """Count one; True when it is to be recorded by itself."""
        with self._lock:
            minute = now_ms // _MINUTE_MS
            if minute != self._minute:
                self._minute = minute
                self._seen.clear()
            self._seen[key] += 1
            if self._seen[key] <= self._each:
                return True
            self._withheld[key] += 1
            return False

    def withhold(self, key: RefusalKey) -> None:
        """Count one that is never recorded by itself (OVERLOADED: recording it would add to the load)."""
        with self._lock:
            self._withheld[key] += 1

    def take(self) -> Counter[RefusalKey]:
        """The counts that stand in no event yet; they are the taker's to record, or to give back."""
        with self._lock:
            taken, self._withheld = self._withheld, Counter()
        return taken

    def give_back(self, counts: Counter[RefusalKey]) -> None:
        """Counts whose event was not committed."""
        with self._lock:
            self._withheld.update(counts)
