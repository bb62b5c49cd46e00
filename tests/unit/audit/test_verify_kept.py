"""What was kept outside the database finds a record that lost its end, was rewritten, or never had an event.

Kept are checkpoint files of the log and of a witness, and the server's log stream.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.auditlog import Book, WitnessKey, checkpoint_at, entry_at
from tests.support.verifying import only, sealed_book, verified, wrong
from vault_service.audit.verify import _MOST_KEPT

WITNESS = WitnessKey()


@pytest.fixture
def book() -> Book:
    return sealed_book(WITNESS)


def kept(path: Path, notes: Iterable[str]) -> Path:
    """A checkpoint file with these notes."""
    path.write_text("".join(f"{note}\n" for note in notes))
    return path


def shorter(book: Book) -> Book:
    """The same log as it was after its second checkpoint, with nothing to show that there was more."""
    position = book.items.index(checkpoint_at(book.items, 2))
    before = Book(key=book.key)
    before.items, before.notes, before.now = book.items[: position + 1], book.notes[:2], book.now
    before.stored.append(book.stored.levels[0][:8])
    return before


def test_a_record_agrees_with_what_was_kept_of_it(book: Book, tmp_path: Path) -> None:
    file = kept(tmp_path / "file", book.notes)
    report = verified(book.records(), book.key, witness=WITNESS, kept=[file], witness_files=[file])
    assert wrong(report) == []
    assert report.notes == [f"{file}: 3 checkpoints fit, the last over 12 entries"] * 2


@pytest.mark.parametrize("live", [False, True])
def test_a_truncated_end_is_found_by_a_kept_file(book: Book, tmp_path: Path, live: bool) -> None:
    file = kept(tmp_path / "file", book.notes)
    lost = shorter(book)
    lost.live = live
    assert wrong(verified(lost.records(), book.key)) == []
    for finding in (
        only(verified(lost.records(), book.key, kept=[file])),
        only(verified(lost.records(), book.key, witness_files=[file])),
    ):
        assert finding.where == f"entries 8 to 11, by 1 checkpoints in {file}"
        assert finding.what.startswith("12 entries were signed at 2030-")
        assert ", 8 are there" in finding.what


def test_entries_removed_under_a_checkpoint_that_was_left_are_counted(book: Book) -> None:
    records = [one for one in book.records() if one.get("entry", 0) < 10]
    records[-1]["entries"] = 10
    finding = only(verified(records, book.key))
    assert finding == ("checkpoint 3", "it covers 12 entries: the last 2 were removed")


def test_checkpoints_newer_than_an_export_are_passed_over_only_when_it_is_said_to_be_older(
    book: Book, tmp_path: Path
) -> None:
    exported = book.records()
    book.now += 5000
    book.add(2)
    book.seal()
    file = kept(tmp_path / "file", book.notes)
    report = verified(exported, book.key, kept=[file], older=True)
    assert wrong(report) == []
    assert report.notes[1:] == [f"{file}: 1 checkpoints are newer than the export, and were not asked for"]
    where = f"entries 12 to 13, by 1 checkpoints in {file}"
    assert only(verified(exported, book.key, kept=[file])).where == where
    exported[0]["live"] = True  # the database itself has no excuse
    assert only(verified(exported, book.key, kept=[file], older=True)).where == where


def test_an_older_export_still_has_everything_up_to_its_own_last_checkpoint(book: Book, tmp_path: Path) -> None:
    file = kept(tmp_path / "file", book.notes)
    records = [one for one in book.records() if one.get("entry", 0) < 8 and one.get("checkpoint") != 2]
    checkpoint_at(records, 3)["checkpoint"] = 2
    records[-1].update(entries=8, checkpoints=2)
    assert wrong(verified(records, book.key, kept=[file], older=True))[0].where == "checkpoint 2"


def test_a_kept_checkpoint_that_the_log_does_not_have_is_named(book: Book, tmp_path: Path) -> None:
    records = [one for one in book.records() if one.get("checkpoint") != 2]
    checkpoint_at(records, 3)["checkpoint"] = 2
    records[-1]["checkpoints"] = 2
    assert wrong(verified(records, book.key)) == []  # numbers are not signed
    file = kept(tmp_path / "file", book.notes)
    finding = only(verified(records, book.key, kept=[file]))
    assert finding.where.startswith("the checkpoint of 2030-")
    assert finding.what == "it is not among the log's own checkpoints"
    # A witness may have cosigned one that the database did not take any more.
    assert wrong(verified(records, book.key, witness_files=[file])) == []


@pytest.mark.parametrize("witness", [False, True])
def test_a_kept_checkpoint_of_another_history_is_named(book: Book, tmp_path: Path, witness: bool) -> None:
    other = Book(key=book.key)
    other.add(8, tokens=1)
    file = kept(tmp_path / "file", [other.seal(witness=WITNESS)])
    files: dict[str, Any] = {"witness_files": [file]} if witness else {"kept": [file]}
    findings = wrong(verified(book.records(), book.key, **files))
    assert "another history" in findings[0].what
    assert all(finding.where.endswith(f" in {file}") for finding in findings)


def test_a_kept_checkpoint_that_is_not_signed_is_named(book: Book, tmp_path: Path) -> None:
    file = kept(tmp_path / "file", [*book.notes, Book().seal()])
    finding = only(verified(book.records(), book.key, kept=[file]))
    assert finding == (f"a checkpoint in {file}", "it is not signed by a key of the log")


def test_cosignatures_in_a_witnesss_file_count(book: Book, tmp_path: Path) -> None:
    book.add(2)
    book.seal()
    assert only(verified(book.records(), book.key, witness=WITNESS)).where == "entries 12 to 13"
    head = book.stored.checkpoint(book.now, origin=book.origin)
    file = kept(tmp_path / "file", [book.key.note(head, WITNESS.cosign(head))])
    report = verified(book.records(), book.key, witness=WITNESS, witness_files=[file])
    assert (wrong(report), report.cosigned) == ([], 14)


def test_a_file_that_holds_no_checkpoint_proves_nothing(book: Book, tmp_path: Path) -> None:
    file = kept(tmp_path / "file", [])
    assert only(verified(book.records(), book.key, kept=[file])) == (str(file), "it holds no checkpoint")
    assert only(verified(book.records(), book.key, witness_files=[file])) == (str(file), "it holds no checkpoint")
    file.write_text("nothing of ours\n")
    assert only(verified(book.records(), book.key, streams=[file])) == ("the log stream", "it announces no event")


def test_kept_checkpoints_may_stand_in_any_order(book: Book, tmp_path: Path) -> None:
    """A server that was slow appended its own after a newer one of another."""
    file = kept(tmp_path / "file", [*reversed(book.notes), book.notes[1]])
    assert wrong(verified(book.records(), book.key, kept=[file])) == []


def test_several_files_are_held_against_one_record(book: Book, tmp_path: Path) -> None:
    files = [kept(tmp_path / f"{number}", book.notes[number:]) for number in range(3)]
    assert wrong(verified(book.records(), book.key, kept=files)) == []
    findings = wrong(verified(shorter(book).records(), book.key, kept=files))
    assert [finding.where.rpartition("/")[2] for finding in findings] == ["0", "1", "2"]


# The log stream


def stream(path: Path, book: Book, *more: object, notes: bool = True) -> Path:
    """What a server logged while it made the book."""
    lines: list[object] = [{"event": "serving", "level": "info"}]
    for item in (*book.items, *book.waiting):
        if identifier := item.get("id", item.get("unsealed")):
            lines.append({"logger": "ssn_vault.events", "events": [[identifier, item["hash"]]]})
        elif notes and "note" in item:
            lines.append({"logger": "ssn_vault.checkpoints", "note": item["note"]})
    path.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *more)))
    return path


def test_a_record_agrees_with_its_stream(book: Book, tmp_path: Path) -> None:
    book.wait()
    file = stream(tmp_path / "log", book)
    report = verified(book.records(), book.key, streams=[file])
    assert wrong(report) == []
    assert report.notes == [
        "the log stream: 3 checkpoints fit, the last over 12 entries",
        "1 events wait for their place in the log",
        "the log stream: 13 of 13 events met",
    ]


def test_events_that_no_stream_announced_are_told_of(book: Book, tmp_path: Path) -> None:
    """Whoever can write into the database can invent an event, and it is sealed: no server announced it."""
    file = stream(tmp_path / "log", book)
    lines = file.read_text().splitlines()
    silent = [entry_at(book.items, position)["id"] for position in (0, 3, 4, 11)]  # the first and last are its edges
    file.write_text("".join(f"{line}\n" for line in lines if not any(one in line for one in silent)))
    report = verified(book.records(), book.key, streams=[file])
    assert wrong(report) == []
    assert report.notes[:2] == [
        f"the log stream: it never announced entry {at} (event {silent[at - 2]})" for at in (3, 4)
    ]
    assert report.notes[-1].startswith("the log stream: 2 events were never announced")


def test_an_event_that_only_the_stream_knows_is_named(book: Book, tmp_path: Path) -> None:
    made = book.event()
    book.now += 120_000
    line = {"logger": "ssn_vault.events", "events": [[made["id"], made["hash"]]]}
    file = stream(tmp_path / "log", book, line)
    finding = only(verified(book.records(), book.key, streams=[file]))
    assert finding == (f"event {made['id']}", "the log stream announced it, but it is not in the record")


def test_an_event_announced_after_an_export_is_passed_over_only_when_it_is_said_to_be_older(
    book: Book, tmp_path: Path
) -> None:
    exported = book.records()
    made = book.event()
    file = stream(tmp_path / "log", book, {"logger": "ssn_vault.events", "events": [[made["id"], made["hash"]]]})
    report = verified(exported, book.key, streams=[file], older=True)
    assert wrong(report) == []
    assert report.notes[-1] == "the log stream: 1 events are newer than the export, and were not asked for"
    assert only(verified(exported, book.key, streams=[file])).where == f"event {made['id']}"
    exported[0]["live"] = True
    assert only(verified(exported, book.key, streams=[file], older=True)).where == f"event {made['id']}"


def test_a_log_collectors_words_before_a_line_do_no_harm(book: Book, tmp_path: Path) -> None:
    file = stream(tmp_path / "log", book)
    file.write_text(
        "".join(f"2026-11-24T21:56:02Z host ssn-vault[7]: {line}\n" for line in file.read_text().splitlines())
    )
    assert wrong(verified(book.records(), book.key, streams=[file])) == []
    file.write_text(file.read_text().replace(entry_at(book.items, 3)["hash"], "00" * 32))
    assert only(verified(book.records(), book.key, streams=[file])).where.startswith("entry 3 ")


def test_an_event_announced_with_another_hash_is_named(book: Book, tmp_path: Path) -> None:
    records = book.records()
    file = stream(tmp_path / "log", book)
    entry = entry_at(book.items, 3)
    file.write_text(file.read_text().replace(entry["hash"], "00" * 32))
    finding = only(verified(records, book.key, streams=[file]))
    assert finding == (f"entry 3 (event {entry['id']})", "the log stream announced another event under this id")


def test_an_event_announced_twice_with_different_hashes_is_named(book: Book, tmp_path: Path) -> None:
    entry = entry_at(book.items, 3)
    line = {"logger": "ssn_vault.events", "events": [[entry["id"], "00" * 32]]}
    file = stream(tmp_path / "log", book, line)
    finding = only(verified(book.records(), book.key, streams=[file]))
    assert finding == (f"event {entry['id']}", "the log stream announced it twice, with different hashes")


def test_checkpoints_in_the_stream_find_a_lost_end(book: Book, tmp_path: Path) -> None:
    file = stream(tmp_path / "log", book)
    lost = shorter(book)
    lost.live = True
    findings = wrong(verified(lost.records(), book.key, streams=[file]))
    assert findings[0].where == "entries 8 to 11, by 1 checkpoints in the log stream"
    assert len(findings) == 5  # and each of the four events


def test_the_streams_of_several_servers_belong_together(book: Book, tmp_path: Path) -> None:
    halves = (tmp_path / "one", tmp_path / "other")
    lines = stream(tmp_path / "log", book, notes=False).read_text().splitlines(keepends=True)
    halves[0].write_text("".join(lines[::2]))
    halves[1].write_text("".join(lines[1::2]))
    assert wrong(verified(book.records(), book.key, streams=halves)) == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"logger":"ssn_vault.events","events":[["0190',
        b'{"logger":"ssn_vault.events","events":[["only an id"]]}',
        b'{"logger":"ssn_vault.events","events":7}',
        b'{"logger":"ssn_vault.events"}',
        b'["ssn_vault.events"]',
        b"ssn_vault. \xff\xfe",
        b'{"logger":"ssn_vault.events","events":' + b"[" * 100_000,
    ],
)
def test_a_line_that_was_cut_off_or_is_not_ours_is_passed_over(book: Book, tmp_path: Path, line: bytes) -> None:
    file = stream(tmp_path / "log", book)
    file.write_bytes(line + b"\n" + file.read_bytes() + line)
    assert wrong(verified(book.records(), book.key, streams=[file])) == []


@pytest.mark.parametrize("identifier", ["", "x", "zzzzzzzz-zzzz-7000-8000-000000000000"])
def test_an_announced_id_that_is_none_is_a_finding_and_never_an_accident(
    book: Book, tmp_path: Path, identifier: str
) -> None:
    file = stream(tmp_path / "log", book, {"logger": "ssn_vault.events", "events": [[identifier, "00" * 32]]})
    assert only(verified(book.records(), book.key, streams=[file])).where == f"event {identifier}"


def test_of_very_many_findings_some_are_kept_and_all_are_counted(book: Book, tmp_path: Path) -> None:
    events = [[f"{number:08x}-0000-7000-8000-000000000000", "00" * 32] for number in range(500)]
    file = stream(tmp_path / "log", book, {"logger": "ssn_vault.events", "events": events})
    report = verified(book.records(), book.key, streams=[file])
    assert (report.count, len(report.findings)) == (500, _MOST_KEPT)
