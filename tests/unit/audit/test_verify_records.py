"""A record that is whole verifies; each way in which an entry can be wrong is found, and the entry is named.

Records are those that `audit.export` gives, built in memory, and changed in one way each.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest

from tests.support.auditlog import Book, Records, WitnessKey, checkpoint_at, entry_at
from tests.support.verifying import only, sealed_book, verified, wrong
from vault_service.audit.verify import SILENCE_MS, Finding, canonical, leaf_hash
from vault_service.orders.order import Action, new_order

WITNESS = WitnessKey()


@pytest.fixture
def book() -> Book:
    return sealed_book(WITNESS)


def at(findings: Sequence[Finding], where: str) -> str:
    """What was found at a place, and nothing elsewhere."""
    assert {finding.where for finding in findings} == {where}
    return "; ".join(finding.what for finding in findings)


def named(records: Records, position: int) -> str:
    return f"entry {position} (event {entry_at(records, position)['id']})"


def test_a_whole_record_verifies(book: Book) -> None:
    report = verified(book.records(), book.key, witness=WITNESS)
    assert wrong(report) == []
    assert report.notes == []
    assert (report.entries, report.disclosures, report.checkpoints) == (12, 24, 3)
    assert (report.covered, report.cosigned, report.unsealed) == (12, 12, 0)
    assert report.newest_ms == checkpoint_at(book.records(), 3)["at"]


def test_an_empty_log_verifies() -> None:
    book = Book()
    assert wrong(verified(book.records(), book.key)) == []
    book.seal()
    report = verified(book.records(), book.key)
    assert wrong(report) == []
    assert (report.entries, report.checkpoints, report.covered) == (0, 1, 0)


def test_what_is_not_sealed_or_placed_yet_is_told_and_not_wrong(book: Book) -> None:
    book.add(3)
    book.wait()
    report = verified(book.records(), book.key)
    assert wrong(report) == []
    assert report.notes == [
        "entries 12 to 14 stand under no checkpoint yet",
        "1 events wait for their place in the log",
    ]


def test_an_event_that_was_kept_out_of_the_log_is_named(book: Book) -> None:
    book.wait()
    waits = book.waiting[0]["unsealed"]
    book.now += SILENCE_MS - 10  # as long as that a queue may be
    book.add()
    book.seal()
    assert wrong(verified(book.records(), book.key)) == []
    book.now += 1000
    book.add()
    book.seal()
    (finding,) = wrong(verified(book.records(), book.key))
    assert finding.where == f"event {waits}, not in the log yet"
    assert finding.what == "it was kept out of the log: much younger events have their places"


def test_an_event_that_was_held_back_for_long_is_told(book: Book) -> None:
    late = book.event()
    book.now += SILENCE_MS + 1000
    book.add()
    book.seal()
    leaf = leaf_hash(late["event"].encode())
    book.stored.append([leaf])
    book.items.append({"entry": 13, "leaf": leaf.hex(), **late})
    book.seal()
    report = verified(book.records(), book.key)
    assert wrong(report) == []
    told = f"{named(book.items, 13)} got its place long after much younger events: was it held back?"
    assert [note for note in report.notes if "held" in note] == [told]


def test_an_id_from_the_future_does_not_make_those_that_wait_old(book: Book) -> None:
    book.now += 10 * SILENCE_MS
    book.add()
    book.now -= 9 * SILENCE_MS
    book.wait()
    book.seal()
    assert wrong(verified(book.records(), book.key)) == []


@pytest.mark.parametrize(
    "facts", [{"at": None}, {"at": -1}, {"at": 10**17}, {"at": "1"}, {"at": True}, {"kind": None}, {"kind": 1}]
)
def test_an_event_without_a_time_or_kind_is_named_though_it_was_signed(book: Book, facts: dict[str, Any]) -> None:
    made = book.event()
    body = json.loads(made["event"]) | facts
    made["event"] = canonical({name: value for name, value in body.items() if value is not None})
    made["hash"] = sha256(made["event"].encode()).hexdigest()
    leaf = leaf_hash(made["event"].encode())
    book.stored.append([leaf])
    book.items.append({"entry": 12, "leaf": leaf.hex(), **made})
    book.seal()
    (finding,) = wrong(verified(book.records(), book.key))
    assert finding == (named(book.items, 12), "the event has no time, or no kind: no server wrote it")


# Entries


@pytest.mark.parametrize("position", [0, 5, 11])
def test_an_edited_body_is_named(book: Book, position: int) -> None:
    records = book.records()
    entry = entry_at(records, position)
    entry["event"] = entry["event"].replace('"sis"', '"registrar"')
    told = at(wrong(verified(records, book.key)), named(records, position))
    assert "the event's hash is not that of its body" in told
    assert "the event was changed" in told


def test_an_edited_body_with_its_hash_is_named(book: Book) -> None:
    records = book.records()
    entry = entry_at(records, 5)
    entry["event"] = entry["event"].replace('"sis"', '"registrar"')
    entry["hash"] = sha256(entry["event"].encode()).hexdigest()
    assert "the event was changed" in at(wrong(verified(records, book.key)), named(records, 5))


def test_an_edit_that_keeps_up_all_appearances_is_found_by_the_signature(book: Book) -> None:
    records = book.records()
    entry = entry_at(records, 5)
    entry["event"] = entry["event"].replace('"sis"', '"registrar"')
    entry["hash"] = sha256(entry["event"].encode()).hexdigest()
    entry["leaf"] = sha256(b"\x00" + entry["event"].encode()).hexdigest()
    first, second = wrong(verified(records, book.key))
    assert first == ("checkpoint 2", first.what)
    assert "an entry from 4 to 7 was changed" in first.what
    assert second.where == "checkpoint 3"


def test_an_edited_stored_hash_is_named(book: Book) -> None:
    records = book.records()
    entry_at(records, 7)["hash"] = "00" * 32
    assert only(verified(records, book.key)) == (named(records, 7), "the event's hash is not that of its body")


def test_an_edited_leaf_is_named_and_breaks_the_checkpoints_over_it(book: Book) -> None:
    records = book.records()
    entry_at(records, 7)["leaf"] = "00" * 32
    findings = wrong(verified(records, book.key))
    assert [finding.where for finding in findings] == [named(records, 7), "checkpoint 2", "checkpoint 3"]


def test_a_vanished_event_is_named(book: Book) -> None:
    records = book.records()
    entry_at(records, 7).update(event=None, hash=None, disclosures=[])
    assert only(verified(records, book.key)) == (named(records, 7), "its event is gone")


def test_a_missing_entry_is_named(book: Book) -> None:
    records = [one for one in book.records() if one.get("entry") != 6]
    findings = wrong(verified(records, book.key))
    assert findings[0] == ("entry 6", "it is missing: the log goes on with entry 7")
    assert {finding.where for finding in findings[1:]} <= {"the export"}


@pytest.mark.parametrize("renumber", [False, True])
def test_swapped_entries_are_found(book: Book, renumber: bool) -> None:
    records = book.records()
    one, other = records.index(entry_at(records, 1)), records.index(entry_at(records, 2))
    records[one], records[other] = records[other], records[one]
    if renumber:
        records[one]["entry"], records[other]["entry"] = 1, 2
    findings = wrong(verified(records, book.key))
    assert findings[0].where == ("checkpoint 1" if renumber else "entry 1")


def test_an_entry_that_was_put_in_is_found(book: Book) -> None:
    records = book.records()
    last = records.index(checkpoint_at(records, 3))
    records.insert(last, {**entry_at(records, 11), "entry": 12})
    findings = wrong(verified(records, book.key))
    assert findings[0].where == "checkpoint 3"


# Disclosure rows


def _rows(records: Records, position: int) -> list[list[Any]]:
    rows: list[list[Any]] = entry_at(records, position)["disclosures"]
    return rows


@pytest.mark.parametrize("column", range(5))
def test_an_edited_disclosure_row_is_named(book: Book, column: int) -> None:
    records = book.records()
    row = _rows(records, 3)[1]
    row[column] = row[column] + (1 if column == 0 else "x")
    told = at(wrong(verified(records, book.key)), named(records, 3))
    assert "its disclosure rows are not those that the event's root was made from" in told


def test_a_removed_disclosure_row_is_named(book: Book) -> None:
    records = book.records()
    _rows(records, 3).pop()
    told = at(wrong(verified(records, book.key)), named(records, 3))
    assert "the event says 2 disclosure rows, 1 are there" in told


def test_an_added_disclosure_row_is_named(book: Book) -> None:
    records = book.records()
    _rows(records, 3).append([2, "k12", "k12_more", "found", "00" * 16])
    assert "the event says 2 disclosure rows, 3 are there" in at(wrong(verified(records, book.key)), named(records, 3))


@pytest.mark.parametrize("renumber", [False, True])
def test_reordered_disclosure_rows_are_named(book: Book, renumber: bool) -> None:
    records = book.records()
    rows = _rows(records, 3)
    rows.reverse()
    if renumber:
        rows[0][0], rows[1][0] = 0, 1
    told = at(wrong(verified(records, book.key)), named(records, 3))
    assert ("not numbered from 0 on" in told) is not renumber
    assert "not those that the event's root was made from" in told


def test_disclosure_rows_of_another_event_are_named(book: Book) -> None:
    records = book.records()
    entry_at(records, 3)["disclosures"] = _rows(records, 4)
    assert "its disclosure rows are not those" in at(wrong(verified(records, book.key)), named(records, 3))


def test_an_event_under_another_id_is_named(book: Book) -> None:
    records = book.records()
    entry_at(records, 3)["id"] = "01ba60d3-3800-7000-8000-ffffffffffff"
    assert "the event says another id" in at(wrong(verified(records, book.key)), named(records, 3))


def test_an_event_that_is_not_canonical_is_named_though_it_was_signed() -> None:
    book = Book()
    book.add()
    entry = book.items[0]
    body = entry["event"].replace(",", ", ")
    entry.update(event=body, hash=sha256(body.encode()).hexdigest())
    leaf = sha256(b"\x00" + body.encode()).digest()
    entry["leaf"], book.stored.levels[0][0] = leaf.hex(), leaf
    book.seal()
    assert only(verified(book.records(), book.key)) == (named(book.records(), 0), "the event is not canonical JSON")


def test_an_edited_event_that_waits_is_named(book: Book) -> None:
    book.wait()
    records = book.records()
    waiting = next(one for one in records if "unsealed" in one)
    waiting["event"] = waiting["event"].replace('"sis"', '"registrar"')
    assert only(verified(records, book.key)).where == f"event {waiting['unsealed']}, not in the log yet"


# Nodes, orphans, the end


def test_a_wrong_or_missing_node_is_named() -> None:
    book = Book()
    book.live = True
    book.add(513, tokens=0)
    book.seal()
    assert wrong(verified(book.records(), book.key)) == []
    records = book.records()
    nodes = [one for one in records if "node" in one]
    assert len(nodes) == 2
    nodes[0]["node"][2], nodes[1]["node"][2] = "00" * 32, None
    assert wrong(verified(records, book.key)) == [
        ("node 0 of level 1 (entries 0 to 255)", "it is not the root of its entries"),
        ("node 1 of level 1 (entries 256 to 511)", "it is missing"),
    ]


def test_orphans_are_named_as_they_come(book: Book) -> None:
    records = book.records()
    records.insert(-1, {"orphan": "event", "id": "x", "what": "it has no place in the log"})
    assert only(verified(records, book.key)) == ("event x", "it has no place in the log")


def test_a_missing_end_is_found(book: Book) -> None:
    assert only(verified(book.records()[:-1], book.key)) == ("the export", "its end is missing")


@pytest.mark.parametrize("field", ["entries", "checkpoints"])
def test_another_number_at_the_end_is_found(book: Book, field: str) -> None:
    records = book.records()
    records[-1][field] += 1
    assert only(verified(records, book.key)).where == "the export"


# Texts


def test_a_text_that_was_removed_is_told_as_gone_and_is_not_wrong(book: Book) -> None:
    records = book.records()
    entry_at(records, 3)["texts"] = []
    report = verified(records, book.key)
    assert wrong(report) == []
    assert report.gone == 1
    assert [note for note in report.notes if "gone" in note] == [
        f"{named(records, 3)}: its justification is gone; what it was is not known any more, that it was is"
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_text_that_is_not_what_was_recorded_is_found(book: Book, place: int) -> None:
    records = book.records()
    entry_at(records, 3)["texts"][0][place] += "0"
    (finding,) = wrong(verified(records, book.key))
    assert finding.where == named(records, 3)
    assert "is not the text that was recorded" in finding.what


def test_another_events_text_is_found(book: Book) -> None:
    records = book.records()
    entry_at(records, 3)["texts"] = entry_at(records, 4)["texts"]
    assert at(wrong(verified(records, book.key)), named(records, 3)) == (
        "its justification is not the text that was recorded"
    )


# Orders


def order_record(book: Book, outcome: str = "done") -> dict[str, Any]:
    """An order that was decided, with its event as the log's last entry; its record."""
    order = new_order(Action.FREEZE, "key-admin-a", {"kind": "all", "name": "", "reason": "stolen laptop"}, book.now)
    made = book.event(kind="order")
    body = json.loads(made["event"]) | {
        "order": order.id,
        "order_sha256": sha256(order.body.encode()).hexdigest(),
        "outcome": outcome,
    }
    made["event"] = canonical(body)
    made["hash"] = sha256(made["event"].encode()).hexdigest()
    leaf = leaf_hash(made["event"].encode())
    book.stored.append([leaf])
    book.items.append({"entry": 12, "leaf": leaf.hex(), **made})
    book.seal()
    return {"order": order.id, "body": order.body, "texts": [list(row[1:]) for row in order.texts]}


