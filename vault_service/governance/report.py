"""The month in counts: calls, items and disclosed tokens by client, purpose or agreement, person and outcome.

Events come in, a report of cells goes out. With a limit rows with a small count are hidden as `suppression` says: every
sum, rate and other table is of the rows that are shown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from vault_service.governance.suppression import HIDDEN, Cell, is_hidden, share_hidden
from vault_service.governance.uses import CALLS, LOSSES, REFUSALS
from vault_service.storage.engine import Store
from vault_service.storage.event_queries import Event, Sieve, Span, events_by_id, events_in, fact, released_in

_MEASURES: Final = ("calls", "items", "disclosed")
_CALLS, _ITEMS, _DISCLOSED = range(3)
_PARTS: Final = ("exact", "no_match", "errors")  # of the items of an agreement's side
Report = dict[str, Any]


class Key(NamedTuple):
    """What calls of one client are counted by. `outcome` is `ok` or the reason of a refusal."""

    call: str
    purpose: str
    agreement: str
    person: str
    outcome: str


Row = tuple[str, Key]  # a client, and what its calls are counted by


@dataclass
class Month:
    """Counts so far. Of refusals that were only counted, the items and the person are not known."""

    rows: dict[str, dict[Key, list[int]]] = field(default_factory=dict)  # by client: calls, items, disclosed
    errors: dict[str, int] = field(default_factory=dict)  # of Tokenize, by client
    sides: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # agreement, domain: exact, no match, errors
    keys_of_sides: dict[tuple[str, str], set[Row]] = field(default_factory=dict)

    def add(self, facts: Mapping[str, Any], disclosed: int) -> None:
        """Count one event that disclosed so many tokens."""
        client, key = _key(facts)
        counts = self.rows.setdefault(client, {}).setdefault(key, [0, 0, 0])
        counts[_CALLS] += facts.get("count", 1) if facts["kind"] == REFUSALS else 1
        counts[_ITEMS] += facts.get("items", 0)
        counts[_DISCLOSED] += disclosed
        if key.outcome != "ok":
            return
        if key.call == "tokenize":
            self.errors[client] = self.errors.get(client, 0) + facts.get("errors", 0)
        if key.call == "linkagematch":
            side = (key.agreement, str(facts.get("domain", "")))
            self.keys_of_sides.setdefault(side, set()).add((client, key))
            sums = self.sides.setdefault(side, [0, 0, 0])
            for at, name in enumerate(_PARTS):
                sums[at] += facts.get(name, 0)

    def take_back(self, facts: Mapping[str, Any], lost: int) -> None:
        """So many tokens that an event said it disclosed were not: their records did not open."""
        client, key = _key(facts)
        if counts := self.rows.get(client, {}).get(key):
            counts[_DISCLOSED] -= lost


def count_month(store: Store, span: Span) -> Month:
    """Read and count the events of a month."""
    month = Month()
    lost: dict[str, int] = {}
    kinds = tuple(fact("kind", kind) for kind in (*CALLS, REFUSALS, LOSSES))
    for events in events_in(store, span, Sieve((kinds,))):
        disclosed = released_in(store, events)
        for event in events:
            if event.facts["kind"] == LOSSES:
                of = str(event.facts.get("of"))
                lost[of] = lost.get(of, 0) + event.facts.get("disclosures", 0)
            elif _is_counted(event):
                month.add(event.facts, disclosed.get(event.id, 0))
    for event_id, event in events_by_id(store, list(lost)).items():
        if span.holds(event.facts["at"]):
            month.take_back(event.facts, lost[event_id])
    return month


def report_of(month: Month, name: str, limit: int = 0) -> Report:
    """The tables of a month, rows with a count below `limit` hidden (0: none). Rates are between 0 and 1, or None.

    With a limit every sum says in `hidden` whether it leaves `none`, `some` or `all` of its rows out.
    """
    shown = _Shown(month, limit)
    everything = [(client, key) for client, rows in sorted(month.rows.items()) for key in sorted(rows)]

    def by(names: Sequence[str], value: Callable[[Row], tuple[str, ...]]) -> list[Report]:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for one in everything:
            groups.setdefault(value(one), []).append(one)
        return [dict(zip(names, group, strict=True)) | shown.sums(rows) for group, rows in sorted(groups.items())]

    def with_refusals(rows: list[Row]) -> Report:
        sums = shown.sums(rows)
        refused: Cell = (
            HIDDEN if sums["calls"] == HIDDEN else shown.sum([one for one in rows if one[1].outcome != "ok"])
        )
        return sums | {"refused": refused, "refusal_rate": _rate(refused, sums["calls"])}

    clients = {client: [(client, key) for key in sorted(rows)] for client, rows in sorted(month.rows.items())}
    return {
        "month": name,
        "suppressed_below": limit or None,
        "total": with_refusals(everything),
        "clients": [{"client": client} | with_refusals(rows) for client, rows in clients.items()],
        "rows": [{"client": one[0], **one[1]._asdict()} | shown.counts(one) for one in everything],
        "purposes": by(("purpose", "agreement"), lambda one: (one[1].purpose, one[1].agreement)),
        "persons": by(("person",), lambda one: (one[1].person,)),
        "outcomes": by(("outcome",), lambda one: (one[1].outcome,)),
        "tokenize": list(_validity(month, shown)),
        "linkage": list(_sides(month, shown)),
    }


class _Shown:
    """The rows of a month that are shown, and sums over them: the one place that reads counts for a report."""

    def __init__(self, month: Month, limit: int) -> None:
        self._rows = {(client, key): counts for client, rows in month.rows.items() for key, counts in rows.items()}
        self.limit = limit
        self.hidden = {one for one, counts in self._rows.items() if is_hidden(_protected(one, counts), limit)}

    def counts(self, one: Row) -> dict[str, Cell]:
        """Each measure of a row."""
        return (
            dict.fromkeys(_MEASURES, HIDDEN)
            if one in self.hidden
            else dict(zip(_MEASURES, self._rows[one], strict=True))
        )

    def sum(self, rows: Iterable[Row], measure: int = _CALLS) -> int:
        """The sum of a measure over those of the rows that are shown."""
        return sum(self._rows[one][measure] for one in rows if one not in self.hidden)

    def sums(self, rows: Sequence[Row]) -> dict[str, Cell]:
        """The sum of each measure, and with a limit what it leaves out; nothing is said where no row is shown."""
        share = share_hidden([one in self.hidden for one in rows])
        sums: dict[str, Cell] = {
            name: HIDDEN if share == "all" else self.sum(rows, at) for at, name in enumerate(_MEASURES)
        }
        return sums | ({"hidden": share} if self.limit else {})


def _protected(one: Row, counts: Sequence[int]) -> tuple[int, ...]:
    """The counts of a row that may not be small; of an agreement's also the items that did not match."""
    return (*counts, counts[_ITEMS] - counts[_DISCLOSED]) if one[1].agreement else (*counts,)


