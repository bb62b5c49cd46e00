"""Reading the record in chunks finds exactly what one look would find, on both databases."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import new_database_url
from vault_service.audit.event import Disclosed, record
from vault_service.errors import TamperedError
from vault_service.governance.uses import uses_in, uses_of_token
from vault_service.storage.engine import Store, open_store
from vault_service.storage.event_queries import (
    Event,
    Sieve,
    Span,
    disclosures_of,
    disclosures_of_token,
    events_by_id,
    events_in,
    fact,
    released_in,
)
from vault_service.storage.events import EventRow, append
from vault_service.storage.schema import migrate

NOW = 1_900_000_000_000
TOKEN = "k12_token"


def event_id(ms: int, number: int) -> str:
    moment = f"{ms:012x}"
    return f"{moment[:8]}-{moment[8:]}-7{number:03x}-8000-000000000000"


@pytest.fixture(scope="module")
def store(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two hundred events, a second apart, whose ids' clock is up to a minute wrong; some with disclosure rows."""
    url = new_database_url(database, request) or f"sqlite:///{tmp_path_factory.mktemp('events') / 'test.db'}"
    opened = open_store(sa.make_url(url), connections=2)
    migrate(opened)
    chance = random.Random(1)
    made = []
    for number in range(200):
        at = NOW + 1000 * number
        facts: dict[str, Any] = {"client": ("sis", "s%s", "s_s")[number % 3], "outcome": ("ok", "FROZEN")[number % 2]}
        rows = [
            Disclosed(
                ("k12", "highered")[row % 2], TOKEN if row == 3 else f"token-{row}", ("found", "missing")[row % 2]
            )
            for row in range(0 if number % 5 else number % 23)
        ]
        made.append(record(event_id(at + chance.randrange(-60_000, 60_000), number), "detokenize", at, facts, rows))
    loss = {"client": "sis", "of": made[10].event.id, "outcome": "DATA_LOSS"}
    unopened = [Disclosed("highered", TOKEN, "unopened")]
    made.append(record(event_id(NOW + 10_000, 900), "outcome", NOW + 10_000, loss, unopened))
    with opened.transaction() as tx:
        append(tx, [one.event for one in made], [row for one in made for row in one.disclosures])
    yield opened
    opened.close()


def all_events(store: Store) -> list[Event]:
    return [one for events in events_in(store, Span()) for one in events]


@pytest.mark.parametrize("chunk", [1, 7, 200, 201, 5000])
def test_chunks_of_any_size_give_every_event_once(store: Store, chunk: int) -> None:
    everything = [one.id for one in all_events(store)]
    assert len(everything) == len(set(everything)) == 201
    assert everything == sorted(everything)
    assert [one.id for events in events_in(store, Span(), chunk=chunk) for one in events] == everything
    backwards = [one.id for events in events_in(store, Span(), newest_first=True, chunk=chunk) for one in events]
    assert backwards == everything[::-1]


@pytest.mark.parametrize(
    ("since", "until"), [(None, 50), (50, None), (50, 51), (0, 200), (300, None), (None, 0), (10**9, None)]
)
def test_a_span_goes_by_the_databases_clock_to_the_millisecond(
    store: Store, since: int | None, until: int | None
) -> None:
    span = Span(
        None if since is None else NOW + 1000 * since,
        None if until is None else NOW + 1000 * until,
    )
    wanted = [one.id for one in all_events(store) if span.holds(one.facts["at"])]
    assert [one.id for events in events_in(store, span, chunk=7) for one in events] == wanted


@pytest.mark.parametrize("client", ["sis", "s%s", "s_s"])
def test_a_sieve_knows_no_wildcards(store: Store, client: str) -> None:
    sieve = Sieve(((fact("client", client),), (fact("outcome", "ok"), fact("outcome", "FROZEN"))), ('"DATA_LOSS"',))
    found = [one for events in events_in(store, Span(), sieve, chunk=9) for one in events]
    assert {one.facts["client"] for one in found} == {client}
    assert len(found) == {"sis": 67, "s%s": 67, "s_s": 66}[client]


@pytest.mark.parametrize("rows", [1, 5, 22, 5000])
def test_disclosure_rows_come_in_pages_and_in_order(store: Store, rows: int) -> None:
    events = all_events(store)
    found = list(disclosures_of(store, events, rows=rows))
    assert len(found) == sum(one.facts["disclosures"] for one in events)
    assert found == sorted(found)
    of_one = list(disclosures_of(store, events, domain="k12", rows=rows))
    assert of_one == [row for row in found if row.domain == "k12"]
    released = released_in(store, events)
    assert sum(released.values()) == sum(row.outcome == "found" for row in found)


@pytest.mark.parametrize("rows", [1, 3, 5000])
def test_a_tokens_rows_come_with_their_events(store: Store, rows: int) -> None:
    events = {one.id: one for one in all_events(store)}
    wanted = [row for row in disclosures_of(store, list(events.values())) if row.token == TOKEN]
    found = list(disclosures_of_token(store, TOKEN, Span(), rows=rows))
    assert [row for row, _ in found] == wanted
    assert all(one == events[row.event_id] for row, one in found)
    late = Span(NOW + 50_000, NOW + 100_001)
    assert [row for row, _ in disclosures_of_token(store, TOKEN, late, rows=rows)] == [
        row for row in wanted if late.holds(events[row.event_id].facts["at"])
    ]


def test_a_use_is_lost_when_a_later_event_says_so(store: Store) -> None:
    of = next(one for one in all_events(store) if one.facts["kind"] == "outcome").facts["of"]
    uses = list(uses_of_token(store, TOKEN, Span()))
    assert [use.event.id for use in uses if use.lost] == [of]
    assert all(use.row is not None and use.row.outcome != "unopened" for use in uses)
    everything = list(uses_in(store, Span()))
    assert [(use.event.id, use.row and use.row.token) for use in everything if use.lost] == [(of, TOKEN)]
    assert sum(use.row is None for use in everything) == 200


def test_events_are_found_by_id(store: Store) -> None:
    some = all_events(store)[3:6]
    assert events_by_id(store, [one.id for one in some] + ["none"]) == {one.id: one for one in some}


def test_a_body_that_is_no_event_is_tampering(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = new_database_url(database, request) or f"sqlite:///{tmp_path / 'test.db'}"
    opened = open_store(sa.make_url(url), connections=2)
    migrate(opened)
    wrong = ["no json", "[]", "{}", '{"at":"1","kind":"order"}', '{"at":true,"kind":"order"}']
    wrong += ['{"at":1,"client":[],"kind":"order"}', '{"at":1,"items":"9","kind":"tokenize"}']
    for number, body in enumerate(wrong):
        with opened.transaction() as tx:
            append(tx, [EventRow(event_id(NOW, number), body, b"")], [])
        with pytest.raises(TamperedError):
            all_events(opened)
        with opened.engine.begin() as connection:
            if opened.postgresql:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            else:
                for (trigger,) in connection.exec_driver_sql(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                ).all():
                    connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
            connection.exec_driver_sql("DELETE FROM event")
    opened.close()
