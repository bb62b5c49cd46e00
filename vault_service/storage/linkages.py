"""Linkage ids: one random id a person and agreement, found again by the agreement's own blind index."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import linkage_id, linkage_record


class LinkageRecordRow(NamedTuple):
    """The tokens that one linkage event asked about, encrypted under the agreement's key."""

    event_id: str
    agreement: str
    key_version: int
    ciphertext: bytes


_FIND: Final = (
    sa.select(linkage_id.c.blind_index, linkage_id.c.linkage_id)
    .where(linkage_id.c.agreement == sa.bindparam("agreement"))
    .where(linkage_id.c.key_version == sa.bindparam("version"))
    .where(linkage_id.c.blind_index.in_(sa.bindparam("indexes", expanding=True)))
)
_FIND_POSTGRESQL: Final = (
    "SELECT blind_index, linkage_id FROM linkage_id WHERE agreement = %(agreement)s AND key_version = %(version)s"
    " AND blind_index = ANY(CAST(%(indexes)s AS bytea[]))"
)
_INSERT_POSTGRESQL: Final = (
    "INSERT INTO linkage_id (agreement, key_version, blind_index, linkage_id)"
    " SELECT %(agreement)s, %(version)s, new.blind_index, new.linkage_id"
    " FROM unnest(CAST(%(indexes)s AS bytea[]), CAST(%(ids)s AS text[])) AS new (blind_index, linkage_id)"
    " ON CONFLICT (agreement, key_version, blind_index) DO NOTHING"
)
_INSERT: Final = sa.text(
    "INSERT INTO linkage_id (agreement, key_version, blind_index, linkage_id)"
    " VALUES (:agreement, :version, :blind_index, :linkage_id)"
    " ON CONFLICT (agreement, key_version, blind_index) DO NOTHING"
)

_RECORDS_POSTGRESQL: Final = (
    "INSERT INTO linkage_record (event_id, agreement, key_version, ciphertext)"
    " SELECT * FROM unnest(CAST(%(event_ids)s AS text[]), CAST(%(agreements)s AS text[]),"
    " CAST(%(versions)s AS integer[]), CAST(%(ciphertexts)s AS bytea[]))"
)


def find_linkage_ids(tx: Transaction, agreement: str, key_version: int, indexes: Sequence[bytes]) -> dict[bytes, str]:
    """The linkage ids of those blind indexes that have one."""
    if not indexes:
        return {}
    parameters = {"agreement": agreement, "version": key_version, "indexes": list(indexes)}
    if tx.postgresql:
        return dict(tx.rows(_FIND_POSTGRESQL, parameters))
    return {row.blind_index: row.linkage_id for row in tx.connection.execute(_FIND, parameters)}


def insert_linkage_ids(tx: Transaction, agreement: str, key_version: int, new: Mapping[bytes, str]) -> None:
    """Insert ids for blind indexes that have none; an id that another call just made stands."""
    if not new:
        return
    common = {"agreement": agreement, "version": key_version}
    ordered = sorted(new.items())
    if tx.postgresql:
        columns = {"indexes": [index for index, _ in ordered], "ids": [name for _, name in ordered]}
        tx.rows(_INSERT_POSTGRESQL, common | columns)
    else:
        rows = [{**common, "blind_index": index, "linkage_id": name} for index, name in ordered]
        tx.connection.execute(_INSERT, rows)


def linked_events(connection: sa.Connection, event_ids: Sequence[str]) -> frozenset[str]:
    """Those of the events that have a list of tokens. At most 10,000 events."""
    query = sa.select(linkage_record.c.event_id).where(linkage_record.c.event_id.in_(event_ids))
    return frozenset(connection.execute(query).scalars())


def insert_linkage_records(tx: Transaction, rows: Sequence[LinkageRecordRow]) -> None:
    """Keep the encrypted lists of tokens that linkage calls asked about."""
    if not rows:
        return
    if tx.postgresql:
        names = ("event_ids", "agreements", "versions", "ciphertexts")
        columns = map(list, zip(*rows, strict=True))
        tx.with_commit(_RECORDS_POSTGRESQL, dict(zip(names, columns, strict=True)))  # behind its event
    else:
        tx.connection.execute(sa.insert(linkage_record), [row._asdict() for row in rows])
