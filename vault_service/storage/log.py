"""The log's tables: what waits, leaves and nodes, checkpoints, the lease of who seals, and sinks. Rows in and out.

Nothing here hashes, signs or decides. Appending touches the end of each table and a proof reads by primary
key, however long the log is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import (
    disclosure,
    event,
    log_checkpoint,
    log_leaf,
    log_lease,
    log_node,
    log_pending,
    log_sink,
)


class PendingRow(NamedTuple):
    """A committed event that has no place in the log yet; body and hash are None where the event is gone."""

    event_id: str
    body: str | None
    hash: bytes | None


class LeafRow(NamedTuple):
    """One entry of the log: its position from 0, its event, and its leaf hash (32 bytes)."""

    position: int
    event_id: str
    hash: bytes


class NodeRow(NamedTuple):
    """The root of a complete subtree of 256^level leaves, the `position`-th of its level from 0."""

    level: int
    position: int
    hash: bytes


class CheckpointRow(NamedTuple):
    """A checkpoint as it was signed; `size` and `at` (ms) repeat what stands in the note."""

    number: int
    size: int
    at: int
    note: str


class EntryRow(NamedTuple):
    """An entry with its event's body and stored hash, which are None where the event is gone."""

    position: int
    event_id: str
    hash: bytes
    body: str | None
    event_hash: bytes | None


class SinkRow(NamedTuple):
    """What one place outside the database has: entries up to `size`, acknowledged at (ms, the database's clock)."""

    name: str
    size: int
    acknowledged_at: int


_LONGEST_HOLD_MS: Final = 60_000

_LEAVES_POSTGRESQL: Final = (
    "INSERT INTO log_leaf (position, event_id, hash) SELECT * FROM unnest("
    "CAST(%(positions)s AS bigint[]), CAST(%(event_ids)s AS text[]), CAST(%(hashes)s AS bytea[]))"
)
_TAKE_POSTGRESQL: Final = (
    "DELETE FROM log_pending WHERE event_id = ANY(CAST(%(event_ids)s AS text[])) RETURNING event_id"
)
_TAKE: Final = sa.delete(log_pending).where(log_pending.c.event_id.in_(sa.bindparam("event_ids", expanding=True)))
_ACKNOWLEDGE: Final = sa.text(
    "INSERT INTO log_sink (name, size, acknowledged_at) VALUES (:name, :size, :now)"
    " ON CONFLICT (name) DO UPDATE SET size = excluded.size, acknowledged_at = excluded.acknowledged_at"
)
_WAITING: Final = (
    sa.select(log_pending.c.event_id, event.c.body, event.c.hash)
    .outerjoin(event, event.c.id == log_pending.c.event_id)
    .order_by(log_pending.c.event_id)
)
_ENTRIES: Final = (
    sa.select(log_leaf.c.position, log_leaf.c.event_id, log_leaf.c.hash, event.c.body, event.c.hash.label("event_hash"))
    .outerjoin(event, event.c.id == log_leaf.c.event_id)
    .order_by(log_leaf.c.position)
)


def pending(connection: sa.Connection, limit: int) -> list[PendingRow]:
    """The first `limit` events by id that wait for a place."""
    rows = connection.execute(_WAITING.limit(limit))
    return [PendingRow(row.event_id, row.body, None if row.hash is None else bytes(row.hash)) for row in rows]


def append_leaves(tx: Transaction, leaves: Sequence[LeafRow], nodes: Sequence[NodeRow]) -> bool:
    """Give events their places; False when one of them does not wait any more: then roll back.

    A position or event that stands in the log already raises IntegrityError: two servers cannot both extend it.
    """
    event_ids = [leaf.event_id for leaf in leaves]
    if tx.postgresql:
        columns = {
            "positions": [leaf.position for leaf in leaves],
            "event_ids": event_ids,
            "hashes": [leaf.hash for leaf in leaves],
        }
        tx.rows(_LEAVES_POSTGRESQL, columns)
        taken = len(tx.rows(_TAKE_POSTGRESQL, {"event_ids": event_ids}))
    else:
        tx.connection.execute(sa.insert(log_leaf), [leaf._asdict() for leaf in leaves])
        taken = tx.connection.execute(_TAKE, {"event_ids": event_ids}).rowcount
    if nodes:
        tx.connection.execute(sa.insert(log_node), [node._asdict() for node in nodes])
    return taken == len(leaves)


