"""The month's counts and rates, and what of them stays hidden."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.governance.events import event
from vault_service.governance.report import Month, report_of
from vault_service.governance.suppression import HIDDEN


def month() -> Month:
    made = Month()
    for _ in range(30):
        made.add(event("tokenize", client="sis", domain="k12", items=10, errors=1).facts, 0)
    made.add(event("tokenize", client="registrar", domain="highered", items=4, errors=4).facts, 0)
    for _ in range(20):
        call = event("detokenize", client="sis", domain="k12", purpose="transcript-verification", items=3)
        made.add(call.facts, 2)
    aid: dict[str, Any] = {"client": "financial-aid", "purpose": "aid-verification", "person": "aid-counselor"}
    made.add(event("detokenize", **aid, items=1).facts, 1)
    made.add(event("detokenize", **aid, items=10, outcome="BUDGET_EXCEEDED").facts, 0)
    made.add(event("refusals", client="sis", method="Detokenize", reason="NOT_PERMITTED", count=50).facts, 0)
    for _ in range(2):
        side: dict[str, Any] = {"client": "k12-research", "agreement": "college-outcomes", "domain": "k12"}
        made.add(event("linkagematch", **side, items=100, exact=60, no_match=39, errors=1).facts, 55)
    return made


def found(rows: Sequence[Mapping[str, Any]], **wanted: str) -> Mapping[str, Any]:
    (one,) = [row for row in rows if wanted.items() <= row.items()]
    return one


def test_counts_are_by_client_purpose_person_and_outcome() -> None:
    made = report_of(month(), "2026-11")
    assert made["total"] == {
        "calls": 105,
        "items": 575,
        "disclosed": 151,
        "refused": 51,
        "refusal_rate": pytest.approx(51 / 105),
    }
    sis = found(made["clients"], client="sis")
    assert (sis["calls"], sis["items"], sis["disclosed"], sis["refused"]) == (100, 360, 40, 50)
    assert sis["refusal_rate"] == 0.5
    assert found(made["purposes"], purpose="aid-verification")["calls"] == 2
    assert found(made["purposes"], agreement="college-outcomes")["disclosed"] == 110
    assert found(made["persons"], person="aid-counselor")["items"] == 11
    assert found(made["outcomes"], outcome="NOT_PERMITTED")["calls"] == 50
    assert found(made["rows"], client="financial-aid", outcome="ok")["disclosed"] == 1
    for name in ("rows", "clients", "purposes", "persons", "outcomes"):
        for measure in ("calls", "items", "disclosed"):
            assert sum(row[measure] for row in made[name]) == made["total"][measure], name


def test_rates_and_sides_are_of_answered_calls() -> None:
    made = report_of(month(), "2026-11")
    assert found(made["tokenize"], client="sis")["validity_rate"] == 0.9
    assert found(made["tokenize"], client="registrar")["validity_rate"] == 0.0
    assert made["linkage"] == [
        {"agreement": "college-outcomes", "side": "k12", "exact": 120, "no_match": 78, "errors": 2}
    ]


def test_what_did_not_open_was_not_disclosed() -> None:
    made = month()
    call = event("detokenize", client="sis", domain="k12", purpose="transcript-verification", items=3)
    made.take_back(call.facts, 3)
    made.take_back(event("detokenize", client="nobody").facts, 3)
    assert report_of(made, "2026-11")["total"]["disclosed"] == 148


def test_a_month_without_calls_has_no_rates() -> None:
    made = report_of(Month(), "2026-11", 5)
    nothing = {"calls": 0, "items": 0, "disclosed": 0, "refused": 0, "refusal_rate": None}
    assert made["total"] == {**nothing, "hidden": "none"}


def test_small_counts_are_hidden_and_every_other_number_is_of_what_is_shown() -> None:
    made = report_of(month(), "2026-11", 5)
    assert made["suppressed_below"] == 5
    aid = found(made["clients"], client="financial-aid")
    assert (aid["calls"], aid["refused"], aid["refusal_rate"], aid["hidden"]) == (HIDDEN, HIDDEN, HIDDEN, "all")
    assert found(made["rows"], client="financial-aid", outcome="ok")["disclosed"] == HIDDEN
    assert found(made["persons"], person="aid-counselor")["calls"] == HIDDEN
    registrar = found(made["tokenize"], client="registrar")
    assert (registrar["items"], registrar["errors"], registrar["validity_rate"]) == (HIDDEN, HIDDEN, HIDDEN)
    sis = found(made["clients"], client="sis")
    assert (sis["calls"], sis["items"], sis["disclosed"], sis["hidden"]) == (100, 360, 40, "none")
    assert found(made["tokenize"], client="sis")["validity_rate"] == 0.9
    (side,) = made["linkage"]
    assert {side["exact"], side["no_match"], side["errors"]} == {HIDDEN}  # of two calls
    total = made["total"]
    assert (total["calls"], total["items"], total["disclosed"], total["hidden"]) == (100, 360, 40, "some")
    assert (total["refused"], total["refusal_rate"]) == (50, 0.5)


def test_what_matched_is_shown_where_only_the_errors_are_few() -> None:
    made = Month()
    side: dict[str, Any] = {"client": "k12-research", "agreement": "college-outcomes", "domain": "k12"}
    for _ in range(10):
        made.add(event("linkagematch", **side, items=10, exact=6, no_match=4, errors=0).facts, 6)
    made.add(event("linkagematch", **side, items=3, exact=0, no_match=0, errors=3).facts, 0)
    (shown,) = report_of(made, "2026-11", 5)["linkage"]
    assert shown == {
        "agreement": "college-outcomes",
        "side": "k12",
        "exact": 60,
        "no_match": HIDDEN,
        "errors": HIDDEN,
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sis", "registrar", "financial-aid"]),
            st.sampled_from(["", "tax-clerk", "aid-counselor"]),
            st.sampled_from(["tokenize", "detokenize", "linkagematch"]),
            st.sampled_from(["ok", "NOT_PERMITTED", "FROZEN"]),
            st.integers(1, 12),
        ),
        max_size=40,
    ),
    st.integers(3, 10),
)
def test_no_table_shows_a_small_count_or_a_rate_of_a_hidden_one(calls: list[Any], limit: int) -> None:
    made = Month()
    for client, person, kind, outcome, items in calls:
        facts = {"client": client, "person": person, "items": items, "outcome": outcome, "errors": items // 2}
        made.add(event(kind, **facts, exact=items - items // 2, no_match=0, domain="k12", agreement="a").facts, items)
    shown = report_of(made, "2026-11", limit)
    for name, rows in {"total": [shown["total"]], **shown}.items():
        for row in rows if isinstance(rows, list) else []:
            for measure, value in row.items():
                assert not isinstance(value, int) or value == 0 or value >= limit, (name, measure)
            for rate, counts in (("refusal_rate", ("refused", "calls")), ("validity_rate", ("errors", "items"))):
                if rate in row and any(isinstance(row[count], str) for count in counts):
                    assert row[rate] == HIDDEN


def test_an_event_that_says_little_is_counted_as_what_it_says() -> None:
    made = Month()
    made.add(event("refusals", count=3).facts, 0)
    made.add(event("refusals").facts, 0)
    made.add(event("detokenize").facts, 0)
    report = report_of(made, "2026-11")
    assert [(row["client"], row["calls"]) for row in report["clients"]] == [("", 5)]
