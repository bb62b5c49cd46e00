"""Rows under older key versions: finding them in the order of an index, and putting moved ones in place.

Ciphertexts and blind indexes come in and go out; nothing here can open one.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import damaged_row, encryption_count, linkage_id, linkage_record, token_record
from vault_service.tokens import Token


class OldRecord(NamedTuple):
    """A token record as it stands."""

    token: Token
    blind_index: bytes
    data_version: int
    ciphertext: bytes


class MovedRecord(NamedTuple):
    """The same record under newer keys, and the blind index at which it was read."""

    token: Token
    before: bytes
    blind_index: bytes
    ciphertext: bytes


_WALK_POSTGRESQL: Final = (
    "SELECT token, blind_index, data_version, ciphertext FROM token_record"
    " WHERE domain = %(domain)s AND index_version = %(version)s AND blind_index > %(after)s"
    " AND set_aside IS NULL ORDER BY blind_index LIMIT %(limit)s"
)
_MOVE_POSTGRESQL: Final = (
    "UPDATE token_record SET index_version = %(index_version)s, data_version = %(data_version)s,"
    " blind_index = new.blind_index, ciphertext = new.ciphertext"
    " FROM unnest(CAST(%(tokens)s AS text[]), CAST(%(before)s AS bytea[]), CAST(%(indexes)s AS bytea[]),"
    " CAST(%(ciphertexts)s AS bytea[])) AS new (token, before, blind_index, ciphertext)"
    " WHERE token_record.token = new.token AND token_record.blind_index = new.before RETURNING 1"
)
_MOVE: Final = sa.text(
    "UPDATE token_record SET index_version = :index_version, data_version = :data_version,"
    " blind_index = :blind_index, ciphertext = :ciphertext WHERE token = :token AND blind_index = :before"
)


def walk_records(
    tx: Transaction, domain: str, index_version: int, after: bytes, limit: int, *, lock: bool
) -> list[OldRecord]:
    """The next `limit` records of one index version, in the order of their blind indexes.

    `lock` keeps others from changing them until the transaction ends, locked in the order in which calls lock.
    """
    if tx.postgresql:
        statement = _WALK_POSTGRESQL + (" FOR UPDATE" if lock else "")
        parameters = {"domain": domain, "version": index_version, "after": after, "limit": limit}
        return [OldRecord(*row) for row in tx.rows(statement, parameters)]
    record = token_record.c
    query = (
        sa.select(record.token, record.blind_index, record.data_version, record.ciphertext)
        .where(record.domain == domain, record.index_version == index_version, record.blind_index > after)
        .where(record.set_aside.is_(None))
        .order_by(record.blind_index)
        .limit(limit)
    )
    return [OldRecord(*row) for row in tx.connection.execute(query)]


def move_records(tx: Transaction, index_version: int, data_version: int, moved: Sequence[MovedRecord]) -> int:
    """Put records under these versions; how many were still where they were read.

    They were walked and locked in this transaction: any other number means that they were not.
    """
    if not moved:
        return 0
    versions = {"index_version": index_version, "data_version": data_version}
    if tx.postgresql:
        tokens, before, indexes, ciphertexts = map(list, zip(*moved, strict=True))
        columns = {"tokens": tokens, "before": before, "indexes": indexes, "ciphertexts": ciphertexts}
        return len(tx.rows(_MOVE_POSTGRESQL, {**versions, **columns}))
    return tx.connection.execute(_MOVE, [{**versions, **record._asdict()} for record in moved]).rowcount


def move_linkage_ids(tx: Transaction, agreement: str, version: int, moved: Mapping[bytes, bytes]) -> int:
    """Put linkage ids under another index: `moved` has the new one of each old one, which are all different."""
    if not moved:
        return 0
    table = linkage_id.c
    statement = (
        sa.update(linkage_id)
        .where(table.agreement == agreement, table.key_version < version, table.blind_index == sa.bindparam("old"))
        .values(key_version=version, blind_index=sa.bindparam("new"))
    )
    rows = [{"old": old, "new": new} for old, new in sorted(moved.items())]
    return sum(tx.connection.execute(statement, row).rowcount for row in rows)


def find_old_linkage_ids(tx: Transaction, agreement: str, version: int, indexes: Sequence[bytes]) -> list[bytes]:
    """Those of `indexes` that have a linkage id under a version older than `version`."""
    table = linkage_id.c
    query = sa.select(table.blind_index).where(table.agreement == agreement, table.key_version < version)
    return list(tx.connection.execute(query.where(table.blind_index.in_(list(indexes)))).scalars())


def drop_old_linkage_ids(tx: Transaction, agreement: str, version: int) -> int:
    """Delete the linkage ids that are left under older versions; how many there were."""
    table = linkage_id.c
    left = sa.delete(linkage_id).where(table.agreement == agreement, table.key_version < version)
    return tx.connection.execute(left).rowcount


def walk_linkage_records(
    tx: Transaction, agreement: str, version: int, after: str, limit: int
) -> list[tuple[str, int, bytes]]:
    """The next sealed lists under older versions: event id, key version, ciphertext."""
    table = linkage_record.c
    query = (
        sa.select(table.event_id, table.key_version, table.ciphertext)
        .where(table.agreement == agreement, table.key_version < version, table.event_id > after)
        .where(table.set_aside.is_(None))
        .order_by(table.event_id)
        .limit(limit)
    )
    return [(row.event_id, row.key_version, row.ciphertext) for row in tx.connection.execute(query)]


def move_linkage_records(tx: Transaction, version: int, sealed: Mapping[str, bytes]) -> int:
    """Put lists under the key `version`, by event; how many were still under an older one."""
    if not sealed:
        return 0
    statement = (
        sa.update(linkage_record)
        .where(linkage_record.c.event_id == sa.bindparam("event"), linkage_record.c.key_version < version)
        .values(key_version=version, ciphertext=sa.bindparam("sealed"))
    )
    rows = [{"event": event, "sealed": ciphertext} for event, ciphertext in sealed.items()]
    return tx.connection.execute(statement, rows).rowcount


# Rows that do not open


class DamagedRow(NamedTuple):
    """A row that did not open when a job met it: a token of a domain, or the event of an agreement's list."""

    scope: str
    name: str
    found_at: int  # ms
    set_aside: str | None  # the order


