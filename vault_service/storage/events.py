"""The disclosure record's tables: appending events with their disclosure rows, and reading them back."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import disclosure, event, log_pending
from vault_service.storage.texts import TextRow, insert_event_texts


class EventRow(NamedTuple):
    """One event: UUIDv7, canonical JSON, SHA-256 of it."""

    id: str
    body: str
    hash: bytes


class DisclosureRow(NamedTuple):
    """One token of one event. `outcome` is `found`, `missing` or `matched`; `salt` is 32 hex digits."""

    event_id: str
    position: int
    domain: str
    token: str
    outcome: str
    salt: str


# Each event waits for its place in the log from the moment it is there.
_EVENTS_POSTGRESQL: Final = (
    "WITH added AS (INSERT INTO event (id, body, hash)"
    " SELECT * FROM unnest(CAST(%(ids)s AS text[]), CAST(%(bodies)s AS text[]), CAST(%(hashes)s AS bytea[]))"
    " RETURNING id) INSERT INTO log_pending (event_id) SELECT id FROM added"
)
_DISCLOSURES_POSTGRESQL: Final = (
    "INSERT INTO disclosure (event_id, position, domain, token, outcome, salt)"
    " SELECT * FROM unnest(CAST(%(event_ids)s AS text[]), CAST(%(positions)s AS integer[]),"
    " CAST(%(domains)s AS text[]), CAST(%(tokens)s AS text[]), CAST(%(outcomes)s AS text[]), CAST(%(salts)s AS text[]))"
)
_EVENTS: Final = sa.insert(event)
_PENDING: Final = sa.insert(log_pending)
_DISCLOSURES: Final = sa.insert(disclosure)


def append(
    tx: Transaction, events: Sequence[EventRow], disclosures: Sequence[DisclosureRow], texts: Sequence[TextRow] = ()
) -> None:
    """Append events with their disclosure rows and texts; on PostgreSQL they travel with the commit."""
    insert_event_texts(tx, texts)
    if events:
        if tx.postgresql:
            ids, bodies, hashes = map(list, zip(*events, strict=True))
            tx.with_commit(_EVENTS_POSTGRESQL, {"ids": ids, "bodies": bodies, "hashes": hashes})
        else:
            tx.connection.execute(_EVENTS, [row._asdict() for row in events])
            tx.connection.execute(_PENDING, [{"event_id": row.id} for row in events])
    if disclosures:
        if tx.postgresql:
            names = ("event_ids", "positions", "domains", "tokens", "outcomes", "salts")
            columns = map(list, zip(*disclosures, strict=True))
            tx.with_commit(_DISCLOSURES_POSTGRESQL, dict(zip(names, columns, strict=True)))
        else:
            tx.connection.execute(_DISCLOSURES, [row._asdict() for row in disclosures])


def newest(connection: sa.Connection, limit: int) -> list[EventRow]:
    """The last `limit` events, oldest first."""
    rows = connection.execute(sa.select(event).order_by(event.c.id.desc()).limit(limit))
    return [EventRow(*row) for row in reversed(rows.all())]


def after(connection: sa.Connection, event_id: str, limit: int) -> list[EventRow]:
    """Up to `limit` events whose id sorts after `event_id`."""
    rows = connection.execute(sa.select(event).where(event.c.id > event_id).order_by(event.c.id).limit(limit))
    return [EventRow(*row) for row in rows]


def body_of(connection: sa.Connection, event_id: str) -> str | None:
    """The body of one event; None when there is none."""
    return connection.execute(sa.select(event.c.body).where(event.c.id == event_id)).scalar()


def disclosures_of_event(connection: sa.Connection, event_id: str) -> list[DisclosureRow]:
    """The disclosure rows of one event, in order."""
    query = sa.select(disclosure).where(disclosure.c.event_id == event_id).order_by(disclosure.c.position)
    return [DisclosureRow(*row) for row in connection.execute(query)]


def disclosures_of_events(connection: sa.Connection, event_ids: Sequence[str]) -> dict[str, list[DisclosureRow]]:
    """The disclosure rows of these events, in order; events without any are left out. At most 10,000 events."""
    query = sa.select(disclosure).where(disclosure.c.event_id.in_(event_ids))
    found: dict[str, list[DisclosureRow]] = {}
    for row in connection.execute(query.order_by(disclosure.c.event_id, disclosure.c.position)):
        found.setdefault(row.event_id, []).append(DisclosureRow(*row))
    return found