def size(connection: sa.Connection) -> int:
    """Entries in the log."""
    last = connection.execute(sa.select(sa.func.max(log_leaf.c.position))).scalar()
    return 0 if last is None else int(last) + 1


def stored_hashes(connection: sa.Connection, level: int, first: int, count: int) -> list[bytes]:
    """Up to `count` hashes of a level from `first` on: of leaves at level 0, else of nodes. Ends at the first gap."""
    table = log_leaf if level == 0 else log_node
    query = sa.select(table.c.position, table.c.hash).where(table.c.position >= first, table.c.position < first + count)
    if level:
        query = query.where(log_node.c.level == level)
    found: list[bytes] = []
    for position, hash_ in connection.execute(query.order_by(table.c.position)):
        if position != first + len(found):
            break
        found.append(bytes(hash_))
    return found


def entries(connection: sa.Connection, first: int, limit: int) -> list[EntryRow]:
    """Up to `limit` entries from position `first` on, in order."""
    rows = connection.execute(_ENTRIES.where(log_leaf.c.position >= first).limit(limit))
    return [
        EntryRow(row.position, row.event_id, bytes(row.hash), row.body, row.event_hash and bytes(row.event_hash))
        for row in rows
    ]


def waiting_after(connection: sa.Connection, event_id: str, limit: int) -> list[PendingRow]:
    """Up to `limit` events that wait, whose id sorts after `event_id`."""
    rows = connection.execute(_WAITING.where(log_pending.c.event_id > event_id).limit(limit))
    return [PendingRow(row.event_id, row.body, row.hash and bytes(row.hash)) for row in rows]


def strays(connection: sa.Connection, limit: int) -> Iterator[tuple[str, str, str]]:
    """Rows that no transaction of a server leaves: table, id, and what is wrong; up to `limit` of each kind."""
    no_place = (
        sa.select(event.c.id)
        .outerjoin(log_leaf, log_leaf.c.event_id == event.c.id)
        .outerjoin(log_pending, log_pending.c.event_id == event.c.id)
        .where(log_leaf.c.event_id.is_(None), log_pending.c.event_id.is_(None))
    )
    no_event = (
        sa.select(disclosure.c.event_id)
        .outerjoin(event, event.c.id == disclosure.c.event_id)
        .where(event.c.id.is_(None))
        .distinct()
    )
    before = sa.select(log_leaf.c.event_id).where(log_leaf.c.position < 0)
    twice = sa.select(log_pending.c.event_id).join(log_leaf, log_leaf.c.event_id == log_pending.c.event_id)
    for table, query, what in (
        ("event", no_place, "it has no place in the log and does not wait for one"),
        ("disclosure rows of event", no_event, "there is no such event"),
        ("event", before, "it stands before the log's first entry"),
        ("event", twice, "it waits for a place in the log and has one"),
    ):
        for (found,) in connection.execute(query.limit(limit)):
            yield table, str(found), what


def count_nodes(connection: sa.Connection) -> dict[int, int]:
    """Nodes by level."""
    query = sa.select(log_node.c.level, sa.func.count()).group_by(log_node.c.level)
    return {int(row[0]): int(row[1]) for row in connection.execute(query)}


def position_of(connection: sa.Connection, event_id: str) -> int | None:
    """Where an event stands in the log; None while it does not."""
    found = connection.execute(sa.select(log_leaf.c.position).where(log_leaf.c.event_id == event_id)).scalar()
    return None if found is None else int(found)


def nodes(connection: sa.Connection, level: int, first: int, limit: int) -> list[NodeRow]:
    """Up to `limit` nodes of a level from position `first` on, in order."""
    query = sa.select(log_node).where(log_node.c.level == level, log_node.c.position >= first)
    rows = connection.execute(query.order_by(log_node.c.position).limit(limit))
    return [NodeRow(row.level, row.position, bytes(row.hash)) for row in rows]


