"""A reader of a server's output that a test can stall, end and replace."""

import os
from contextlib import suppress
from pathlib import Path


class Fifo:
    """A named pipe with a reader, and a descriptor that writes to it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self.reader = -1
        self.seen: list[str] = []  # by `gather`
        self.open()
        self.writer = os.open(path, os.O_WRONLY)

    def open(self) -> None:
        self.reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def fill(self) -> None:
        """As a reader does that takes nothing: not even one more byte has room."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"\n" * 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"\n")
        os.close(descriptor)

    def read(self) -> list[str]:
        taken = b""
        with suppress(BlockingIOError):
            while more := os.read(self.reader, 65_536):
                taken += more
        return [line for line in taken.decode().split("\n") if line]

    def gather(self) -> list[str]:
        """All lines so far."""
        self.seen += self.read()
        return self.seen
