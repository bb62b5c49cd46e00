"""Token records: set-based look-up, insertion and fetching. One repository, two dialects.

Blind indexes, tokens and ciphertexts come in and go out; nothing here can open one. Rows are written sorted
by blind index, so that transactions which overlap wait for each other instead of deadlocking.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import sqlalchemy as sa

from vault_service.storage.engine import Statement, Transaction
from vault_service.storage.tables import token_record
from vault_service.tokens import Token


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be inserted, or the new content of one that is there."""

    blind_index: bytes
    token: Token
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """What is needed to open a record."""

    data_version: int
    ciphertext: bytes
    blind_index: bytes


_FIND_POSTGRESQL: Final = (
    "SELECT blind_index, token FROM token_record"
    " WHERE domain = %(domain)s AND index_version = ANY(CAST(%(versions)s AS integer[]))"
    " AND blind_index = ANY(CAST(%(indexes)s AS bytea[]))"
)
_FIND: Final = (
    sa.select(token_record.c.blind_index, token_record.c.token)
    .where(token_record.c.domain == sa.bindparam("domain"))
    .where(token_record.c.index_version.in_(sa.bindparam("versions", expanding=True)))
    .where(token_record.c.blind_index.in_(sa.bindparam("indexes", expanding=True)))
)
# The conflict target is named: a bare ON CONFLICT would also swallow a token drawn twice.
_INSERT_POSTGRESQL: Final = (
    "INSERT INTO token_record"
    " (token, domain, index_version, blind_index, data_version, ciphertext, destroy_by)"
    " SELECT new.token, %(domain)s, %(index_version)s, new.blind_index, %(data_version)s, new.ciphertext,"
    " %(destroy_by)s"
    " FROM unnest(CAST(%(tokens)s AS text[]), CAST(%(indexes)s AS bytea[]), CAST(%(ciphertexts)s AS bytea[]))"
    " AS new (token, blind_index, ciphertext)"
    " ON CONFLICT (domain, index_version, blind_index) DO NOTHING RETURNING blind_index"
)
_INSERT: Final = sa.text(
    "INSERT INTO token_record"
    " (token, domain, index_version, blind_index, data_version, ciphertext, destroy_by)"
    " VALUES (:token, :domain, :index_version, :blind_index, :data_version, :ciphertext, :destroy_by)"
)
_REPLACE_POSTGRESQL: Final = (
    "UPDATE token_record SET data_version = %(data_version)s, ciphertext = new.ciphertext, set_aside = NULL"
    " FROM unnest(CAST(%(tokens)s AS text[]), CAST(%(indexes)s AS bytea[]), CAST(%(ciphertexts)s AS bytea[]))"
    " AS new (token, blind_index, ciphertext)"
    " WHERE token_record.token = new.token AND token_record.blind_index = new.blind_index"
    " RETURNING 1"
)
_REPLACE: Final = sa.text(
    "UPDATE token_record SET data_version = :data_version, ciphertext = :ciphertext, set_aside = NULL"
    " WHERE token = :token AND blind_index = :blind_index"
)
_LOCK_POSTGRESQL: Final = (
    "SELECT token, blind_index FROM token_record WHERE token = ANY(CAST(%(tokens)s AS text[]))"
    " ORDER BY blind_index FOR UPDATE"
)
_PLACES: Final = sa.select(token_record.c.token, token_record.c.blind_index).where(
    token_record.c.token.in_(sa.bindparam("tokens", expanding=True))
)
_FETCH_POSTGRESQL: Final = (
    "SELECT token, data_version, ciphertext, blind_index FROM token_record"
    " WHERE token = ANY(CAST(%(tokens)s AS text[])) AND domain = %(domain)s"
)
_FETCH: Final = (
    sa.select(
        token_record.c.token,
        token_record.c.data_version,
        token_record.c.ciphertext,
        token_record.c.blind_index,
    )
    .where(token_record.c.token.in_(sa.bindparam("tokens", expanding=True)))
    .where(token_record.c.domain == sa.bindparam("domain"))
)
_Value = TypeVar("_Value")
_AT_ONCE: Final = 10_000  # values in one SQLite statement; its limit is 32,766


def look_up(domain: str, versions: Sequence[int], indexes: Sequence[bytes]) -> Statement:
    """PostgreSQL's statement for `find_tokens`, to be sent ahead; its rows are pairs of blind index and token."""
    return _FIND_POSTGRESQL, {"domain": domain, "versions": list(versions), "indexes": list(indexes)}


