"""The month in counts: calls, items and disclosed tokens by client, purpose or agreement, person and outcome.

Events come in, a report of cells goes out. With a limit small counts are hidden as `suppression` says: the rows of
all clients with their totals are protected, and every other table shows only sums of rows that are shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from vault_service.governance.suppression import HIDDEN, Cell, Suppressed, label
from vault_service.governance.uses import CALLS, LOSSES, REFUSALS
from vault_service.storage.engine import Store
from vault_service.storage.event_queries import Event, Sieve, Span, events_by_id, events_in, fact, released_in

_MEASURES: Final = ("calls", "items", "disclosed")
_CALLS, _ITEMS, _DISCLOSED = range(3)
Report = dict[str, Any]


class Key(NamedTuple):
    """What calls of one client are counted by. `outcome` is `ok` or the reason of a refusal."""

    call: str
    purpose: str
    agreement: str
    person: str
    outcome: str


@dataclass
class Month:
    """Counts so far. Of refusals that were only counted, the items and the person are not known."""

    rows: dict[str, dict[Key, list[int]]] = field(default_factory=dict)  # by client: calls, items, disclosed
    errors: dict[str, int] = field(default_factory=dict)  # of Tokenize, by client
    sides: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # agreement, domain: exact, no match, errors
    keys_of_sides: dict[tuple[str, str], set[tuple[str, Key]]] = field(default_factory=dict)

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
            for at, name in enumerate(("exact", "no_match", "errors")):
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
    """The tables of a month, counts below `limit` suppressed (0: none). Rates are between 0 and 1, or None."""
    table = {client: dict(sorted(rows.items())) for client, rows in sorted(month.rows.items())}
    shown = Suppressed(table, len(_MEASURES), limit)
    everything = [(client, key) for client, rows in table.items() for key in rows]

    def by(names: Sequence[str], value: Callable[[Key], tuple[str, ...]]) -> list[Report]:
        groups: dict[tuple[str, ...], list[tuple[str, Key]]] = {}
        for one in everything:
            groups.setdefault(value(one[1]), []).append(one)
        return [
            dict(zip(names, group, strict=True))
            | {measure: shown.sum_of(rows, at) for at, measure in enumerate(_MEASURES)}
            for group, rows in sorted(groups.items())
        ]

    def with_refusals(rows: list[tuple[str, Key]], calls: Cell) -> Report:
        refused = shown.sum_of([one for one in rows if one[1].outcome != "ok"], _CALLS)
        return {"refused": refused, "refusal_rate": _rate(refused, calls)}

    return {
        "month": name,
        "suppressed_below": limit or None,
        "total": {measure: shown.total(at) for at, measure in enumerate(_MEASURES)}
        | with_refusals(everything, shown.total(_CALLS)),
        "clients": [
            {"client": client}
            | {measure: shown.group(client, at) for at, measure in enumerate(_MEASURES)}
            | with_refusals([(client, key) for key in rows], shown.group(client, _CALLS))
            for client, rows in table.items()
        ],
        "rows": [
            {"client": client, **key._asdict()}
            | {measure: shown.row(client, key, at) for at, measure in enumerate(_MEASURES)}
            for client, key in everything
        ],
        "purposes": by(("purpose", "agreement"), lambda key: (key.purpose, key.agreement)),
        "persons": by(("person",), lambda key: (key.person,)),
        "outcomes": by(("outcome",), lambda key: (key.outcome,)),
        "tokenize": list(_validity(month, shown)),
        "linkage": list(_sides(month, shown)),
    }


def _validity(month: Month, shown: Suppressed[str, Key]) -> Iterator[Report]:
    """Of each client's answered Tokenize calls: items, errors, and the part of items that was valid."""
    for client, errors in sorted(month.errors.items()):
        rows = [(client, key) for key in shown.table[client] if (key.call, key.outcome) == ("tokenize", "ok")]
        items = shown.sum_of(rows, _ITEMS)
        wrong: Cell = errors
        if not isinstance(items, int) or any(0 < part < shown.limit for part in (errors, items - errors)):
            wrong = label(errors, shown.limit) if errors else 0
        invalid = _rate(wrong, items)
        valid = 1 - invalid if isinstance(invalid, float) else invalid
        yield {"client": client, "items": items, "errors": wrong, "validity_rate": valid}


def _sides(month: Month, shown: Suppressed[str, Key]) -> Iterator[Report]:
    """Of each side of an agreement: how many of its items matched, did not, or were errors."""
    for side, parts in sorted(month.sides.items()):
        open_still = shown.rows.isdisjoint(month.keys_of_sides[side])
        cells = hidden_parts(parts, shown.limit, known_sum=open_still)
        yield {"agreement": side[0], "side": side[1]} | dict(zip(("exact", "no_match", "errors"), cells, strict=True))


def hidden_parts(parts: Sequence[int], limit: int, *, known_sum: bool) -> list[Cell]:
    """What is shown of numbers whose sum is shown (`known_sum`) or hidden: one small one hides all.

    Where only one choice of values would add up, it is not even said which are small, or 0.
    """
    if known_sum and not any(0 < part < limit for part in parts):
        return list(parts)
    small = [part for part in parts if 0 < part < limit]
    large = [part for part in parts if part >= limit]
    together = sum(parts)
    spare = together - len(small) - limit * len(large)  # above the least that each can be
    exact = spare == 0 or (not large and together == len(small) * (limit - 1))
    if known_sum and exact:
        return [HIDDEN] * len(parts)
    return [label(part, limit) if part else 0 for part in parts]


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
