"""Small cells: which counts of a table stay hidden, so that none of them can be worked out from what is shown.

    grand total = sum of the groups' totals;  a group's total = sum of its rows          (for each measure)

Rows in groups come in; which rows, totals and labels are hidden goes out. A count above 0 and below the limit is
shown as `<N`. A row with one is hidden as a whole; then, since totals are shown, further rows are hidden until every
hidden count has at least two values that fit what is shown, and what is hidden together is not small either. Where
that cannot be had, totals are hidden too. Each measure is looked at by itself.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
G = TypeVar("G", bound=Hashable)
R = TypeVar("R", bound=Hashable)

SMALLEST_LIMIT: Final = 3  # below it `<N` says the count itself
HIDDEN: Final = "*"
Cell = int | str
Range = tuple[float, float]  # the values that a count can have


def label(value: int, limit: int) -> str:
    """What is shown of a hidden count."""
    return f"<{limit}" if 0 < value < limit else HIDDEN


@dataclass
class Suppressed(Generic[G, R]):
    """A table with groups of rows, each row a count a measure, after suppression below `limit` (0: none)."""

    table: Mapping[G, Mapping[R, Sequence[int]]]
    measures: int
    limit: int
    rows: set[tuple[G, R]] = field(default_factory=set)  # hidden
    groups: set[tuple[G, int]] = field(default_factory=set)  # hidden totals, by measure
    totals: set[int] = field(default_factory=set)  # hidden grand totals
    _mute: set[tuple[G | None, int]] = field(default_factory=set)  # small totals (None: grand) that do not say so
    _chosen: dict[tuple[G, R], int] = field(default_factory=dict)  # rows hidden for others' sake: by which measure
    _closed: dict[G, int] = field(default_factory=dict)  # groups hidden for others' sake: by which measure

    def __post_init__(self) -> None:
        if not self.limit:
            return
        for group, rows in self.table.items():
            self.rows |= {(group, row) for row, counts in rows.items() if any(map(self._small, counts))}
        for measure in range(self.measures):
            self.groups |= {(group, measure) for group in self.table if self._small(self.group_value(group, measure))}
            if self._small(self.total_value(measure)):
                self.totals.add(measure)
        # Groups first: what is hidden in one often is what another's count can hide among.
        measures = range(self.measures)
        while any(map(self._mend_groups, measures)) or any(map(self._mend_totals, measures)):
            pass

    def group_value(self, group: G, measure: int) -> int:
        """A group's total."""
        return sum(counts[measure] for counts in self.table[group].values())

    def total_value(self, measure: int) -> int:
        """The grand total."""
        return sum(self.group_value(group, measure) for group in self.table)

    def row(self, group: G, row: R, measure: int) -> Cell:
        """What is shown of a row's count."""
        value = self.table[group][row][measure]
        return label(value, self.limit) if value and (group, row) in self.rows else value

    def group(self, group: G, measure: int) -> Cell:
        """What is shown of a group's total."""
        value = self.group_value(group, measure)
        if not value or (group, measure) not in self.groups:
            return value
        return HIDDEN if (group, measure) in self._mute else label(value, self.limit)

    def total(self, measure: int) -> Cell:
        """What is shown of the grand total."""
        value = self.total_value(measure)
        if not value or measure not in self.totals:
            return value
        return HIDDEN if (None, measure) in self._mute else label(value, self.limit)

    def sum_of(self, rows: Sequence[tuple[G, R]], measure: int) -> Cell:
        """What is shown of any other sum over rows: the sum itself only where each of its counts is shown."""
        counted = [key for key in rows if self.table[key[0]][key[1]][measure]]
        value = sum(self.table[group][row][measure] for group, row in counted)
        if self.rows.isdisjoint(counted):
            return value
        # Of many small counts, `<N` could say that each is 1.
        return label(value, self.limit) if len(counted) <= self.limit - 2 else HIDDEN

    def _small(self, value: int) -> bool:
        return 0 < value < self.limit

    def _mend_groups(self, measure: int) -> bool:
        """Hide one thing more where a group by itself gives a hidden count away; False when none does."""
        of_rows = {group: self._ranges_of_rows(group, measure) for group in self.table}
        ranges = self._ranges_of_groups(measure, of_rows)
        for group, rows in of_rows.items():
            if self._is_hidden(group, measure) and _is_exact(ranges[group]) and (group, measure) not in self._mute:
                self._mute.add((group, measure))  # `<N` of so many rows could only be one number
                return True
            if self._gives_away(group, measure, rows, ranges[group]):
                return self._hide_more_of(group, measure)
        return False

    def _mend_totals(self, measure: int) -> bool:
        """Hide one thing more where the groups together with the grand total give a hidden count away."""
        of_rows = {group: self._ranges_of_rows(group, measure) for group in self.table}
        ranges = self._ranges_of_groups(measure, of_rows)
        total = self.total_value(measure)
        bounds: Range = (total, total)
        if measure in self.totals:
            bounds = _within(self._range_of_total(None, total, measure), _sum(ranges.values()))
        hidden = [group for group in self.table if self._is_hidden(group, measure)]
        fitting = _given(bounds, ranges)
        together = 0 if measure in self.totals else sum(self.group_value(group, measure) for group in hidden)
        if self._small(together) or any(_is_exact(fitting[group]) for group in hidden):
            return self._hide_more(measure)
        for group, rows in of_rows.items():
            if self._gives_away(group, measure, rows, fitting[group]):
                return self._hide_more_of(group, measure)
        return False

    def _gives_away(self, group: G, measure: int, ranges: Mapping[R, Range], bounds: Range) -> bool:
        """Whether a hidden row of the group has one value only that fits, or all hidden ones together are few."""
        counts = {row: counts[measure] for row, counts in self.table[group].items()}
        hidden = [row for row, count in counts.items() if count and (group, row) in self.rows]
        if not self._is_hidden(group, measure) and self._small(sum(counts[row] for row in hidden)):
            return True
        fitting = _given(bounds, ranges)
        return any(_is_exact(fitting[row]) for row in hidden)

    def _hide_more_of(self, group: G, measure: int) -> bool:
        """The next smallest row of the group; then its total; then the bound on that; then more of other groups."""
        shown = self._shown_rows(group, measure)
        if (group, measure) not in self.groups and shown:
            row = min(shown, key=lambda name: shown[name])
            self.rows.add((group, row))
            self._chosen[group, row] = measure
        elif (group, measure) not in self._mute:
            self.groups.add((group, measure))
            self._mute.add((group, measure))
        else:
            return self._hide_more(measure)
        return True

    def _hide_more(self, measure: int) -> bool:
        """The next smallest group with all its rows; then the grand total; then the bounds on all totals."""
        shown = self._shown_groups(measure)
        if measure not in self.totals and shown:
            group = min(shown, key=lambda name: shown[name])
            self.rows |= {(group, row) for row in self.table[group]}
            self.groups |= {(group, at) for at in range(self.measures)}
            self._closed[group] = measure
        elif (None, measure) not in self._mute:
            self.totals.add(measure)
            self._mute.add((None, measure))
        else:
            said = {(group, measure) for group in self.table} - self._mute
            self._mute |= said
            return bool(said)
        return True

    def _is_hidden(self, group: G, measure: int) -> bool:
        return (group, measure) in self.groups and self.group_value(group, measure) > 0

    def _shown_rows(self, group: G, measure: int) -> dict[R, int]:
        counts = {row: counts[measure] for row, counts in self.table[group].items()}
        return {row: count for row, count in counts.items() if count and (group, row) not in self.rows}

    def _shown_groups(self, measure: int) -> dict[G, int]:
        values = {group: self.group_value(group, measure) for group in self.table}
        return {group: value for group, value in values.items() if value and (group, measure) not in self.groups}

    def _ranges_of_rows(self, group: G, measure: int) -> dict[R, Range]:
        """The values that what is shown of each row lets it have."""
        least = min(self._shown_rows(group, measure).values(), default=inf)
        ranges: dict[R, Range] = {}
        for row, counts in self.table[group].items():
            value = counts[measure]
            if not value or (group, row) not in self.rows:
                ranges[row] = (value, value)
            elif self._small(value):
                ranges[row] = (1, self.limit - 1)
            else:
                # The next smallest is hidden: who knows that rule knows it to be at most the smallest that is shown.
                chosen = self._chosen.get((group, row)) == measure
                ranges[row] = (self.limit, max(value, least) if chosen else inf)
        return ranges

    def _ranges_of_groups(self, measure: int, of_rows: Mapping[G, Mapping[R, Range]]) -> dict[G, Range]:
        least = min(self._shown_groups(measure).values(), default=inf)
        ranges: dict[G, Range] = {}
        for group, rows in of_rows.items():
            value = self.group_value(group, measure)
            if not self._is_hidden(group, measure):
                ranges[group] = (value, value)
                continue
            low, high = self._range_of_total(group, value, measure)
            if self._closed.get(group) == measure:
                high = min(high, max(value, least))
            ranges[group] = _within((low, high), _sum(rows.values()))
        return ranges

    def _range_of_total(self, group: G | None, value: int, measure: int) -> Range:
        return (1, self.limit - 1) if self._small(value) and (group, measure) not in self._mute else (1, inf)


def _sum(ranges: Iterable[Range]) -> Range:
    known = list(ranges)
    return sum(low for low, _ in known), sum(high for _, high in known)


def _within(one: Range, other: Range) -> Range:
    return max(one[0], other[0]), min(one[1], other[1])


def _given(total: Range, ranges: Mapping[K, Range]) -> dict[K, Range]:
    """The values that each summand can have, given what the sum and the other summands can be."""
    lows = sum(low for low, _ in ranges.values())
    bounded = sum(high for _, high in ranges.values() if high < inf)
    unbounded = sum(high == inf for _, high in ranges.values())
    given: dict[K, Range] = {}
    for name, (low, high) in ranges.items():
        others = inf if unbounded > (high == inf) else bounded - (high if high < inf else 0)
        given[name] = _within((low, high), (total[0] - others, total[1] - (lows - low)))
    return given


def _is_exact(one: Range) -> bool:
    return one[0] >= one[1]
