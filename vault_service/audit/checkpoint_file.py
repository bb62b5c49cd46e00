"""An append-only file of checkpoints, outside the database: what a restored or rewritten database is found by.

Signed notes one after another, each ended by an empty line. Each is on the disk before `append` returns. A
note that was cut off by a crash or a full disk is taken away again, or set apart and passed over where the file
system allows only appending. Who may only append takes no note back: what is whole counts, whatever stands behind
it, and of the notes at the end the latest does.
"""

import base64
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 16_384  # a note has a few hundred
_MARK: Final = "— "
_NEWLINE: Final = "\n"
_SIGNATURE_BYTES: Final = (4 + 64, 4 + 8 + 64)  # key id, a cosignature's time, Ed25519


class CheckpointFile:
    """One file; processes that share it take turns. Every method raises OSError when it cannot be done."""

    def __init__(self, path: Path, holds: Callable[[str], bool]) -> None:
        """`holds` says whether a note is the log's, by its signature."""
        self.path = path
        self._holds = holds

    def append(self, note: str) -> bool:
        """Add a note and have it on the disk; False, and nothing is added, when one there is as new."""
        with self._open() as descriptor:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            tail = self._tail(descriptor)
            notes = split_notes(tail)
            newest = next(filter(self._holds, sorted(notes, key=_head, reverse=True)), None)
            if newest is not None and _head(note) <= _head(newest):
                return False  # another process that shares the file was faster: what it wrote is newer
            data = note.encode() + b"\n"
            if tail and not (notes and tail.endswith(notes[-1] + "\n")):
                data = b"\n\n\n" + data  # what was cut off before stays apart from what is whole
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError("the note was cut off")
                os.fsync(descriptor)
            except OSError:
                _cut_back(descriptor, end)
                raise
        return True

    def last(self) -> str | None:
        """The whole note near the end that says the latest head; None when there is none, or no file."""
        if not self.path.exists():
            return None
        with self._open() as descriptor:
            tail = self._tail(descriptor)
            notes = split_notes(tail)
            if not notes and os.fstat(descriptor).st_size > _TAIL_BYTES:
                raise OSError("the end of the checkpoint file holds no whole note")
        return max(notes, key=_head, default=None)

    @contextmanager
    def _open(self) -> Iterator[int]:
        existed = self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not existed:
                sync_directory(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _tail(descriptor: int) -> str:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        raw = os.pread(descriptor, _TAIL_BYTES, max(0, end - _TAIL_BYTES))
        # A file that came back by way of Windows: unread it would count as one without any checkpoint.
        return raw.replace(b"\r\n", b"\n").decode(errors="replace")


def split_notes(text: str) -> list[str]:
    """The whole notes in a piece of a checkpoint file, as they were appended; pieces of notes are left out.

    A note is two blocks, text and signatures, each ended by an empty line; its last signature is a whole one.
    """
    blocks = text.split("\n\n")
    notes = []
    for body, signatures, _ in zip(blocks, blocks[1:], blocks[2:], strict=False):
        if signatures.startswith(_MARK) and not body.startswith(_MARK) and not _is_cut(signatures):
            notes.append(f"{body.lstrip(_NEWLINE)}\n\n{signatures}\n")
    return notes


def _is_cut(signatures: str) -> bool:
    """Whether the last signature is shorter or longer than any under a checkpoint is."""
    try:
        raw = base64.b64decode(signatures.rpartition(" ")[2], validate=True)
    except ValueError:
        return True
    return len(raw) not in _SIGNATURE_BYTES


def _head(note: str) -> tuple[int, int]:
    """Time and size that a note says, by which a later one is told; (0, 0) for what says none.

    By time first: a log goes on smaller than it was when a loss was declared.
    """
    lines = note.split("\n", 4)
    try:
        return int(lines[3].removeprefix("time ")), int(lines[1])
    except (IndexError, ValueError):
        return 0, 0


def _cut_back(descriptor: int, end: int) -> None:
    try:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    except OSError:  # a file that may only grow: the next note begins on lines of its own
        return


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
