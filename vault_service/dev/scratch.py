"""A whole stack in a scratch home, for a program that shows something on it: started, commanded, ended without a trace.

`scratch_stack` owns the processes; `Commands` runs `ssn-vault` on a home as a person would.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

from vault_service.cli.common import console
from vault_service.config import PREFIX
from vault_service.errors import SsnVaultError
from vault_service.files import own_file

_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 30.0  # the server drains and OpenBao ends within it


class StoryError(SsnVaultError):
    """A step did not go as told."""


class Commands:
    """The `ssn-vault` commands on one home, each run as a process."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def run(self, *arguments: str) -> str:
        """What the `ssn-vault` command prints, which must succeed."""
        status, screen = self.attempt(*arguments)
        if status != 0:
            raise StoryError(f"ssn-vault {' '.join(arguments)}: status {status}\n{screen}")
        return screen

    def attempt(self, *arguments: str) -> tuple[int, str]:
        """Exit status of the `ssn-vault` command, run as a process on this home, and what it prints."""
        line = [sys.executable, "-m", "vault_service", *arguments, "--home", str(self._home)]
        done = subprocess.run(
            line, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout or done.stderr

    def run_json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@contextmanager
def scratch_stack() -> Iterator[Path]:
    """`ssn-vault dev` as a process of its own: the home it runs on. With the block, both are gone."""
    console.print("Starting OpenBao, the database and the server in a scratch home ...")
    scratch = Path(tempfile.mkdtemp(prefix="ssn-vault-scratch-"))
    home, log = scratch / "home", scratch / "stack.log"
    process = None
    try:
        with own_file(log, "w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "vault_service", "dev", "--home", str(home)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for us: the story ends first, then the stack
            )
        deadline = time.monotonic() + _START_SECONDS
        while not (home / "ready.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StoryError(f"the stack did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield home
    finally:
        with on_signals(signal.SIG_IGN):  # a second Ctrl-C must not leave the stack running
            if process is not None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS)
                process.kill()  # no-op after an orderly end; on Linux, OpenBao is tethered to it and dies too
                process.wait()
            shutil.rmtree(scratch)


@contextmanager
def on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """What Ctrl-C, SIGTERM and a closed terminal do during the block."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def environment() -> dict[str, str]:
    """The surroundings without settings that are meant for another installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "VAULT_"))}
