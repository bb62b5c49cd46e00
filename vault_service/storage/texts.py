"""Texts that people wrote, beside the events and orders that carry their hashes. Rows in and out."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import event_text, order_text


class TextRow(NamedTuple):
    """The text `name` of an event or order (`of`, its id); `salt` is 32 hex digits."""

    of: str
    name: str
    salt: str
    text: str


_EVENT_TEXTS_POSTGRESQL: Final = (
    "INSERT INTO event_text (event_id, name, salt, text) SELECT * FROM unnest(CAST(%(ids)s AS text[]),"
    " CAST(%(names)s AS text[]), CAST(%(salts)s AS text[]), CAST(%(texts)s AS text[]))"
)


def insert_event_texts(tx: Transaction, rows: Sequence[TextRow]) -> None:
    """Keep the texts of events; on PostgreSQL they travel with the commit."""
    if not rows:
        return
    if tx.postgresql:
        columns = map(list, zip(*rows, strict=True))
        tx.with_commit(_EVENT_TEXTS_POSTGRESQL, dict(zip(("ids", "names", "salts", "texts"), columns, strict=True)))
    else:
        columns_of = [{"event_id": row.of, "name": row.name, "salt": row.salt, "text": row.text} for row in rows]
        tx.connection.execute(sa.insert(event_text), columns_of)


def insert_order_texts(connection: sa.Connection, rows: Sequence[TextRow]) -> None:
    """Keep the texts of an order."""
    for row in rows:
        values = {"order_id": row.of, "name": row.name, "salt": row.salt, "text": row.text}
        connection.execute(sa.insert(order_text), values)


def texts_of_events(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[TextRow]]:
    """The texts of these events, by event; events without any are left out. At most 10,000 events."""
    return _by_owner(connection, sa.select(event_text).where(event_text.c.event_id.in_(ids)))


def texts_of_orders(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[TextRow]]:
    """The texts of these orders, by order."""
    return _by_owner(connection, sa.select(order_text).where(order_text.c.order_id.in_(ids)))


def _by_owner(connection: sa.Connection, query: "sa.Select[Any]") -> dict[str, list[TextRow]]:
    found: dict[str, list[TextRow]] = {}
    for row in sorted(TextRow(*row) for row in connection.execute(query)):
        found.setdefault(row.of, []).append(row)
    return found
