"""No hidden count can be worked out from a report: tried by making every month that gives the same report.

Whoever attacks knows the rule, and has everything that is published.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault_service.governance.report import Key, Month, report_of
from vault_service.governance.suppression import HIDDEN

LIMIT = 3
OK = Key("detokenize", "aid-verification", "", "", "ok")
TOKENIZED = Key("tokenize", "", "", "", "ok")
MATCHED = Key("linkagematch", "", "college-outcomes", "", "ok")
Counts = tuple[int, int, int]


def month_of(rows: Mapping[tuple[str, Key], Counts]) -> Month:
    """A month with these rows; one without calls is none."""
    made = Month()
    for (client, key), counts in rows.items():
        if counts[0]:
            made.rows.setdefault(client, {})[key] = [*counts]
    return made


def hidden_cells(table: str, report: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Row number and name of each hidden count of a table; a rate is worth what its counts are."""
    for at, row in enumerate(report[table]):
        yield from ((at, name) for name in names if row[name] == HIDDEN)


def by_report(months: Iterable[Month], limit: int = LIMIT) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each report that can be published, with what all months that give it hold: their reports without a limit."""
    found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for month in months:
        published = report_of(month, "2026-11", limit)
        found.setdefault(json.dumps(published), (published, []))[1].append(report_of(month, "2026-11"))
    return list(found.values())


def fitting(months: list[dict[str, Any]], table: str, at: int, name: str) -> set[int]:
    """The values that a cell has in all those months."""
    return {month[table][at][name] for month in months}


def person(name: str) -> Key:
    return OK._replace(person=name)


ONE_CLIENT = [("sis", person("a")), ("sis", person("b")), ("sis", person("c"))]
TWO_CLIENTS = [("sis", person("a")), ("sis", person("b")), ("registrar", person("a"))]
REFUSED = [("sis", person("a")), ("sis", person("a")._replace(outcome="FROZEN")), ("registrar", person("a"))]


@pytest.mark.parametrize("keys", [ONE_CLIENT, TWO_CLIENTS, REFUSED, ONE_CLIENT[:1]])
def test_every_small_value_fits_a_hidden_count_of_one_measure(keys: list[tuple[str, Key]]) -> None:
    seen = 0
    rows = [dict(zip(keys, values, strict=True)) for values in product(range(6), repeat=len(keys))]
    for report, months in by_report(month_of({key: (n, n, n) for key, n in one.items()}) for one in rows):
        for at, name in hidden_cells("rows", report, ("calls", "items", "disclosed")):
            assert fitting(months, "rows", at, name) == {1, 2}
            seen += 1
    assert seen


def test_values_above_the_limit_fit_a_hidden_count_too_where_a_row_has_several() -> None:
    keys = TWO_CLIENTS[1:]
    counts = [(0, 0, 0), *product(range(1, 5), range(1, 5), (0, 1, 3))]
    seen = 0
    for report, months in by_report(month_of(dict(zip(keys, two, strict=True))) for two in product(counts, repeat=2)):
        for at, name in hidden_cells("rows", report, ("calls", "items", "disclosed")):
            values = fitting(months, "rows", at, name)
            assert {1, 3} <= values
            seen += 1
    assert seen


def tokenized(rows: Mapping[tuple[str, Key], int], errors: Mapping[str, int]) -> Month:
    made = month_of({key: (LIMIT, items, 0) for key, items in rows.items()})
    made.errors = {client: count for client, count in errors.items() if client in made.rows}
    return made


def test_errors_among_items_that_are_shown_cannot_be_worked_out() -> None:
    keys = [("sis", TOKENIZED), ("sis", TOKENIZED._replace(person="a"))]
    months = [
        tokenized(dict(zip(keys, items, strict=True)), {"sis": errors})
        for items in product(range(8), repeat=2)
        for errors in range(sum(items) + 1)
    ]
    seen = 0
    for report, fits in by_report(months):
        for at, name in hidden_cells("tokenize", report, ("errors",)):
            values = fitting(fits, "tokenize", at, name)
            assert len(values) > 1
            seen += 1
    assert seen


def matched(sides: Mapping[str, tuple[int, ...]]) -> Month:
    """One client's calls under an agreement, from both sides; what matched was disclosed."""
    items, exact = sum(map(sum, sides.values())), sum(parts[0] for parts in sides.values())
    made = month_of({("k12-research", MATCHED): (LIMIT, items, exact)})
    for domain, parts in sides.items():
        made.sides["college-outcomes", domain] = [*parts]
        made.keys_of_sides["college-outcomes", domain] = {("k12-research", MATCHED)}
    return made


