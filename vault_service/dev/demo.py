"""`ssn-vault demo`: the main job on the sample rosters, on a stack of real processes in a scratch home.

Nothing comes in but the rosters; the story goes out, and the exit status says whether every step went as told.
"""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

import ssn_vault_client as vault
from vault_service.cli.common import command, console
from vault_service.dev.scratch import StoryError, on_signals, scratch_stack
from vault_service.dev.story import KEPT, Story


@command
def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", help="A new directory for the exported record, its proof and public key.")
    ] = None,
) -> None:
    """The main job on two sample rosters, on a whole stack in a scratch home: each step shown and checked."""
    began = time.monotonic()
    with on_signals(signal.default_int_handler), scratch_stack() as home:
        ready = json.loads((home / "ready.json").read_bytes())
        seconds = time.monotonic() - began
        console.print(f"ready at {ready['address']}, process {ready['pid']}, after {seconds:.1f} s")
        try:
            Story(home).tell()
        except vault.SsnVaultError as error:
            raise StoryError(f"a call failed that should not have: {error}") from None
        if keep is not None:
            keep.mkdir(parents=True)
            for name in KEPT:
                shutil.copy(home / name, keep / name)
    seconds = time.monotonic() - began
    console.print(f"\nEvery step went as told ({seconds:.1f} s), and the scratch home is gone. Next: make run")
