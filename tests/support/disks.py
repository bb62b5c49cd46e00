"""A disk that a test can fill up: what that does to whatever writes there.

A tmpfs of a few mebibytes where the test may mount one (root, as in a container). Elsewhere one file gives way to
/dev/full (full(4)), or the process that writes gets a limit on the size of its files (setrlimit(2)): its writes
fail at the same places.
"""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEBIBYTE = 1024 * 1024
ROOT = os.geteuid() == 0


class SmallDisk:
    """A directory whose space a test takes away and gives back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, pid: int, only: Path | None = None) -> None:
        """Leave not a byte for process `pid`; `only` is the file that it writes here, if that is one alone."""
        if not ROOT and only is not None:
            only.rename(self._aside(only))
            only.symlink_to("/dev/full")
            return
        if not ROOT:
            largest = max((file.stat().st_size for file in self.path.iterdir()), default=0)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
            return
        block = bytes(64 * 1024)
        with self._filler.open("ab", buffering=0) as file:
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self, pid: int, only: Path | None = None) -> None:
        """Give the space back."""
        if ROOT:
            self._filler.unlink()
        elif only is not None:
            only.unlink()
            self._aside(only).rename(only)
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @staticmethod
    def _aside(file: Path) -> Path:
        return file.with_name(f"{file.name}.aside")


@contextmanager
def small_disk(path: Path, mebibytes: int = 4) -> Iterator[SmallDisk]:
    """A small disk at `path`, which is made."""
    path.mkdir()
    if not ROOT:
        yield SmallDisk(path)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes * _MEBIBYTE}", "tmpfs", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
