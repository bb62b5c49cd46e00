"""The record as a stream of records: for an export that others verify offline, and for verifying in place.

Rows of one snapshot of the database come in, records as docs/audit-log.md describes them go out, in the order
of the log and a page at a time. Nothing is checked, hashed or left out here: what is wrong in the database is
for the verifier to find.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO, TypeVar

import sqlalchemy as sa

from vault_service.storage import log
from vault_service.storage.events import disclosures_of_events
from vault_service.storage.linkages import linked_events
from vault_service.storage.orders import all_orders as order_rows
from vault_service.storage.texts import texts_of_events

FORMAT: Final = "ssn-vault-audit 2"
_PAGE: Final = 1_000  # entries read at once,
_ROWS: Final = 20_000  # and disclosure rows that are in memory together
_COUNT: Final = re.compile(r'"disclosures":([0-9]{1,9})[,}]')
_NODES: Final = 256
_STRAYS: Final = 100  # that are named of each kind

Record = Mapping[str, Any]
_Row = TypeVar("_Row", bound=log.EntryRow | log.PendingRow)


def records(connection: sa.Connection, origin: str, *, live: bool) -> Iterator[Record]:
    """Everything of the log `origin`, from a snapshot. `live` adds what only the database itself has: stored nodes."""
    size = log.size(connection)
    yield {"bundle": FORMAT, "origin": origin, "made_ms": time.time_ns() // 1_000_000, "size": size, "live": live}
    checkpoints = _Ahead(log.checkpoints(connection))
    yield from checkpoints.up_to(0)
    at = count = 0
    nodes = _Nodes(connection)
    while rows := log.entries(connection, at, _PAGE):
        for row, event in _with_rows(connection, rows):
            yield {"entry": row.position, "id": row.event_id, "leaf": row.hash.hex(), **event}
            count += 1
            if live:
                yield from nodes.completed_by(row.position)
            yield from checkpoints.up_to(count)
        at = rows[-1].position + 1
    yield from checkpoints.rest()
    last = ""
    while waiting := log.waiting_after(connection, last, _PAGE):
        for one, event in _with_rows(connection, waiting):
            yield {"unsealed": one.event_id, **event}
        last = waiting[-1].event_id
    for order in order_rows(connection):
        yield {"order": order.id, "body": order.body, "texts": [list(one[1:]) for one in order.texts]}
    for table, found, what in log.strays(connection, _STRAYS):
        yield {"orphan": table, "id": found, "what": what}
    if live:
        yield from nodes.too_many(size)
    yield {"end": True, "entries": count, "checkpoints": checkpoints.count}


def write(stream: TextIO, found: Iterator[Record]) -> Iterator[Record]:
    """Write records as JSON Lines, passing each on."""
    for record in found:
        stream.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        yield record


def _with_rows(connection: sa.Connection, rows: Sequence[_Row]) -> Iterator[tuple[_Row, dict[str, Any]]]:
    """Each row with what its event's record holds; as many together as have a bounded number of disclosure rows."""
    together: list[_Row] = []
    expected = 0
    for row in rows:
        found = _COUNT.search(row.body or "")
        expected += int(found[1]) if found else 1
        together.append(row)
        if expected >= _ROWS:
            yield from _read_rows(connection, together)
            together, expected = [], 0
    yield from _read_rows(connection, together)


def _read_rows(connection: sa.Connection, rows: Sequence[_Row]) -> Iterator[tuple[_Row, dict[str, Any]]]:
    ids = [row.event_id for row in rows]
    disclosed = disclosures_of_events(connection, ids) if ids else {}
    texts = texts_of_events(connection, ids) if ids else {}
    linked = linked_events(connection, ids) if ids else frozenset()
    for row in rows:
        digest = row.event_hash if isinstance(row, log.EntryRow) else row.hash
        yield (
            row,
            {
                "hash": digest and digest.hex(),
                "event": row.body,
                "linkage": row.event_id in linked,
                "disclosures": [list(one[1:]) for one in disclosed.get(row.event_id, [])],
                "texts": [list(one[1:]) for one in texts.get(row.event_id, [])],
            },
        )


class _Ahead:
    """Checkpoints, each given out once as many entries were as it covers by its own words."""

    def __init__(self, rows: Iterator[log.CheckpointRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)
        self.count = 0

    def up_to(self, size: int) -> Iterator[Record]:
        """Those over at most `size` entries, in their order."""
        while self._next is not None and _covers(self._next) <= size:
            yield self._take(self._next)

    def rest(self) -> Iterator[Record]:
        """All that are left."""
        while self._next is not None:
            yield self._take(self._next)

    def _take(self, row: log.CheckpointRow) -> Record:
        self._next = next(self._rows, None)
        self.count = row.number
        return {"checkpoint": row.number, "size": row.size, "at": row.at, "note": row.note}


def _covers(row: log.CheckpointRow) -> int:
    """The entries that the note says, or the column where the note says nothing readable."""
    size = row.note.split("\n", 2)[1] if row.note.count("\n") > 1 else ""
    return int(size) if size.isascii() and size.isdigit() and len(size) < 19 else row.size


class _Nodes:
    """Stored subtree roots in the order in which the log completes them, read a page at a time."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._pages: dict[int, dict[int, bytes]] = {}

    def completed_by(self, position: int) -> Iterator[Record]:
        """The nodes whose last entry stands at `position`, each with its stored hash or None."""
        level, count = 1, position + 1
        while count % 256 == 0:
            count //= 256
            stored = self._at(level, count - 1)
            yield {"node": [level, count - 1, stored and stored.hex()]}
            level += 1

    def too_many(self, size: int) -> Iterator[Record]:
        """Levels that have more nodes than a log of `size` entries."""
        for level, found in log.count_nodes(self._connection).items():
            if level < 1 or found > size // 256**level:
                yield {"orphan": "nodes of level", "id": str(level), "what": "there are more than the log has"}

    def _at(self, level: int, position: int) -> bytes | None:
        page = self._pages.get(level)
        if page is None or position not in page:
            found = log.nodes(self._connection, level, position, _NODES)
            page = self._pages[level] = {node.position: node.hash for node in found}
        return page.get(position)
