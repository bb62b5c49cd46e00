"""The SQL floors: the same statements on the same rows through the driver alone, 1,000 rows a commit.

No encryption, no policy, no gRPC: what the database itself takes on this machine, now.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from vault_service.audit.event import new_event_id
from vault_service.tokens import draw_body

ROWS = 1000
_CIPHERTEXT_BYTES = 12 + 170 + 16
_WALK = (
    "SELECT token, ciphertext, blind_index FROM token_record WHERE domain = %s AND blind_index > %s"
    " AND index_version = 1 ORDER BY blind_index LIMIT %s FOR UPDATE"
)
_WALK_SQLITE = _WALK.replace("%s", "?").removesuffix(" FOR UPDATE")


def connect(url: str) -> Any:
    """A driver's own connection, with the settings the service uses."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database), isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


@contextmanager
def _transaction(connection: Any) -> Iterator[Any]:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
        return
    with connection.transaction():
        yield connection


def tokenize_new(connection: Any, commits: int) -> float:
    """Rows a second: look up 1,000 blind indexes, insert 1,000 records and one event, commit."""
    postgresql = not isinstance(connection, sqlite3.Connection)
    batches = [
        sorted((os.urandom(32), f"k12_{draw_body()}", os.urandom(_CIPHERTEXT_BYTES)) for _ in range(ROWS))
        for _ in range(commits)
    ]
    began = time.perf_counter()
    for batch in batches:
        indexes = [row[0] for row in batch]
        with _transaction(connection) as tx:
            _control(tx, postgresql)
            if postgresql:
                tx.execute(
                    "SELECT blind_index, token FROM token_record WHERE domain = %s AND index_version = %s"
                    " AND blind_index = ANY(CAST(%s AS bytea[]))",
                    ("bench", 1, indexes),
                ).fetchall()
                tx.execute(
                    "INSERT INTO token_record"
                    " (token, domain, index_version, blind_index, data_version, ciphertext, destroy_by)"
                    " SELECT new.token, %s, %s, new.blind_index, %s, new.ciphertext, %s"
                    " FROM unnest(CAST(%s AS text[]), CAST(%s AS bytea[]), CAST(%s AS bytea[]))"
                    " AS new (token, blind_index, ciphertext)"
                    " ON CONFLICT (domain, index_version, blind_index) DO NOTHING RETURNING blind_index",
                    ("bench", 1, 1, "2033-01-01", [r[1] for r in batch], indexes, [r[2] for r in batch]),
                ).fetchall()
            else:
                marks = ",".join("?" * len(indexes))
                tx.execute(
                    "SELECT blind_index, token FROM token_record WHERE domain = ? AND index_version = ?"
                    f" AND blind_index IN ({marks})",
                    ("bench", 1, *indexes),
                ).fetchall()
                tx.executemany(
                    "INSERT INTO token_record VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                    [(token, "bench", 1, index, 1, sealed, "2033-01-01") for index, token, sealed in batch],
                )
            _events(tx, postgresql, 1)
    return commits * ROWS / (time.perf_counter() - began)


