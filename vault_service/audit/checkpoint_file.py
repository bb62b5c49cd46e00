"""An append-only file of checkpoints, outside the database: what a restored or rewritten database is found by.

Signed notes one after another, each ended by an empty line. Each is on the disk before `append` returns. A
note that was cut off by a crash or a full disk is taken away again, or passed over where the file system
allows only appending.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 16_384  # a note has a few hundred
_SIGNATURES: Final = "\n\n— "


class CheckpointFile:
    """One file; processes that share it take turns. Every method raises OSError when it cannot be done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, note: str) -> None:
        """Add a note and have it on the disk."""
        with self._open() as descriptor:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            whole = _whole(self._tail(descriptor))
            data = note.encode() + b"\n"
            if not whole:
                data = b"\n\n\n" + data  # what was cut off before stays apart from what is whole
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError("the note was cut off")
                os.fsync(descriptor)
            except OSError:
                _cut_back(descriptor, end)
                raise

    def last(self) -> str | None:
        """The last whole note; None when there is none, or no file."""
        if not self.path.exists():
            return None
        with self._open() as descriptor:
            notes = split_notes(self._tail(descriptor))
        return notes[-1] if notes else None

    @contextmanager
    def _open(self) -> Iterator[int]:
        existed = self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not existed:
                _sync_directory(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _tail(descriptor: int) -> str:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        return os.pread(descriptor, _TAIL_BYTES, max(0, end - _TAIL_BYTES)).decode(errors="replace")


def split_notes(text: str) -> list[str]:
    """The whole notes in a piece of a checkpoint file, as they were appended; pieces of notes are left out."""
    # The last block is empty, or not ended yet.
    blocks = text.replace(_SIGNATURES, "\0").split("\n\n")[:-1]
    return [block.lstrip("\n").replace("\0", _SIGNATURES) + "\n" for block in blocks if block.count("\0") == 1]


def _whole(tail: str) -> bool:
    return not tail or tail.endswith("\n\n")


def _cut_back(descriptor: int, end: int) -> None:
    try:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    except OSError:  # a file that may only grow: the next note begins on lines of its own
        return


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