def find_tokens(tx: Transaction, domain: str, versions: Sequence[int], indexes: Sequence[bytes]) -> dict[bytes, Token]:
    """The tokens of those blind indexes that are there, whichever of the index `versions` they belong to.

    One statement for all versions: a record that a re-index moves meanwhile is seen before or after, never missed.
    """
    if tx.postgresql:
        return dict(tx.rows(*look_up(domain, versions, indexes)))
    found: dict[bytes, Token] = {}
    for part in _parts(indexes):
        parameters = {"domain": domain, "versions": list(versions), "indexes": part}
        found.update({row.blind_index: row.token for row in tx.connection.execute(_FIND, parameters)})
    return found


def insert_records(
    tx: Transaction,
    domain: str,
    *,
    index_version: int,
    data_version: int,
    destroy_by: str,
    records: Iterable[NewRecord],
) -> set[bytes]:
    """Insert what is not there yet; the blind indexes that were inserted. Others won the race for the rest.

    A token that is taken already raises IntegrityError: the caller draws anew.
    """
    ordered = sorted(records, key=lambda record: record.blind_index)
    if not ordered:
        return set()
    common = {
        "domain": domain,
        "index_version": index_version,
        "data_version": data_version,
        "destroy_by": destroy_by,
    }
    if tx.postgresql:
        columns = {
            "tokens": [record.token for record in ordered],
            "indexes": [record.blind_index for record in ordered],
            "ciphertexts": [record.ciphertext for record in ordered],
        }
        return {index for (index,) in tx.rows(_INSERT_POSTGRESQL, common | columns)}
    # One writer at a time: nobody can have inserted since the look-up in this transaction.
    rows = [
        {
            **common,
            "token": record.token,
            "blind_index": record.blind_index,
            "ciphertext": record.ciphertext,
        }
        for record in ordered
    ]
    tx.connection.execute(_INSERT, rows)
    return {record.blind_index for record in ordered}


def lock_records(tx: Transaction, tokens: Sequence[Token]) -> dict[Token, bytes]:
    """Lock the records of these tokens until the transaction ends; the blind index that each has now.

    A re-encryption may have moved one since it was looked up: only what is said here may be encrypted to.
    Locked in one order, so that calls that overlap do not deadlock; an UPDATE locks rows as it meets them.
    """
    if tx.postgresql:
        return dict(tx.rows(_LOCK_POSTGRESQL, {"tokens": list(tokens)}))
    found: dict[Token, bytes] = {}
    for part in _parts(tokens):  # one writer at a time: nobody else can change them
        found.update({row.token: row.blind_index for row in tx.connection.execute(_PLACES, {"tokens": part})})
    return found


def replace_payloads(tx: Transaction, data_version: int, payloads: Sequence[NewRecord]) -> int:
    """Put new ciphertexts, all of `data_version`, in place of the old ones; how many were put there.

    Only a record that still is at the blind index that its ciphertext is bound to gets it.
    """
    if not payloads:
        return 0
    if tx.postgresql:
        parameters = {
            "data_version": data_version,
            "tokens": [payload.token for payload in payloads],
            "indexes": [payload.blind_index for payload in payloads],
            "ciphertexts": [payload.ciphertext for payload in payloads],
        }
        return len(tx.rows(_REPLACE_POSTGRESQL, parameters))
    rows = [
        {"data_version": data_version, "token": p.token, "blind_index": p.blind_index, "ciphertext": p.ciphertext}
        for p in payloads
    ]
    return tx.connection.execute(_REPLACE, rows).rowcount


def fetch_payloads(tx: Transaction, domain: str, tokens: Sequence[Token]) -> dict[Token, StoredPayload]:
    """The payloads of those tokens of `domain` that are there."""
    if tx.postgresql:
        rows = tx.rows(_FETCH_POSTGRESQL, {"tokens": list(tokens), "domain": domain})
    else:
        rows = []
        for part in _parts(tokens):
            rows += map(tuple, tx.connection.execute(_FETCH, {"tokens": part, "domain": domain}))
    return {row[0]: StoredPayload(*row[1:]) for row in rows}


def _parts(values: Sequence[_Value]) -> Iterable[Sequence[_Value]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