def detokenize(connection: Any, tokens: list[str], commits: int, tokens_per_event: int) -> float:
    """Tokens a second: fetch 1,000 records, insert their events, disclosure rows and texts, spend, commit."""
    postgresql = not isinstance(connection, sqlite3.Connection)
    events = ROWS // tokens_per_event
    began = time.perf_counter()
    for number in range(commits):
        wanted = tokens[number * ROWS : (number + 1) * ROWS]
        with _transaction(connection) as tx:
            _control(tx, postgresql)
            if postgresql:
                tx.execute(
                    "INSERT INTO budget_account (key) VALUES (%s) ON CONFLICT (key) DO UPDATE SET key = excluded.key",
                    ("bench",),
                )
                tx.execute("SELECT sum(amount) FROM budget_spend WHERE key = %s AND minute >= %s", ("bench", 0))
                tx.execute(
                    "INSERT INTO budget_spend (key, minute, amount) VALUES (%s, %s, %s)"
                    " ON CONFLICT (key, minute) DO UPDATE SET amount = budget_spend.amount + excluded.amount",
                    ("bench", 1, ROWS),
                )
                tx.execute(
                    "SELECT token, data_version, ciphertext, blind_index FROM token_record"
                    " WHERE token = ANY(CAST(%s AS text[])) AND domain = %s",
                    (wanted, "k12"),
                ).fetchall()
            else:
                tx.execute("INSERT INTO budget_account (key) VALUES ('bench') ON CONFLICT (key) DO NOTHING")
                marks = ",".join("?" * len(wanted))
                tx.execute(
                    f"SELECT token, data_version, ciphertext, blind_index FROM token_record WHERE token IN ({marks})",
                    wanted,
                ).fetchall()
            ids = _events(tx, postgresql, events)
            salts = os.urandom(16 * ROWS).hex()
            rows = [
                (
                    ids[at // tokens_per_event],
                    at % tokens_per_event,
                    "k12",
                    token,
                    "found",
                    salts[32 * at : 32 * at + 32],
                )
                for at, token in enumerate(wanted)
            ]
            if postgresql:
                tx.execute(
                    "INSERT INTO disclosure (event_id, position, domain, token, outcome, salt)"
                    " SELECT * FROM unnest(CAST(%s AS text[]), CAST(%s AS integer[]), CAST(%s AS text[]),"
                    " CAST(%s AS text[]), CAST(%s AS text[]), CAST(%s AS text[]))",
                    tuple(map(list, zip(*rows, strict=True))),
                )
            else:
                tx.executemany("INSERT INTO disclosure VALUES (?, ?, ?, ?, ?, ?)", rows)
            texts = [(id_, "justification", salts[:32], "measuring the speed of this call") for id_ in ids]
            if postgresql:
                tx.execute(
                    "INSERT INTO event_text (event_id, name, salt, text) SELECT * FROM unnest(CAST(%s AS text[]),"
                    " CAST(%s AS text[]), CAST(%s AS text[]), CAST(%s AS text[]))",
                    tuple(map(list, zip(*texts, strict=True))),
                )
            else:
                tx.executemany("INSERT INTO event_text VALUES (?, ?, ?, ?)", texts)
    return commits * ROWS / (time.perf_counter() - began)


def move(connection: Any, domain: str, rows_per_commit: int) -> float:
    """Rows a second: walk a domain's records in the order of their index and write each one's own bytes anew."""
    postgresql = not isinstance(connection, sqlite3.Connection)
    after, moved, began = b"", 0, time.perf_counter()
    while True:
        with _transaction(connection) as tx:
            _control(tx, postgresql)
            found = tx.execute(_WALK if postgresql else _WALK_SQLITE, (domain, after, rows_per_commit)).fetchall()
            if postgresql:
                tx.execute(
                    "UPDATE token_record SET ciphertext = new.ciphertext"
                    " FROM unnest(CAST(%s AS text[]), CAST(%s AS bytea[])) AS new (token, ciphertext)"
                    " WHERE token_record.token = new.token",
                    ([row[0] for row in found], [row[1] for row in found]),
                )
            else:
                tx.executemany(
                    "UPDATE token_record SET ciphertext = ? WHERE token = ?", [(row[1], row[0]) for row in found]
                )
        moved += len(found)
        if len(found) < rows_per_commit:
            return moved / (time.perf_counter() - began)
        after = found[-1][2]


def look_up(connection: Any, tokens: list[str], commits: int) -> float:
    """Rows a second: one bare select of 1,000 records by token, which linkage begins with."""
    postgresql = not isinstance(connection, sqlite3.Connection)
    began = time.perf_counter()
    for number in range(commits):
        wanted = tokens[number * ROWS : (number + 1) * ROWS]
        if postgresql:
            connection.execute(
                "SELECT token, data_version, ciphertext, blind_index FROM token_record"
                " WHERE token = ANY(CAST(%s AS text[])) AND domain = %s",
                (wanted, "highered"),
            ).fetchall()
        else:
            marks = ",".join("?" * len(wanted))
            connection.execute(
                f"SELECT token, data_version, ciphertext, blind_index FROM token_record WHERE token IN ({marks})",
                wanted,
            ).fetchall()
    return commits * ROWS / (time.perf_counter() - began)


def _control(tx: Any, postgresql: bool) -> None:
    if postgresql:
        tx.execute("SELECT pg_advisory_xact_lock_shared(4711)")
    tx.execute("SELECT epoch FROM control WHERE id = 1").fetchone()


def _events(tx: Any, postgresql: bool, number: int) -> list[str]:
    ids = [new_event_id() for _ in range(number)]
    body = '{"at":1795483567008,"client":"sis","disclosures":0,"domain":"k12","kind":"tokenize","outcome":"ok"}' * 2
    hashes = [hashlib.sha256(body.encode()).digest()] * number
    if postgresql:
        tx.execute(
            "INSERT INTO event (id, body, hash)"
            " SELECT * FROM unnest(CAST(%s AS text[]), CAST(%s AS text[]), CAST(%s AS bytea[]))",
            (ids, [body] * number, hashes),
        )
    else:
        tx.executemany("INSERT INTO event VALUES (?, ?, ?)", list(zip(ids, [body] * number, hashes, strict=True)))
    return ids