_DAMAGED: Final = sa.text(
    "INSERT INTO damaged_row (scope, name, found_at) VALUES (:scope, :name, :now) ON CONFLICT (scope, name) DO NOTHING"
)


def note_damaged(tx: Transaction, scope: str, names: Sequence[str]) -> None:
    """These rows of a domain or an agreement do not open."""
    if names:
        tx.connection.execute(_DAMAGED, [{"scope": scope, "name": name, "now": tx.now_ms} for name in sorted(names)])


def forget_mended(tx: Transaction, scope: str, data_version: int, index_version: int) -> None:
    """Those that a domain's job met and that are under these versions now, or gone, are damaged no more."""
    record, found = token_record.c, damaged_row.c
    behind = sa.or_(record.data_version != data_version, record.index_version != index_version)
    still = sa.exists().where(record.token == found.name, behind)
    tx.connection.execute(sa.delete(damaged_row).where(found.scope == scope, found.set_aside.is_(None), ~still))


def damaged_rows(connection: sa.Connection) -> list[DamagedRow]:
    """All of them, those that were set aside as well."""
    query = sa.select(damaged_row).order_by(damaged_row.c.scope, damaged_row.c.name)
    return [DamagedRow(*row) for row in connection.execute(query)]


def lists_of(connection: sa.Connection, agreement: str, event_ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """The sealed lists of these events of an agreement: key version and ciphertext."""
    table = linkage_record.c
    query = sa.select(table.event_id, table.key_version, table.ciphertext)
    query = query.where(table.agreement == agreement, table.event_id.in_(list(event_ids)))
    return {row.event_id: (row.key_version, row.ciphertext) for row in connection.execute(query)}


def set_aside(tx: Transaction, scope: str, names: Sequence[str], order_id: str, *, lists: bool) -> None:
    """Rows of a domain (by token) or lists of an agreement (by event) keep no key version in use any more."""
    note_damaged(tx, scope, names)
    for name in sorted(names):
        if lists:
            change = sa.update(linkage_record).where(linkage_record.c.event_id == name)
        else:
            change = sa.update(token_record).where(token_record.c.token == name)
        tx.connection.execute(change.values(set_aside=order_id))
        noted = sa.update(damaged_row).where(damaged_row.c.scope == scope, damaged_row.c.name == name)
        tx.connection.execute(noted.values(set_aside=order_id))


def rows_using(connection: sa.Connection, scope: str, kind: str, version: int) -> bool:
    """Whether any row is under this key version. No new one can be, once the version is no longer active."""
    record, ids, lists = token_record.c, linkage_id.c, linkage_record.c
    column = record.data_version if kind == "data" else record.index_version
    found = [sa.exists().where(record.domain == scope, column == version, record.set_aside.is_(None))]
    if kind == "index":
        found.append(sa.exists().where(ids.agreement == scope, ids.key_version == version))
        there = sa.exists().where(lists.agreement == scope, lists.key_version == version, lists.set_aside.is_(None))
        found.append(there)
    return bool(connection.execute(sa.select(sa.or_(*found))).scalar_one())


def rows_behind(connection: sa.Connection, scope: str, data_version: int, index_version: int) -> int:
    """How many rows of a domain or an agreement are under other versions than these."""
    record, ids, lists = token_record.c, linkage_id.c, linkage_record.c
    behind = sa.or_(record.data_version != data_version, record.index_version != index_version)
    counts = [
        sa.select(sa.func.count()).where(record.domain == scope, behind, record.set_aside.is_(None)).scalar_subquery(),
        sa.select(sa.func.count()).where(ids.agreement == scope, ids.key_version != index_version).scalar_subquery(),
        sa.select(sa.func.count())
        .where(lists.agreement == scope, lists.key_version != index_version, lists.set_aside.is_(None))
        .scalar_subquery(),
    ]
    return sum(connection.execute(sa.select(*counts)).one())


_RESERVE: Final = sa.text(
    "INSERT INTO encryption_count (domain, version, reserved) VALUES (:domain, :version, :count)"
    " ON CONFLICT (domain, version) DO UPDATE SET reserved = encryption_count.reserved + excluded.reserved"
    " RETURNING reserved"
)


def reserve_encryptions(tx: Transaction, domain: str, version: int, count: int) -> int:
    """Count `count` encryptions under a data key ahead; how many were counted in all."""
    parameters = {"domain": domain, "version": version, "count": count}
    return int(tx.connection.execute(_RESERVE, parameters).scalar_one())


def counted_encryptions(connection: sa.Connection) -> dict[tuple[str, int], int]:
    """Encryptions counted under each domain's data key versions."""
    return {(row.domain, row.version): row.reserved for row in connection.execute(sa.select(encryption_count))}
