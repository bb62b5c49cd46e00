"""Servers that run: each says now and then that it is there, and up to which control epoch it has all keys."""

from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import replica

LAPSE_MS: Final = 10_000  # a server that was silent for so long is not waited for
_FORGET_MS: Final = 24 * 3600 * 1000

_SEEN: Final = sa.text(
    "INSERT INTO replica (id, epoch, seen_at) VALUES (:id, :epoch, :now)"
    " ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, seen_at = excluded.seen_at"
)


class ReplicaRow(NamedTuple):
    """A server: the control epoch of which it has all keys, and when it was last heard of (ms)."""

    id: str
    epoch: int
    seen_at: int


def report(tx: Transaction, replica_id: str, epoch: int) -> None:
    """This server is there and has every key of `epoch`."""
    tx.connection.execute(_SEEN, {"id": replica_id, "epoch": epoch, "now": tx.now_ms})
    tx.connection.execute(sa.delete(replica).where(replica.c.seen_at < tx.now_ms - _FORGET_MS))


def sign_off(tx: Transaction, replica_id: str) -> None:
    """This server ends."""
    tx.connection.execute(sa.delete(replica).where(replica.c.id == replica_id))


def running(connection: sa.Connection, now_ms: int) -> list[str]:
    """The servers that were heard of lately."""
    query = sa.select(replica.c.id).where(replica.c.seen_at > now_ms - LAPSE_MS)
    return sorted(connection.execute(query).scalars())


def lagging(connection: sa.Connection, epoch: int, now_ms: int) -> list[str]:
    """The servers that run and have not loaded the keys of `epoch` yet."""
    query = sa.select(replica.c.id).where(replica.c.seen_at > now_ms - LAPSE_MS).where(replica.c.epoch < epoch)
    return sorted(connection.execute(query).scalars())


def remembered(connection: sa.Connection) -> list[ReplicaRow]:
    """All servers that were heard of in the last day and did not sign off."""
    return [ReplicaRow(*row) for row in connection.execute(sa.select(replica).order_by(replica.c.id))]
