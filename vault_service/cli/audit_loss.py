"""`ssn-vault audit accept-loss`: two signers of policies accept that the database lost what a checkpoint covers.

What the database still has and what was kept elsewhere come in; an order that names both goes out. Nothing is
repaired by it: it lets the servers go on, in the open.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
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
from vault_service.errors import ConfigurationError, OrderRefusedError
from vault_service.orders.order import Action, parse_order
from vault_service.orders.state import loss_of
from vault_service.storage.log import checkpoints as stored_checkpoints
from vault_service.storage.orders import OrderRow, read_epoch, read_orders, undecided

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
        stop(Exit.USAGE, "--checkpoints FILE names what was kept outside the database, which tells what is lost")
    keys = read_keys(home, public_key)
    with admin(where) as one:
        with one.store.reading() as connection:
            stored = _good((row.note for row in stored_checkpoints(connection)), keys)
            epoch = read_epoch(connection)
            rows = read_orders(connection, undecided(connection))
        loss = _loss(stored, [_heads(file, keys) for file in files])
        console.print(
            f"The database has {loss.entries:,} of the entries that were signed. {loss.lost_entries:,} were, the last "
            f"checkpoint over them at {datetime.fromtimestamp(loss.lost_at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC.",
            markup=False,
            soft_wrap=True,
        )
        console.print(_GONE.format(entries=loss.entries, epoch=epoch), markup=False, soft_wrap=True)
        console.print(f"for auditors (--known-loss) and witnesses (accepted_losses): {loss.line}", soft_wrap=True)
        confirm("Accept this loss?", yes=yes)
        waiting = _waiting(rows, loss, epoch, one.person)
        if waiting is not None:  # the same loss, by this person's own files: that is what a second signature is for
            order = one.sign(waiting)
            outcome = one.wait(order)
            if outcome is None or outcome.outcome != "done":
                stop(Exit.REFUSED, f"refused: {outcome.detail}" if outcome else "signed; it waits for one more person")
            console.print(f"done: {order.action.value}, order {order.id}")
            return
        arguments = {
            "entries": loss.entries,
            "root": loss.root.hex(),
            "lost_entries": loss.lost_entries,
            "lost_root": loss.lost_root.hex(),
            "lost_at": loss.lost_at,
            "lost_note": loss.note,
            "until": max(loss.until, loss.lost_at),
            "epoch": epoch,
            "reason": reason,
        }
        carry_out(one, where, Action.ACCEPT_LOSS, arguments, second)


def _waiting(rows: Iterable[OrderRow], loss: Loss, epoch: int, person: str) -> str | None:
    """An order of somebody else that declares this very loss, and waits."""
    now = time.time_ns() // 1_000_000
    for row in rows:
        try:
            order = parse_order(row.body)
            if order.action is not Action.ACCEPT_LOSS or order.expires < now or order.arguments.get("epoch") != epoch:
                continue
            same = loss_of(order).line == loss.line
        except OrderRefusedError:
            continue
        if same and person not in {signature.person for signature in row.signatures}:
            return row.id
    return None


def _good(notes: Iterable[str], keys: verify.Keys) -> list[tuple[verify.Head, str]]:
    """The heads that the log's key signed, each with its note; what others put between them counts for nothing."""
    found = []
    for note in notes:
        with suppress(verify.InvalidError):
            found.append((verify.check_note(note, keys), note))
    return found


def _heads(file: Path, keys: verify.Keys) -> list[tuple[verify.Head, str]]:
    try:
        return _good(verify.notes_in(file, keys), keys)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None


def _loss(stored: list[tuple[verify.Head, str]], kept: list[list[tuple[verify.Head, str]]]) -> Loss:
    """From the last checkpoint that the database and every file have, to the last that the database does not have."""
    there = {(head.size, head.root) for head, _ in stored}
    if not any(kept):
        stop(Exit.CHECK_FAILED, "what was kept holds no checkpoint: nothing is known to be lost")
    gone = [(head, note) for heads in kept for head, note in heads if (head.size, head.root) not in there]
    last, note = max(gone, key=lambda found: found[0].at_ms, default=(None, ""))
    everywhere = [{(head.size, head.root) for head, _ in heads} for heads in kept]
    common = max(
        (head for head, _ in stored if all((head.size, head.root) in heads for heads in everywhere)),
        key=lambda head: head.at_ms,
        default=None,
    )
    entries, root = (common.size, common.root) if common else (0, bytes.fromhex(verify.EMPTY_ROOT))
    if last is None or last.size <= entries:
        stop(Exit.CHECK_FAILED, "nothing is lost: the database has the last checkpoint that was kept")
    now = time.time_ns() // 1_000_000
    return Loss("", entries, root, last.size, last.root, last.at_ms, now, note)