def with_order(book: Book, *orders: dict[str, Any]) -> Records:
    *records, end = book.records()
    return [*records, *orders, end]


def test_orders_are_held_against_what_was_decided(book: Book) -> None:
    order = order_record(book)
    assert wrong(verified(with_order(book, order), book.key)) == []
    (gone,) = wrong(verified(with_order(book), book.key))
    assert gone == (f"order {order['order']}", "the record says that it was decided, but it is gone")
    (changed,) = wrong(verified(with_order(book, {**order, "body": order["body"].replace("all", "alL")}), book.key))
    assert changed == (f"order {order['order']}", "it is not the order that was decided")


def test_a_reason_is_checked_where_it_is_and_told_as_gone_where_it_is_not(book: Book) -> None:
    order = order_record(book)
    report = verified(with_order(book, {**order, "texts": []}), book.key)
    assert (wrong(report), report.gone) == ([], 1)
    ((name, salt, _),) = order["texts"]
    (found,) = wrong(verified(with_order(book, {**order, "texts": [[name, salt, "lost laptop"]]}), book.key))
    assert found == (f"order {order['order']}", "its reason is not the text that was recorded")


def test_of_what_waits_or_was_refused_nothing_is_asked(book: Book) -> None:
    order = {**order_record(book, "refused"), "texts": [["reason", "", "another"]]}
    junk = {"order": "1", "body": "junk", "texts": [["reason", "", "x"]]}
    assert wrong(verified(with_order(book, order, junk), book.key)) == []
