"""`ssn-vault audit accept-loss`: two signers of policies accept that the database lost what a checkpoint covers.

What the database still has and what was kept elsewhere come in; an order that names both goes out. Nothing is
repaired by it: it lets the servers go on, in the open.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vault_service.audit import verify
from vault_service.audit.loss import Loss
from vault_service.cli.admin import Where, admin
from vault_service.cli.audit_proofs import PublicKey, read_keys
from vault_service.cli.common import (
    As,
    Config,
    Exit,
    Home,
    Second,
    TokenFileOption,
    Yes,
    command,
    confirm,
    console,
    stop,
)
from vault_service.cli.ordering import carry_out
from vault_service.errors import ConfigurationError
from vault_service.orders.order import Action
from vault_service.storage.log import checkpoints as stored_checkpoints
from vault_service.storage.orders import read_epoch

_GONE = """Gone with it, for good:
- every event behind the first {entries:,} entries that the database does not have: calls and what they disclosed
- rows, tokens and linkage ids that were new then: tokens that clients were given are not known any more
- orders decided behind number {epoch:,}: policies, freezes, approvals, key versions. Freeze again what was frozen, and
  give the others again; a key version that was made then is made again by `keys rotate`
Nothing of this is repaired. The record says from now on, for ever, that it was lost and who accepted it."""


@command
def accept_loss(
    reason: Annotated[str, typer.Option("--reason", help="What happened: which failover or restore.")],
    kept: Annotated[
        list[Path] | None,
        typer.Option("--checkpoints", help="The checkpoint file, and witnesses' files; else the configured one."),
    ] = None,
    public_key: PublicKey = None,
    home: Home = None,
    config: Config = None,
    as_: As = None,
    token_file: TokenFileOption = None,
    yes: Yes = False,
    second: Second = None,
) -> None:
    """Accept, as a signer of policies, that the database lost entries which were signed; another signer must, too."""
    where = Where(home, config, as_, token_file)
    settings = where.settings()
    if home is not None and as_ is None:
        where = Where(home, config, settings.policy.signers[0], token_file)
    files = kept or ([settings.audit.checkpoint_file] if settings.audit.checkpoint_file else [])
    if not files:
        stop(
            Exit.USAGE,
            "--checkpoints FILE names what was kept outside the database, which tells what is lost",
        )
    keys = read_keys(home, public_key)
    with admin(where) as one:
        with one.store.reading() as connection:
            stored = [verify.check_note(row.note, keys) for row in stored_checkpoints(connection)]
            epoch = read_epoch(connection)
        loss = _loss(stored, [_heads(file, keys) for file in files])
        console.print(
            f"The database has {loss.entries:,} of the entries that were signed. {loss.lost_entries:,} were, the last "
            f"checkpoint over them at {datetime.fromtimestamp(loss.lost_at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC.",
            markup=False,
            soft_wrap=True,
        )
        console.print(_GONE.format(entries=loss.entries, epoch=epoch), markup=False, soft_wrap=True)
        console.print(f"for the witnesses' operators (accepted_losses): {loss.line}", markup=False, soft_wrap=True)
        confirm("Accept this loss?", yes=yes)
        arguments = {
            "entries": loss.entries,
            "root": loss.root.hex(),
            "lost_entries": loss.lost_entries,
            "lost_root": loss.lost_root.hex(),
            "lost_at": loss.lost_at,
            "until": max(loss.until, loss.lost_at),
            "epoch": epoch,
            "reason": reason,
        }
        carry_out(one, where, Action.ACCEPT_LOSS, arguments, second)


def _heads(file: Path, keys: verify.Keys) -> list[verify.Head]:
    try:
        return [verify.check_note(note, keys) for note in verify.notes_in(file, keys)]
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None


def _loss(stored: Iterable[verify.Head], kept: list[list[verify.Head]]) -> Loss:
    """From the last checkpoint that the database has and every file, to the last one that any file has."""
    last = max((head for heads in kept for head in heads), key=lambda head: head.at_ms, default=None)
    if last is None:
        stop(Exit.CHECK_FAILED, "what was kept holds no checkpoint: nothing is known to be lost")
    everywhere = [{(head.size, head.root) for head in heads} for heads in kept]
    common = max(
        (head for head in stored if all((head.size, head.root) in heads for heads in everywhere)),
        key=lambda head: head.at_ms,
        default=None,
    )
    entries, root = (common.size, common.root) if common else (0, bytes.fromhex(verify.EMPTY_ROOT))
    if last.size <= entries:
        stop(Exit.CHECK_FAILED, "nothing is lost: the database has the last checkpoint that was kept")
    return Loss("", entries, root, last.size, last.root, last.at_ms, time.time_ns() // 1_000_000)