def _validity(month: Month, shown: _Shown) -> Iterator[Report]:
    """Of each client's answered Tokenize calls: items, errors, and the part of items that was valid.

    All of it where each row of these calls is shown, and neither errors nor valid items are few; else nothing.
    """
    for client, errors in sorted(month.errors.items()):
        rows = [(client, key) for key in month.rows[client] if (key.call, key.outcome) == ("tokenize", "ok")]
        hidden = not shown.hidden.isdisjoint(rows)
        items = 0 if hidden else shown.sum(rows, _ITEMS)
        if hidden or is_hidden((errors, items - errors), shown.limit):
            yield {"client": client, "items": HIDDEN, "errors": HIDDEN, "validity_rate": HIDDEN}
        else:
            yield {"client": client, "items": items, "errors": errors, "validity_rate": _rate(items - errors, items)}


def _sides(month: Month, shown: _Shown) -> Iterator[Report]:
    """Of each side of an agreement: how many of its items matched, did not, or were errors.

    The sides of an agreement can share calls, whose items and matches are shown: what is hidden of one is of all.
    """
    for agreement in sorted({agreement for agreement, _ in month.sides}):
        sides = {side: parts for side, parts in sorted(month.sides.items()) if side[0] == agreement}
        rows = set().union(*(month.keys_of_sides[side] for side in sides))
        exact = [parts[0] for parts in sides.values()]
        others = sum(sum(parts[1:]) for parts in sides.values())
        hidden: tuple[str, ...] = ()
        if not shown.hidden.isdisjoint(rows):
            hidden = _PARTS
        elif is_hidden((*exact, others), shown.limit):
            hidden = _PARTS if others else _PARTS[:1]  # where calls show as many matches as items the others are 0
        elif any(is_hidden(parts, shown.limit) for parts in sides.values()):
            hidden = _PARTS[1:]  # the matches are what the calls disclosed, which is shown
        for (_, domain), parts in sides.items():
            cells = dict(zip(_PARTS, parts, strict=True)) | dict.fromkeys(hidden, HIDDEN)
            yield {"agreement": agreement, "side": domain} | cells


def _rate(part: Cell, whole: Cell) -> float | str | None:
    """A rate, hidden where one of its counts is; None of nothing."""
    if isinstance(part, str) or isinstance(whole, str):
        return HIDDEN
    return part / whole if whole else None


def _key(facts: Mapping[str, Any]) -> tuple[str, Key]:
    if facts["kind"] == REFUSALS:
        method, reason = facts.get("method", ""), facts.get("reason", "")
        return facts.get("client", ""), Key(method.lower(), "", "", "", reason)
    names = ("purpose", "agreement", "person", "outcome")
    return facts.get("client", ""), Key(facts["kind"], *(facts.get(name, "") for name in names))


def _is_counted(event: Event) -> bool:
    return event.facts["kind"] in CALLS or event.facts["kind"] == REFUSALS
