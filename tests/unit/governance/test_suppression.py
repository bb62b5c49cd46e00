"""No hidden count can be worked out from what is shown: tried by trying every choice of values that fits."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault_service.governance.suppression import HIDDEN, Cell, Suppressed, label

Table = dict[str, dict[str, tuple[int, ...]]]
LIMITS = st.integers(3, 5)


def tables(groups: int, rows: int, measures: int = 1, most: int = 7) -> st.SearchStrategy[Table]:
    counts = st.tuples(*[st.integers(0, most)] * measures)
    group = st.dictionaries(st.sampled_from("abcd"[:rows]), counts, min_size=1, max_size=rows)
    return st.dictionaries(st.sampled_from("xyz"[:groups]), group, min_size=1, max_size=groups)


def could_be(shown: Cell, limit: int, most: int, *, total: bool) -> Sequence[int]:
    """The values that a reader takes a cell for. A hidden total says nothing, a hidden row that it is not small."""
    if isinstance(shown, int):
        return [shown]
    if shown == f"<{limit}":
        return range(1, limit)
    assert shown == HIDDEN
    return range(1 if total else limit, most + 1)


def that_fit(shown: Suppressed[str, str], measure: int) -> Iterator[dict[tuple[str, str], int]]:
    """Every choice of the rows' values that agrees with all that is shown of one measure."""
    keys = [(group, row) for group, rows in shown.table.items() for row in rows]
    most = shown.total_value(measure) + shown.limit
    choices = [could_be(shown.row(*key, measure), shown.limit, most, total=False) for key in keys]
    totals = {group: set(could_be(shown.group(group, measure), shown.limit, most, total=True)) for group in shown.table}
    grand = set(could_be(shown.total(measure), shown.limit, most, total=True))
    for values in product(*choices):
        if sum(values) in grand:
            one = dict(zip(keys, values, strict=True))
            sums = {group: sum(one[group, row] for row in rows) for group, rows in shown.table.items()}
            if all(sums[group] in totals[group] for group in totals):
                yield one


def given_away(shown: Suppressed[str, str], measure: int) -> set[tuple[str, str]]:
    """The hidden rows that can have one value only."""
    seen: dict[tuple[str, str], set[int]] = {}
    hidden = {
        (group, row)
        for group, rows in shown.table.items()
        for row in rows
        if isinstance(shown.row(group, row, measure), str)
    }
    for one in that_fit(shown, measure):
        for key in hidden:
            seen.setdefault(key, set()).add(one[key])
        if all(len(values) > 1 for values in seen.values()):
            break
    assert seen.keys() == hidden  # what there really is fits
    return {key for key, values in seen.items() if len(values) == 1}


@given(tables(1, 4), LIMITS)
@settings(deadline=None)
def test_no_row_of_one_group_can_be_worked_out_from_its_total(table: Table, limit: int) -> None:
    assert given_away(Suppressed(table, 1, limit), 0) == set()


@given(tables(2, 2), LIMITS)
@settings(deadline=None)
def test_no_row_can_be_worked_out_from_the_totals_of_groups_and_of_all(table: Table, limit: int) -> None:
    assert given_away(Suppressed(table, 1, limit), 0) == set()


@given(tables(3, 1), LIMITS)
@settings(deadline=None)
def test_no_group_of_one_row_can_be_worked_out_from_the_others(table: Table, limit: int) -> None:
    assert given_away(Suppressed(table, 1, limit), 0) == set()


@given(tables(2, 2, measures=2), LIMITS)
@settings(deadline=None)
def test_rows_that_are_hidden_for_one_measure_give_nothing_away_in_another(table: Table, limit: int) -> None:
    shown = Suppressed(table, 2, limit)
    assert given_away(shown, 0) == given_away(shown, 1) == set()


@given(tables(3, 4, measures=3, most=20), LIMITS)
def test_every_small_count_is_hidden_and_every_zero_shown(table: Table, limit: int) -> None:
    shown = Suppressed(table, 3, limit)
    for measure in range(3):
        for group, rows in table.items():
            for row, counts in rows.items():
                cell = shown.row(group, row, measure)
                assert cell in (counts[measure], label(counts[measure], limit))
                assert not (isinstance(cell, int) and 0 < cell < limit)
                assert counts[measure] or cell == 0
            assert not is_small(shown.group(group, measure), limit)
        assert not is_small(shown.total(measure), limit)


@given(tables(3, 4, measures=3, most=20))
def test_without_a_limit_nothing_is_hidden(table: Table) -> None:
    shown = Suppressed(table, 3, 0)
    assert all(
        shown.row(group, row, measure) == counts[measure]
        for group, rows in table.items()
        for row, counts in rows.items()
        for measure in range(3)
    )
    assert shown.total(0) == sum(counts[0] for rows in table.values() for counts in rows.values())


