"""Files that commands write: whole or not at all, readable by their owner alone, and never through a symbolic link.

A path and what goes into it come in. Who can write to the directory can still take a file away; nobody can have it
written elsewhere. Everything that a command writes goes through here. What a running server appends to, at paths of
its settings, has rooms of its own (`audit.checkpoint_file`, `audit.destinations`).
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from vault_service.errors import ConfigurationError


@contextmanager
def new_file(path: Path, option: str) -> Iterator[TextIO]:
    """A file that was not there, mode 0600; when the block fails nothing of it stays.

    ConfigurationError, which names `option`, when something is there already or it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{option} names a file that exists already") from None
    except (OSError, ValueError):
        raise ConfigurationError(f"{option} names a file that cannot be made") from None
    try:
        with open(descriptor, "w", encoding="utf-8") as out:
            yield out
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def own_file(path: Path, mode: Literal["w", "a"]) -> TextIO:
    """A file of this user's, made or opened, mode 0600: emptied (`w`) or appended to (`a`).

    OSError for a symbolic link, or for anything else that is no regular file of this user.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check_own(descriptor)
        os.fchmod(descriptor, 0o600)
        if mode == "w":
            os.ftruncate(descriptor, 0)
        os.set_blocking(descriptor, True)
        return open(descriptor, mode, encoding="utf-8")
    except BaseException:
        os.close(descriptor)
        raise


def read_own_file(path: Path) -> str | None:
    """The text of a file of this user's; None where nothing is there.

    OSError for a symbolic link, or for anything else that is no regular file of this user; ValueError for no text.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, encoding="utf-8") as file:
        _check_own(descriptor)
        return file.read()


def _check_own(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError("it is no regular file of this user")


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path` whole or not at all, with `mode` from its first byte on, safe from a crash.

    A file that is there keeps its owner, group and mode.
    """
    replace_files([(path, content, mode)])


def replace_files(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """The same for several files (path, content, mode), renamed in this order once all are on disk.

    OSError, and then nothing has been replaced unless a rename itself failed.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content, mode in files:
            unfinished = path.with_name(path.name + ".partial")
            unfinished.unlink(missing_ok=True)
            staged.append((unfinished, path))
            _stage(unfinished, path, content, mode)
        for unfinished, path in staged:
            unfinished.replace(path)
    finally:
        for unfinished, _ in staged:
            unfinished.unlink(missing_ok=True)
    for directory in {path.parent for path, _, _ in files}:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stage(unfinished: Path, path: Path, content: bytes, mode: int) -> None:
    """Write `unfinished`, readable by nobody else until it belongs to whom `path` belongs to."""
    try:
        present = path.lstat()
    except FileNotFoundError:
        present = None
    if present is not None and not stat.S_ISREG(present.st_mode):
        present = None  # who made a link there does not say who may read what takes its place
    first = mode if present is None else 0o600
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, first), "wb") as file:
        file.write(content)
        if present is not None:
            made = os.fstat(file.fileno())
            if (made.st_uid, made.st_gid) != (present.st_uid, present.st_gid):
                os.fchown(file.fileno(), present.st_uid, present.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(present.st_mode))  # after the owner: a new one takes bits away
        file.flush()
        os.fsync(file.fileno())
