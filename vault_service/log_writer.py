"""The one way of lines to the log's descriptor (standard output in production): a thread of its own writes them.

Lines come in from any thread and leave whole and in order. A reader that stalls holds up this thread and nobody
else: ordinary lines wait in memory and are dropped, counted, when too many do; whoever must know that a line left
waits for it, up to a deadline, and once a line has been stuck for that long fails at once. The line that is stuck
is the probe: when it leaves, everything works again. The descriptor's own flags are not touched, because other
processes may share it. Nothing of a line's content is known here.
"""

import errno
import json
import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vault_service.errors import SsnVaultError

_DEADLINE: Final = 2.0  # seconds that a line may take to leave
_LOOK_SECONDS: Final = 0.5  # between two looks at a descriptor that nothing is written to, or that failed
_MOST_LINES: Final = 4_096  # that wait; none is longer than about 4 KiB
_MOST_ORDINARY: Final = _MOST_LINES // 4  # of them before ordinary ones are dropped


class NotWrittenError(SsnVaultError):
    """A line has not left; it leaves later if the log can be written again before too many wait."""


class LogWriter:
    """Writes to `descriptor`. Any thread may ask; `deadline` in seconds."""

    def __init__(self, descriptor: int, deadline: float = _DEADLINE) -> None:
        self._descriptor = descriptor
        self._deadline = deadline
        self._waiting: deque[bytes] = deque()
        self._taken = 0  # lines that were ever accepted
        self._left = 0  # lines of those that have left
        self._dropped = 0  # ordinary lines since this was told last
        self._broken_line = False
        self._failure = ""  # why the last attempt failed
        self._busy_since = 0.0  # monotonic seconds of the attempt that runs; 0: none does
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why lines do not leave now; empty when they do."""
        since = self._busy_since
        if self._failure:
            return self._failure
        return "the log's reader does not read" if since and time.monotonic() - since >= self._deadline else ""

    def say(self, line: str) -> None:
        """Write an ordinary line, later; never waits and never fails."""
        with self._changed:
            if len(self._waiting) >= _MOST_ORDINARY:
                self._dropped += 1
            else:
                self._take([line])

    def write(self, lines: Sequence[str], *, later: bool = True) -> None:
        """Write lines, in order; NotWrittenError unless all have left within the deadline.

        `later`: those that come while the log cannot be written leave when it can be written again.
        """
        with self._changed:
            works = not self.trouble
            if len(self._waiting) + len(lines) > _MOST_LINES or not (works or later):
                raise NotWrittenError(self.trouble or "too many lines wait for the log's reader")
            mine = self._take(lines)
            # While it does not work every line waits, but nobody waits for it.
            if works and self._changed.wait_for(lambda: self._left >= mine or self._failure, self._deadline):
                works = self._left >= mine
            else:
                works = False
        if not works:
            raise NotWrittenError(self.trouble or "the log's reader is too slow")

    def close(self) -> None:
        """Write what waits, as far as that works within the deadline, and end. The descriptor stays open."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failure, self._deadline)
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(self._deadline)  # a reader that stalls must not keep the process from ending

    def _take(self, lines: Sequence[str]) -> int:
        """Put lines behind those that wait; the number of the last. The lock is held."""
        self._waiting.extend(line.encode() + b"\n" for line in lines)
        self._taken += len(lines)
        self._changed.notify_all()
        return self._taken

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._stopped:
                    self._changed.wait(_LOOK_SECONDS)
                if self._stopped and (self._failure or not self._waiting):
                    return
                line = self._waiting[0] if self._waiting else None
                self._busy_since = time.monotonic() if line else 0.0
            failure = self._look() if line is None else self._put(line)
            with self._changed:
                self._busy_since = 0.0
                self._failure = failure
                if line is not None and not failure:
                    self._waiting.popleft()
                    self._left += 1
                if self._dropped and not self._waiting and not failure:
                    self._take([_dropped_line(self._dropped)])
                    self._dropped = 0
                self._changed.notify_all()
                if failure:
                    self._changed.wait_for(lambda: self._stopped, _LOOK_SECONDS)

    def _put(self, line: bytes) -> str:
        """Write one line, whole; for as long as the reader takes. Why it failed, or nothing."""
        data = b"\n" * self._broken_line + line  # an earlier line was cut off: this one starts on its own
        try:
            while data:
                try:
                    written = os.write(self._descriptor, data)
                except BlockingIOError:  # somebody who shares it made it non-blocking
                    if self._stopped:
                        return "the log's reader does not read"
                    self._poll(select.POLLOUT, _LOOK_SECONDS)
                    continue
                self._broken_line = written < len(data)
                data = data[written:]
        except OSError as error:
            return self._why(error.errno)
        return ""

    def _look(self) -> str:
        """What is wrong with a descriptor that nothing is to be written to."""
        found = self._poll(0, 0)
        if found & select.POLLNVAL:
            return self._why(errno.EBADF)
        return self._why(errno.EPIPE) if found & (select.POLLERR | select.POLLHUP) else ""

    def _poll(self, events: int, seconds: float) -> int:
        poll = select.poll()
        poll.register(self._descriptor, events)
        return next((found for _, found in poll.poll(seconds * 1000)), 0)

    def _why(self, number: int | None) -> str:
        if number != errno.EPIPE:
            return f"the log cannot be written ({errno.errorcode.get(number or 0, 'unknown')})"
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{self._descriptor}").startswith("pipe:"):
                return "the log's reader has ended, and its pipe can get no other: restart the server"
        return "the log's reader has ended: a new one is waited for"


def _dropped_line(count: int) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"event": "log lines were dropped", "count": count, "level": "warning", "timestamp": at})
