"""Whatever stands in an export, the verifier says what is wrong with it: never an accident, and never nothing.

Records come from whoever wants to be believed. Memory does not grow with their number.
"""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.auditlog import Book, WitnessKey, write_bundle
from tests.support.verifying import sealed_book, verified, wrong
from vault_service.audit.verify import EMPTY_ROOT, Frontier, Keys, Verifier, leaf_hash, read_bundle, verify_all

WITNESS = WitnessKey()
BOOK = sealed_book(WITNESS)
BOOK.add(2)
BOOK.wait()

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KINDS = ("bundle", "entry", "checkpoint", "unsealed", "orphan", "end", "other")
_FIELDS = ("id", "hash", "leaf", "event", "disclosures", "size", "at", "note", "what", "made_ms", "live", "entries")


def _places(value: Any) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in ((key,), *((key, *rest) for rest in _places(one)))]


@settings(max_examples=400)
@given(st.data())
def test_a_record_with_anything_in_a_fields_place_is_found(data: st.DataObject) -> None:
    records = BOOK.records()
    number = data.draw(st.integers(0, len(records) - 1))
    place, value = data.draw(st.sampled_from(_places(records[number]))), data.draw(_JSON)
    # What an export says of its own making cannot be held against anything.
    assume((number or place[0] == "bundle") and place != ("end",))
    assume((place, value) != (("texts",), []))  # a text may be removed
    inside: Any = records[number]
    for key in place[:-1]:
        inside = inside[key]
    assume(inside[place[-1]] != value)
    inside[place[-1]] = value
    assert verified(records, BOOK.key).count > 0, (number, place, value)


@settings(max_examples=400)
@given(st.sampled_from(_KINDS), st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=7), _JSON, st.integers(0, 20))
def test_a_record_of_anything_is_found(kind: str, fields: dict[str, Any], value: Any, where: int) -> None:
    records = BOOK.records()
    records.insert(min(where, len(records) - 1), {kind: value, **fields})
    assert verified(records, BOOK.key).count > 0


@given(_JSON, st.integers(0, 20))
def test_a_node_of_anything_is_never_an_accident(value: Any, where: int) -> None:
    records = BOOK.records()
    records.insert(where, {"node": value})
    verified(records, BOOK.key)


@pytest.mark.parametrize(
    "node",
    [
        [1, -1, "00"],
        [0, -1, "00"],
        [-1, 0, "00"],
        [1e300, 0, "00"],
        [1.5, 0, "00"],
        [float("inf"), 0, "00"],
        [float("nan"), float("nan"), None],
        [64, 0, "00"],
        [100_000, 0, "00"],
        ["1", 0, "00"],
        [1, 0],
        [],
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [True, False])
def test_a_node_that_cannot_be_is_found_and_never_an_accident(node: object, first: bool) -> None:
    records = BOOK.records()
    records.insert(1 if first else len(records) - 1, {"node": node})
    assert verified(records, BOOK.key).count > 0


@pytest.mark.parametrize(
    "rows", ["", {}, [[]], [[0]], [None], [5], ["abcde"], [{}], {"0": []}, 0, [[0, 1, 2, 3, 4, 5]], [[[]] * 5]], ids=str
)
@pytest.mark.parametrize("kind", ["entry", "unsealed"])
def test_disclosure_rows_that_are_none_are_found_and_never_an_accident(kind: str, rows: object) -> None:
    book = Book()
    book.add(tokens=0)
    book.seal()
    book.wait()
    records = book.records()
    assert verified(records, book.key).count == 0
    next(one for one in records if kind in one)["disclosures"] = rows
    assert verified(records, book.key).count > 0


def test_what_is_nested_too_deep_is_found_and_never_an_accident() -> None:
    for depth in range(700, 1000, 5):
        nested: Any = "x"
        for _ in range(depth):
            nested = [nested]
        for field in ("disclosures", "event", "hash", "leaf", "id"):
            records = BOOK.records()
            records[1][field] = [[0, "a", "b", "c", nested]] if field == "disclosures" else nested
            assert verified(records, BOOK.key).count > 0


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 1e300, -1, 10**400, True, None, "0"])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("bundle", "made_ms"),
        ("entry", "entry"),
        ("checkpoint", "checkpoint"),
        ("checkpoint", "size"),
        ("end", "entries"),
    ],
)
def test_numbers_beyond_all_bounds_are_never_an_accident(kind: str, field: str, number: object) -> None:
    records = BOOK.records()
    next(one for one in records if kind in one)[field] = number
    verified(records, BOOK.key)


# The export as a whole


def test_an_export_without_a_beginning_is_found() -> None:
    assert verified(BOOK.records()[1:], BOOK.key).count > 0


def test_an_export_that_begins_twice_is_found() -> None:
    records = BOOK.records()
    records.insert(5, records[0])
    assert verified(records, BOOK.key).count > 0


def test_an_export_that_goes_on_after_its_end_is_found() -> None:
    records = BOOK.records()
    more = BOOK.records()
    waiting = next(one for one in more if "unsealed" in one)
    entry = {"entry": 14, "id": waiting["unsealed"], "leaf": leaf_hash(waiting["event"].encode()).hex()}
    records.append({**entry, **{name: waiting[name] for name in ("event", "hash", "disclosures")}})
    assert verified(records, BOOK.key).count > 0


def test_an_export_of_another_form_is_found() -> None:
    records = BOOK.records()
    records[0]["bundle"] = "ssn-vault-audit 3"
    (finding,) = wrong(verified(records, BOOK.key))
    assert finding.where == "the export"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"null", b"[]", b"7", b'"entry"', b"\xff\xfe", b"{}", b'{"entry"}', b"[" * 100_000, b"9" * 5000],
    ids=lambda line: line[:8].decode(errors="replace"),
)
def test_a_line_that_is_no_record_is_found(tmp_path: Path, line: bytes) -> None:
    file = write_bundle(tmp_path / "export", BOOK.records())
    assert verify_all(read_bundle(file), Keys([BOOK.key.public])).count == 0
    first, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes(first + b"\n" + line + b"\n" + rest)
    assert verify_all(read_bundle(file), Keys([BOOK.key.public])).count > 0


@given(st.binary(max_size=200))
def test_a_file_of_anything_is_found(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "export"
    file.write_bytes(content)
    assert verify_all(read_bundle(file), Keys([BOOK.key.public])).count > 0


def test_every_cut_of_an_export_is_found(tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "export", BOOK.records()).read_bytes()
    cut = tmp_path / "cut"
    for end in (*range(0, len(whole) - 1, 41), len(whole) - 2):
        cut.write_bytes(whole[:end])
        assert verify_all(read_bundle(cut), Keys([BOOK.key.public])).count > 0


# Memory


def test_the_frontier_holds_at_most_64_hashes() -> None:
    frontier = Frontier()
    assert frontier.root().hex() == EMPTY_ROOT
    frontier.size, frontier.subtrees = 2**64 - 2, [leaf_hash(b"%d" % at) for at in range(63)]
    frontier.append(leaf_hash(b"last"))
    assert len(frontier.subtrees) == 64


def test_memory_does_not_grow_with_the_log() -> None:
    book = Book()

    def held(count: int) -> int:
        verifier = Verifier(Keys([book.key.public]))
        records = book.records()[:count]
        tracemalloc.start()
        for record in records:
            verifier.take(record)
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert verifier.report.count == 0
        return now

    for _ in range(200):
        book.add(9, tokens=1)
        book.seal()
    assert held(2001) < held(501) + 40_000
