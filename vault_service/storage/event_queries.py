"""Set-based reads of the disclosure record, in bounded memory and in statements that end soon.

A span of time and a sieve come in; events and disclosure rows go out, a chunk at a time. An event's id is a
UUIDv7 (RFC 9562), so a span of time is a range of ids: the range is walked with a margin for clocks, and the
body's `at`, the database's own clock, decides. Each chunk is a transaction of its own: a reader may take its time.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from vault_service.errors import TamperedError
from vault_service.storage.engine import Store
from vault_service.storage.events import DisclosureRow
from vault_service.storage.tables import disclosure, event

RELEASED: Final = ("found", "matched")  # outcomes of rows that were released for delivery
CHUNK: Final = 5000  # events that one statement walks, or rows that it gives
_COUNTED: Final = 100_000  # disclosure rows that one statement counts
_MARGIN_MS: Final = 3_600_000  # by which a server's clock, which makes ids, and the database's may differ
_LAST_MS: Final = 2**48 - 1  # of a UUIDv7
# What is read out of bodies, where it is there.
_NUMBERS: Final = ("items", "errors", "exact", "no_match", "disclosures", "count")
_TEXTS: Final = (
    *("client", "person", "domain", "purpose", "agreement", "view", "justification", "outcome"),
    *("method", "reason", "of", "action", "actor"),
)


class Span(NamedTuple):
    """A span of time in milliseconds since 1970: `since` belongs to it, `until` does not. None: open."""

    since: int | None = None
    until: int | None = None

    def holds(self, at: int) -> bool:
        """Whether a moment is in the span."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


class Sieve(NamedTuple):
    """Texts by which bodies are sifted in the database, before they are parsed.

    Canonical JSON (RFC 8785) writes a fact in one way only, and quotes inside texts are escaped: a body with the
    fact always passes. One that passes may lack it: the parsed body decides.
    """

    all_of: tuple[tuple[str, ...], ...] = ()  # of each of these, one text at least
    none_of: tuple[str, ...] = ()


_EVERYTHING: Final = Sieve()


class Event(NamedTuple):
    """One event: its id, its canonical body, and the body's facts."""

    id: str
    body: str
    facts: dict[str, Any]


def parsed_event(event_id: str, body: str) -> Event:
    """The event of a row; TamperedError for a body that no server wrote."""
    try:
        facts = json.loads(body)
        numbers = type(facts["at"]) is int and all(type(facts.get(name, 0)) is int for name in _NUMBERS)
        texts = isinstance(facts["kind"], str) and all(isinstance(facts.get(name, ""), str) for name in _TEXTS)
        if numbers and texts:
            return Event(event_id, body, facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise TamperedError(f"event {event_id} has a body that is no event: ssn-vault audit verify")


def fact(name: str, value: str) -> str:
    """How a canonical body has this fact."""
    return f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=False)}"


def events_in(
    store: Store,
    span: Span,
    sieve: Sieve = _EVERYTHING,
    *,
    newest_first: bool = False,
    chunk: int = CHUNK,
    unreadable: set[str] | None = None,
) -> Iterator[list[Event]]:
    """The events of the span that pass the sieve, `chunk` events walked at a time; oldest first, or newest.

    TamperedError for a body that is no event; with `unreadable` its id goes there instead.
    """
    low, high = _id_range(span)
    direction = event.c.id.desc() if newest_first else event.c.id.asc()
    sifted = _sifted(sieve)
    while True:
        walked = (event.c.id > low) & (event.c.id < high)
        with store.reading() as connection:
            edge = connection.execute(
                sa.select(event.c.id).where(walked).order_by(direction).offset(chunk - 1).limit(1)
            ).scalar()
            if edge is not None:
                walked &= event.c.id >= edge if newest_first else event.c.id <= edge
            query = sa.select(event.c.id, event.c.body).where(walked, *sifted).order_by(direction)
            rows = connection.execute(query).all()
        found = [one for row in rows if (one := _readable(*row, unreadable)) and span.holds(one.facts["at"])]
        if found:
            yield found
        if edge is None:
            return
        low, high = (low, edge) if newest_first else (edge, high)


def _readable(event_id: str, body: str, unreadable: set[str] | None) -> Event | None:
    try:
        return parsed_event(event_id, body)
    except TamperedError:
        if unreadable is None:
            raise
        unreadable.add(event_id)
        return None


