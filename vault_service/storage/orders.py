"""Orders, their signatures, outcomes, and the log of those in force. Rows in and out; nothing is verified here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import admin_order, control, control_log, order_outcome, order_signature
from vault_service.storage.texts import TextRow, insert_order_texts, texts_of_orders


class SignatureRow(NamedTuple):
    """One person's Ed25519 signature over an order."""

    person: str
    key_version: int
    signature: bytes


class OutcomeRow(NamedTuple):
    """What became of an order: `done` or `refused`, with words."""

    outcome: str
    detail: str
    at: int


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order as it stands in the database."""

    id: str
    body: str
    signatures: tuple[SignatureRow, ...]
    outcome: OutcomeRow | None
    position: int | None  # in the log of orders in force
    applied_at: int | None
    texts: tuple[TextRow, ...] = ()


def insert_order(connection: sa.Connection, order_id: str, body: str, texts: Sequence[TextRow] = ()) -> None:
    """Ask: put a new order in, with what a person wrote for it."""
    connection.execute(sa.insert(admin_order), {"id": order_id, "body": body})
    insert_order_texts(connection, texts)


def insert_signature(connection: sa.Connection, order_id: str, row: SignatureRow) -> None:
    """Add one person's signature; IntegrityError when that person has signed."""
    connection.execute(sa.insert(order_signature), {"order_id": order_id, **row._asdict()})


def undecided(connection: sa.Connection) -> list[str]:
    """Ids of the orders that have no outcome yet."""
    query = (
        sa.select(admin_order.c.id)
        .outerjoin(order_outcome, order_outcome.c.order_id == admin_order.c.id)
        .where(order_outcome.c.order_id.is_(None))
    )
    return list(connection.execute(query).scalars())


def read_orders(connection: sa.Connection, ids: Sequence[str]) -> list[OrderRow]:
    """The orders of these ids, in no order."""
    return _rows(connection, admin_order.c.id.in_(list(ids)))


def newest_orders(connection: sa.Connection, limit: int) -> list[OrderRow]:
    """The last `limit` orders by id (UUIDv7), newest first."""
    ids = connection.execute(sa.select(admin_order.c.id).order_by(admin_order.c.id.desc()).limit(limit)).scalars()
    return sorted(read_orders(connection, list(ids)), key=lambda row: row.id, reverse=True)


def all_orders(connection: sa.Connection, page: int = 100) -> Iterator[OrderRow]:
    """Every order by id, whatever became of it, read a page at a time."""
    last = ""
    while rows := newer_orders(connection, last, page):
        yield from rows
        last = rows[-1].id


def newer_orders(connection: sa.Connection, order_id: str, limit: int) -> list[OrderRow]:
    """Up to `limit` orders whose id sorts after `order_id`, in that order."""
    query = sa.select(admin_order.c.id).where(admin_order.c.id > order_id).order_by(admin_order.c.id).limit(limit)
    return sorted(read_orders(connection, list(connection.execute(query).scalars())), key=lambda row: row.id)


def in_force_after(connection: sa.Connection, position: int) -> list[OrderRow]:
    """The orders in force behind `position`, in their order."""
    rows = _rows(connection, control_log.c.position > position)
    return sorted(rows, key=lambda row: row.position or 0)


def order_at(connection: sa.Connection, position: int) -> str | None:
    """The id of the order in force at this position."""
    return connection.execute(sa.select(control_log.c.order_id).where(control_log.c.position == position)).scalar()


def read_epoch(connection: sa.Connection) -> int:
    """The position of the last order in force."""
    return int(connection.execute(sa.select(control.c.epoch)).scalar_one())


def put_in_force(tx: Transaction, order_id: str) -> int:
    """Append an order to the log of those in force; the new epoch. Needs the exclusive transaction."""
    position = tx.epoch + 1
    tx.connection.execute(sa.insert(control_log), {"position": position, "order_id": order_id, "applied_at": tx.now_ms})
    tx.connection.execute(sa.update(control).values(epoch=position))
    return position


def write_outcome(tx: Transaction, order_id: str, outcome: str, detail: str) -> None:
    """Say what became of an order."""
    tx.connection.execute(
        sa.insert(order_outcome),
        {"order_id": order_id, "outcome": outcome, "detail": detail, "at": tx.now_ms},
    )


def _rows(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[OrderRow]:
    query = (
        sa.select(
            admin_order.c.id,
            admin_order.c.body,
            order_outcome.c.outcome,
            order_outcome.c.detail,
            order_outcome.c.at,
            control_log.c.position,
            control_log.c.applied_at,
        )
        .outerjoin(order_outcome, order_outcome.c.order_id == admin_order.c.id)
        .outerjoin(control_log, control_log.c.order_id == admin_order.c.id)
        .where(where)
    )
    found = connection.execute(query).all()
    signatures: dict[str, list[SignatureRow]] = {row.id: [] for row in found}
    signed = sa.select(order_signature).where(order_signature.c.order_id.in_(list(signatures)))
    for order_id, person, version, signature in connection.execute(signed):
        signatures[order_id].append(SignatureRow(person, version, bytes(signature)))
    texts = texts_of_orders(connection, list(signatures))
    return [
        OrderRow(
            row.id,
            row.body,
            tuple(signatures[row.id]),
            OutcomeRow(row.outcome, row.detail, row.at) if row.outcome else None,
            row.position,
            row.applied_at,
            tuple(texts.get(row.id, ())),
        )
        for row in found
    ]