def sums_to(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in sums_to(total - first, parts - 1))


@pytest.mark.parametrize(("domains", "most"), [(("k12",), 12), (("k12", "highered"), 7)])
def test_the_parts_of_an_agreements_sides_cannot_be_worked_out(domains: tuple[str, ...], most: int) -> None:
    parts = [split for total in range(1, most + 1) for split in sums_to(total, 3 * len(domains))]
    months = [matched({name: one[3 * at : 3 * at + 3] for at, name in enumerate(domains)}) for one in parts]
    seen = 0
    for report, fits in by_report(months):
        cells = list(hidden_cells("linkage", report, ("exact", "no_match", "errors")))
        for at, name in cells:
            assert len(fitting(fits, "linkage", at, name)) > 1
            seen += 1
        if cells:  # nor how many did not match or were errors, where those are few
            unmatched = {sum(row["no_match"] + row["errors"] for row in one["linkage"]) for one in fits}
            assert len(unmatched) > 1 or min(unmatched) not in range(1, LIMIT)
    assert seen


COUNTS = st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12))
KEYS = st.builds(
    Key,
    st.sampled_from(["tokenize", "detokenize", "linkagematch"]),
    st.sampled_from(["", "aid-verification"]),
    st.sampled_from(["", "college-outcomes"]),
    st.sampled_from(["", "tax-clerk"]),
    st.sampled_from(["ok", "FROZEN"]),
)
ROWS = st.dictionaries(st.tuples(st.sampled_from(["sis", "registrar", "k12-research"]), KEYS), COUNTS, max_size=12)


@settings(max_examples=300)
@given(ROWS, st.integers(3, 8), st.data())
def test_other_hidden_rows_give_the_same_report_to_the_letter(
    rows: dict[tuple[str, Key], Counts], limit: int, data: st.DataObject
) -> None:
    small = st.integers(1, limit - 1)
    others = st.one_of(
        st.tuples(small, st.integers(0, 99), st.integers(0, 99)),
        st.tuples(st.integers(1, 99), small, st.integers(0, 99)),
        st.tuples(st.integers(1, 99), st.integers(0, 99), small),
    )
    published = report_of(month_of(rows), "2026-11", limit)
    hidden = {
        (row["client"], Key(*(row[name] for name in Key._fields)))
        for row in published["rows"]
        if row["calls"] == HIDDEN
    }
    assert hidden >= {key for key, counts in rows.items() if any(0 < count < limit for count in counts)}
    exchanged = {key: data.draw(others) if key in hidden else counts for key, counts in rows.items()}
    assert report_of(month_of(exchanged), "2026-11", limit) == published


@given(ROWS, st.integers(3, 8))
def test_sums_say_which_rows_they_leave_out(rows: dict[tuple[str, Key], Counts], limit: int) -> None:
    published = report_of(month_of(rows), "2026-11", limit)
    shares: defaultdict[str, list[bool]] = defaultdict(list)
    for row in published["rows"]:
        shares[row["client"]].append(row["calls"] == HIDDEN)
    for row in published["clients"]:
        hidden = shares[row["client"]]
        assert row["hidden"] == ("all" if all(hidden) else "some" if any(hidden) else "none")
        assert (row["calls"] == HIDDEN) == (row["hidden"] == "all")


def test_a_report_without_a_limit_hides_nothing() -> None:
    month = month_of({("sis", OK): (1, 1, 1)})
    (row,) = report_of(month, "2026-11")["rows"]
    assert row["calls"] == 1
    assert "hidden" not in report_of(month, "2026-11")["total"]
