"""Uses of numbers as the record has them: each requested or matched token with its call, and refused calls.

The database comes in, `Use` after `Use` goes out, oldest first, in bounded memory. A record means "released for
delivery"; where a record's row then did not open, a later event says so, and the use is marked as `lost`.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from vault_service.audit.event import hash_name, text_hash
from vault_service.errors import Reason
from vault_service.storage.engine import Store
from vault_service.storage.event_queries import (
    CHUNK,
    Event,
    Sieve,
    Span,
    disclosures_of,
    disclosures_of_token,
    events_in,
    fact,
)
from vault_service.storage.events import DisclosureRow
from vault_service.storage.texts import texts_of_events

CALLS: Final = ("tokenize", "detokenize", "linkagematch")
REFUSALS: Final = "refusals"  # the kind of events that count what was refused in a flood
LOSSES: Final = "outcome"  # the kind of events that say which rows of an earlier one did not open
_UNOPENED: Final = "unopened"
_ALL: Final = Sieve()
_REASONS: Final = frozenset(Reason)
_NO_TEXTS: Final[Mapping[str, str]] = {}


class Use(NamedTuple):
    """One token of a call; or, without a row, a call that has none. `lost`: the record did not open.

    `texts` are what a person wrote for the call, where `with_texts` was asked for them and they were not removed.
    """

    event: Event
    row: DisclosureRow | None
    lost: bool = False
    texts: Mapping[str, str] = _NO_TEXTS


def with_texts(store: Store, uses: Iterable[Use]) -> Iterator[Use]:
    """The same uses with the texts of their events; one that is not what the event says is left out."""
    uses = iter(uses)
    while batch := list(itertools.islice(uses, CHUNK)):
        with store.reading() as connection:
            found = texts_of_events(connection, sorted({use.event.id for use in batch}))
        for use in batch:
            rows = found.get(use.event.id, [])
            said = {r.name: r.text for r in rows if text_hash(r) == use.event.facts.get(hash_name(r.name))}
            yield use._replace(texts=said) if said else use


def is_refused(facts: dict[str, Any]) -> bool:
    """Whether an event is a refusal: of a call, of an order, or of many calls at once."""
    return facts["kind"] == REFUSALS or facts.get("outcome") in _REASONS or facts.get("outcome") == "refused"


def uses_of_token(store: Store, token: str, span: Span) -> Iterator[Use]:
    """Every use of one token."""
    unopened = disclosures_of_token(store, token, span, outcome=_UNOPENED)
    lost = {str(event.facts.get("of")) for _, event in unopened}
    for row, event in disclosures_of_token(store, token, span):
        if row.outcome != _UNOPENED:
            yield Use(event, row, event.id in lost)


def uses_in(
    store: Store,
    span: Span,
    sieve: Sieve = _ALL,
    *,
    domain: str | None = None,
    unreadable: set[str] | None = None,
) -> Iterator[Use]:
    """Each event of the span that passes the sieve, once without a row; then its rows, of one domain if named.

    TamperedError for an event that cannot be read; with `unreadable` its id goes there instead.
    """
    lost = _lost(store, span, unreadable)
    for events in events_in(store, span, sieve, unreadable=unreadable):
        calls = [event for event in events if event.facts["kind"] != LOSSES]
        rows = disclosures_of(store, calls, domain=domain)
        row = next(rows, None)
        for event in calls:
            yield Use(event, None)
            while row is not None and row.event_id == event.id:
                yield Use(event, row, (event.id, row.token) in lost)
                row = next(rows, None)


def _lost(store: Store, span: Span, unreadable: set[str] | None) -> frozenset[tuple[str, str]]:
    """The calls and tokens whose record did not open: few, or something is badly wrong."""
    lost = set()
    for events in events_in(store, span, Sieve(((fact("kind", LOSSES),),)), unreadable=unreadable):
        of = {event.id: str(event.facts.get("of")) for event in events if event.facts["kind"] == LOSSES}
        lost |= {(of[row.event_id], row.token) for row in disclosures_of(store, events) if row.outcome == _UNOPENED}
    return frozenset(lost)