def events_by_id(store: Store, ids: Sequence[str]) -> dict[str, Event]:
    """The events of these ids that there are."""
    found: dict[str, Event] = {}
    for at in range(0, len(ids), CHUNK):
        with store.reading() as connection:
            query = sa.select(event.c.id, event.c.body).where(event.c.id.in_(ids[at : at + CHUNK]))
            found |= {row[0]: parsed_event(*row) for row in connection.execute(query)}
    return found


def disclosures_of(
    store: Store, events: Sequence[Event], *, domain: str | None = None, rows: int = CHUNK
) -> Iterator[DisclosureRow]:
    """The disclosure rows of `events`, by event and position; of one domain if named. At most `rows` in memory."""
    wanted = sa.select(disclosure).order_by(disclosure.c.event_id, disclosure.c.position)
    if domain is not None:
        wanted = wanted.where(disclosure.c.domain == domain)
    for batch in _batches(events, rows):
        held = max(rows, sum(_rows_of(one) for one in batch))
        for at in range(0, held, rows):
            query = wanted.where(disclosure.c.event_id.in_([one.id for one in batch]))
            if held > rows:  # one event with more rows than that: walked by position
                query = query.where(disclosure.c.position >= at, disclosure.c.position < at + rows)
            with store.reading() as connection:
                page = [DisclosureRow(*row) for row in connection.execute(query)]
            yield from page


def disclosures_of_token(
    store: Store, token: str, span: Span, *, outcome: str | None = None, rows: int = CHUNK
) -> Iterator[tuple[DisclosureRow, Event]]:
    """Every disclosure row of a token in the span with its event, oldest first; of one outcome if named."""
    low, high = _id_range(span)
    key = sa.tuple_(disclosure.c.event_id, disclosure.c.position)
    wanted = (
        sa.select(disclosure, event.c.body)
        .join(event, event.c.id == disclosure.c.event_id)
        .where(disclosure.c.token == token, disclosure.c.event_id < high)
        .order_by(disclosure.c.event_id, disclosure.c.position)
        .limit(rows)
    )
    if outcome is not None:
        wanted = wanted.where(disclosure.c.outcome == outcome)
    last: tuple[str, int] = (low, 0)
    while True:
        with store.reading() as connection:
            page = connection.execute(wanted.where(key > sa.tuple_(*last))).all()
        for *row, body in page:
            found = DisclosureRow(*row)
            parsed = parsed_event(found.event_id, body)
            if span.holds(parsed.facts["at"]):
                yield found, parsed
        if len(page) < rows:
            return
        last = (page[-1].event_id, page[-1].position)


def released_in(store: Store, events: Sequence[Event]) -> dict[str, int]:
    """How many tokens each of `events` released; events without any are left out."""
    counts: dict[str, int] = {}
    for batch in _batches(events, _COUNTED):
        query = (
            sa.select(disclosure.c.event_id, sa.func.count())
            .where(disclosure.c.event_id.in_([one.id for one in batch]), disclosure.c.outcome.in_(RELEASED))
            .group_by(disclosure.c.event_id)
        )
        with store.reading() as connection:
            counts.update((event_id, count) for event_id, count in connection.execute(query))
    return counts


def _id_range(span: Span) -> tuple[str, str]:
    """Two texts between which all ids of the span stand, whatever the database's collation: both have their form."""
    return (
        _edge(0 if span.since is None else span.since - _MARGIN_MS),
        _edge(_LAST_MS if span.until is None else span.until + _MARGIN_MS),
    )


def _edge(ms: int) -> str:
    moment = f"{min(max(ms, 0), _LAST_MS):012x}"
    return f"{moment[:8]}-{moment[8:]}-0000-0000-000000000000"  # no UUIDv7 has this version: it is nobody's id


def _sifted(sieve: Sieve) -> list[sa.ColumnElement[bool]]:
    wanted = [sa.or_(*(event.c.body.contains(text, autoescape=True) for text in texts)) for texts in sieve.all_of]
    return wanted + [sa.not_(event.c.body.contains(text, autoescape=True)) for text in sieve.none_of]


def _rows_of(one: Event) -> int:
    rows = one.facts.get("disclosures", 0)
    return rows if isinstance(rows, int) else 0


def _batches(events: Sequence[Event], rows: int) -> Iterator[list[Event]]:
    """The events that say they have rows, in batches of so many rows and events; a larger event stands alone."""
    batch: list[Event] = []
    held = 0
    for one in events:
        count = _rows_of(one)
        if not count:
            continue
        if batch and (held + count > rows or len(batch) == CHUNK):
            yield batch
            batch, held = [], 0
        batch.append(one)
        held += count
    if batch:
        yield batch