@contextmanager
def nodes_writable(connection: sa.Connection) -> Iterator[None]:
    """For the schema's owner: nodes may be changed during the block, and by nobody else meanwhile."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ALTER TABLE log_node DISABLE TRIGGER USER")
        yield
        connection.exec_driver_sql("ALTER TABLE log_node ENABLE TRIGGER USER")
        return
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'log_node'"
    triggers = connection.exec_driver_sql(query).all()
    for name, _ in triggers:
        connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
    yield
    for _, text in triggers:
        connection.exec_driver_sql(text)


def replace_node(connection: sa.Connection, node: NodeRow) -> None:
    """Put a node in the place of the one that is stored, or of none."""
    where = sa.and_(log_node.c.level == node.level, log_node.c.position == node.position)
    connection.execute(sa.delete(log_node).where(where))
    connection.execute(sa.insert(log_node), node._asdict())


def drop_nodes(connection: sa.Connection, level: int, first: int) -> None:
    """Delete the nodes of a level from position `first` on."""
    connection.execute(sa.delete(log_node).where(log_node.c.level == level, log_node.c.position >= first))


def insert_checkpoint(tx: Transaction, row: CheckpointRow) -> None:
    """Append a checkpoint."""
    tx.connection.execute(sa.insert(log_checkpoint), row._asdict())


def newest_checkpoint(connection: sa.Connection) -> CheckpointRow | None:
    """The last checkpoint; None before the first."""
    row = connection.execute(sa.select(log_checkpoint).order_by(log_checkpoint.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else CheckpointRow(*row)


def checkpoints(connection: sa.Connection, page: int = 1000) -> Iterator[CheckpointRow]:
    """All checkpoints by number, read a page at a time."""
    last = None
    while True:
        query = sa.select(log_checkpoint).order_by(log_checkpoint.c.number).limit(page)
        if last is not None:
            query = query.where(log_checkpoint.c.number > last)
        rows = [CheckpointRow(*row) for row in connection.execute(query)]
        yield from rows
        if len(rows) < page:
            return
        last = rows[-1].number


def holder(connection: sa.Connection, now_ms: int) -> str | None:
    """The server that may seal the log now; None when the lease has lapsed."""
    row = connection.execute(sa.select(log_lease.c.holder, log_lease.c.held_until)).one_or_none()
    held = row is not None and now_ms <= row.held_until <= now_ms + _LONGEST_HOLD_MS
    return row.holder if row is not None and held and row.holder else None


def claim(tx: Transaction, replica: str, hold_ms: int) -> bool:
    """Take the lease or keep it for `hold_ms` from now; False when another server has it."""
    # A lease far ahead was taken before the database's clock was set back.
    lapsed = sa.or_(log_lease.c.held_until < tx.now_ms, log_lease.c.held_until > tx.now_ms + _LONGEST_HOLD_MS)
    free = sa.or_(log_lease.c.holder == replica, lapsed)
    taken = sa.update(log_lease).where(free).values(holder=replica, held_until=tx.now_ms + hold_ms)
    return tx.connection.execute(taken).rowcount == 1


def release(tx: Transaction, replica: str) -> None:
    """Give the lease up, for another server to take at once."""
    tx.connection.execute(sa.update(log_lease).where(log_lease.c.holder == replica).values(held_until=0))


def acknowledge(tx: Transaction, name: str, entries_there: int, at_ms: int | None = None) -> None:
    """A place outside the database has the log's first `entries_there` entries, or a checkpoint over them.

    `at_ms` is as of when it has them, else now. What is written down late says nothing about the time since.
    """
    now = tx.now_ms if at_ms is None else min(at_ms, tx.now_ms)
    tx.connection.execute(_ACKNOWLEDGE, {"name": name, "size": entries_there, "now": now})


def sinks(connection: sa.Connection) -> dict[str, SinkRow]:
    """What every sink has acknowledged, by name."""
    return {row.name: SinkRow(*row) for row in connection.execute(sa.select(log_sink))}


def oldest_unsealed(connection: sa.Connection, covered: int) -> str | None:
    """The oldest event by id that is not among the `covered` first ones: next in the log, or waiting."""
    behind = sa.select(log_leaf.c.event_id).where(log_leaf.c.position == covered)
    waits = sa.select(sa.func.min(log_pending.c.event_id))
    found = [connection.execute(query).scalar() for query in (behind, waits)]
    return min((event_id for event_id in found if event_id is not None), default=None)