@given(tables(3, 4, most=20), LIMITS, st.data())
def test_any_other_sum_adds_only_what_is_shown(table: Table, limit: int, data: st.DataObject) -> None:
    shown = Suppressed(table, 1, limit)
    keys = [(group, row) for group, rows in table.items() for row in rows]
    some = data.draw(st.lists(st.sampled_from(keys), unique=True))
    cell = shown.sum_of(some, 0)
    if isinstance(cell, int):
        assert all(isinstance(shown.row(*key, 0), int) for key in some)
        assert cell == sum(table[group][row][0] for group, row in some)


def is_small(cell: Cell, limit: int) -> bool:
    return isinstance(cell, int) and 0 < cell < limit


def shown_of(rows: Mapping[str, int], limit: int) -> tuple[list[Cell], Cell, Cell]:
    shown = Suppressed({"x": {row: (count,) for row, count in rows.items()}}, 1, limit)
    return [shown.row("x", row, 0) for row in rows], shown.group("x", 0), shown.total(0)


@pytest.mark.parametrize(
    ("counts", "cells", "total"),
    [
        ((2, 30, 900), ["<5", "*", 900], 932),  # the next smallest is hidden too
        ((2, 3, 900), ["<5", "<5", 900], 905),  # two small ones hide each other
        ((0, 30, 900), [0, 30, 900], 930),
        ((1, 1, 900), ["<5", "<5", "*"], 902),  # together they are small
        ((4, 4, 900), ["<5", "<5", "*"], 908),  # nothing else adds up to 8
        ((1, 5, 6, 900), ["<5", "*", "*", 900], 912),  # 1 and 5: nothing else adds up to 6
        ((4, 50, 50, 900), ["<5", "*", "*", 900], 1004),  # who knows that the next smallest is hidden: 54 - 50
        ((2,), ["<5"], "<5"),
        ((1, 5), ["<5", "*"], "*"),
        ((1, 1, 1, 1), ["<5", "<5", "<5", "<5"], "*"),  # `<5` of all would say that each is 1
    ],
)
def test_what_is_hidden_of_one_group(counts: tuple[int, ...], cells: list[Cell], total: Cell) -> None:
    found, group, grand = shown_of(dict(zip("abcd", counts, strict=False)), 5)
    assert (found, group, grand) == (cells, total, total)


def test_a_hidden_group_hides_the_next_smallest_group_as_a_whole() -> None:
    table = {"big": {"a": (500,), "b": (600,)}, "small": {"a": (3,)}, "next": {"a": (40,), "b": (50,)}}
    shown = Suppressed(table, 1, 5)
    assert [shown.group(group, 0) for group in table] == [1100, "<5", "*"]
    assert [shown.row("next", row, 0) for row in "ab"] == ["*", "*"]
    assert [shown.row("big", row, 0) for row in "ab"] == [500, 600]
    assert shown.total(0) == 1193


def test_who_knows_that_the_next_smallest_group_is_hidden_learns_nothing_either() -> None:
    table = {"big": {"a": (900,)}, "x": {"a": (50,)}, "y": {"a": (50,)}, "z": {"a": (4,)}}
    shown = Suppressed(table, 1, 5)
    assert [shown.group(group, 0) for group in table] == [900, "*", "*", "<5"]


def test_small_groups_that_are_few_together_hide_another_group() -> None:
    shown = Suppressed({"big": {"a": (500,)}, "x": {"a": (2,)}, "y": {"a": (2,)}}, 1, 5)
    assert ([shown.group(group, 0) for group in shown.table], shown.total(0)) == (["*", "<5", "<5"], 504)


def test_a_small_total_of_many_rows_does_not_say_that_it_is_small() -> None:
    table = {"x": dict.fromkeys("abcd", (1,)), "y": {"a": (900,)}, "z": {"a": (3,)}}
    shown = Suppressed(table, 1, 5)
    assert [shown.group(group, 0) for group in table] == ["*", 900, "<5"]
    rows = [("x", row) for row in "abcd"]
    assert (shown.sum_of(rows, 0), shown.sum_of(rows[:3], 0), shown.sum_of([("y", "a")], 0)) == ("*", "<5", 900)


def test_many_rows_take_no_long_time() -> None:
    table = {client: {str(row): (row % 50, row, 7) for row in range(1, 400)} for client in "xyz"}
    shown = Suppressed(table, 3, 10)
    assert shown.row("x", "1", 0) == "<10"
