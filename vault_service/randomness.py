"""Random bytes from the operating system, fetched in bulk.

Every `os.urandom` lets go of the interpreter's lock; with the event loop waiting for it, a transaction of
many calls would change threads at every nonce. Bytes are handed out once and never kept. A process that
forks after first use would share them: this one never forks.
"""

import os
import threading
from typing import Final

_FETCH: Final = 16_384  # bytes at a time


class _Buffer(threading.local):
    data: bytes = b""
    used: int = 0


_buffer: Final = _Buffer()


def random_bytes(count: int) -> bytes:
    """`count` bytes of the operating system's generator (getrandom(2)), each given out once."""
    buffer = _buffer
    end = buffer.used + count
    if end > len(buffer.data):
        buffer.data, buffer.used, end = os.urandom(max(_FETCH, count)), 0, count
    taken = buffer.data[buffer.used : end]
    buffer.used = end
    return taken
