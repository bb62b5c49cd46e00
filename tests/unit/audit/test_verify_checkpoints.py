"""Checkpoints of a record, and the witness's: each that is wrong, gone or of another history is found and named."""

from pathlib import Path

import pytest

from tests.support.auditlog import Book, LogKey, WitnessKey, checkpoint_at
from tests.support.verifying import only, sealed_book, verified, wrong
from vault_service.audit.verify import SILENCE_MS

WITNESS = WitnessKey()


@pytest.fixture
def book() -> Book:
    return sealed_book(WITNESS)


def test_a_checkpoint_with_another_root_is_named(book: Book) -> None:
    records = book.records()
    other = Book(key=book.key)
    other.add(8, tokens=1)
    other.now = checkpoint_at(records, 2)["at"] - 1000
    checkpoint_at(records, 2)["note"] = other.seal()
    finding = only(verified(records, book.key))
    assert finding.where == "checkpoint 2"
    assert "its root is another: an entry from 4 to 7 was changed, or it is of another history" in finding.what


def test_an_unsigned_checkpoint_is_named(book: Book) -> None:
    records = book.records()
    record = checkpoint_at(records, 2)
    record["note"] = record["note"].partition("\n\n")[0] + "\n\n"
    assert only(verified(records, book.key)) == ("checkpoint 2", "it has not the form of a checkpoint")
    record["note"] = record["note"] + WITNESS.cosign(book.stored.checkpoint(record["at"], 8))
    assert only(verified(records, book.key)) == ("checkpoint 2", "it is not signed by a key of the log")


def test_a_checkpoint_of_another_key_is_named(book: Book) -> None:
    book.add()
    book.seal(by=LogKey())
    finding = only(verified(book.records(), book.key))
    assert finding == ("checkpoint 4", "it is not signed by a key of the log")


def test_a_signature_that_does_not_hold_is_named(book: Book) -> None:
    records = book.records()
    one, other = checkpoint_at(records, 1), checkpoint_at(records, 2)
    texts, signatures = zip(*(note["note"].split("\n\n") for note in (one, other)), strict=True)
    one["note"], other["note"] = f"{texts[0]}\n\n{signatures[1]}", f"{texts[1]}\n\n{signatures[0]}"
    assert wrong(verified(records, book.key)) == [
        ("checkpoint 1", "the log's signature does not hold"),
        ("checkpoint 2", "the log's signature does not hold"),
    ]


@pytest.mark.parametrize("number", [1, 2])
def test_a_deleted_checkpoint_is_named(book: Book, number: int) -> None:
    records = [one for one in book.records() if one.get("checkpoint") != number]
    assert only(verified(records, book.key)) == (
        f"checkpoint {number}",
        f"it is missing: the next one is {number + 1}",
    )


def test_the_last_checkpoint_deleted_is_seen_at_the_end(book: Book) -> None:
    records = [one for one in book.records() if one.get("checkpoint") != 3]
    report = verified(records, book.key)
    assert only(report).where == "the export"
    assert "entries 8 to 11 stand under no checkpoint yet" in report.notes


@pytest.mark.parametrize("renumber", [False, True])
def test_swapped_checkpoints_are_found(book: Book, renumber: bool) -> None:
    records = book.records()
    one, other = records.index(checkpoint_at(records, 1)), records.index(checkpoint_at(records, 2))
    records[one], records[other] = records[other], records[one]
    if renumber:
        records[one]["checkpoint"], records[other]["checkpoint"] = 1, 2
    found = {finding.where for finding in wrong(verified(records, book.key))}
    assert {"checkpoint 1", "checkpoint 2"} <= found


@pytest.mark.parametrize("field", ["size", "at"])
def test_another_size_or_time_beside_a_checkpoint_is_named(book: Book, field: str) -> None:
    records = book.records()
    checkpoint_at(records, 2)[field] += 1
    assert only(verified(records, book.key)) == ("checkpoint 2", "the size or time beside it is not the signed one")


@pytest.mark.parametrize("back", [1000, 3000])
def test_a_checkpoint_that_is_not_later_than_the_one_before_is_named(book: Book, back: int) -> None:
    book.seal(after=1000 - back)
    assert only(verified(book.records(), book.key)) == ("checkpoint 4", "it is not later than the one before it")


def test_a_fork_of_two_signed_heads_is_found_whichever_is_shown(book: Book) -> None:
    fork = Book(key=book.key)
    fork.add(12, tokens=1)
    records = book.records()
    fork.seal(after=9000)
    records.insert(-1, {**checkpoint_at(fork.records(), 1), "checkpoint": 4})
    records[-1]["checkpoints"] = 4
    finding = only(verified(records, book.key))
    assert (finding.where, "another history" in finding.what) == ("checkpoint 4", True)


def test_checkpoints_under_two_keys_verify_with_both_and_each_is_named_without_its_own(book: Book) -> None:
    newer = LogKey()
    book.add(2)
    book.seal(by=newer)
    for keys in ((book.key, newer), (newer, book.key)):
        report = verified(book.records(), *keys)
        assert (wrong(report), report.covered) == ([], 14)
    assert only(verified(book.records(), book.key)).where == "checkpoint 4"
    assert [one.where for one in wrong(verified(book.records(), newer))] == [f"checkpoint {n}" for n in (1, 2, 3)]


def test_another_origin_is_told(book: Book) -> None:
    book.origin = "other.example.org/audit"
    book.add()
    book.seal()
    report = verified(book.records(), book.key)
    assert wrong(report) == []
    assert report.notes == ["from checkpoint 4 on the log is called other.example.org/audit: was it restored?"]


def test_silence_is_told(book: Book) -> None:
    book.seal(after=SILENCE_MS)
    assert verified(book.records(), book.key).notes == []
    book.seal(after=SILENCE_MS + 1)
    book.now += SILENCE_MS
    report = verified(book.records(), book.key)
    assert wrong(report) == []
    assert [note.split(" 2030")[0] for note in report.notes] == ["no checkpoint between", "no checkpoint since"]


def test_silence_of_a_log_that_a_witness_should_see_is_wrong(tmp_path: Path) -> None:
    """A database that was cut back to a checkpoint that was cosigned then shows nothing else."""
    book = sealed_book(WITNESS)
    book.live = True
    assert wrong(verified(book.records(), book.key, witness=WITNESS)) == []
    book.now += SILENCE_MS
    finding = only(verified(book.records(), book.key, witness=WITNESS))
    assert (finding.where, finding.what[:23]) == ("the checkpoints", "no checkpoint since 203")
    file = tmp_path / "witnessed"  # what the witness knows answers whether it was cut back
    file.write_text("".join(f"{note}\n" for note in book.notes))
    report = verified(book.records(), book.key, witness=WITNESS, witness_files=[file])
    assert wrong(report) == []
    assert any(note.startswith("no checkpoint since 203") for note in report.notes)
    book.live = False  # an export may be as old as it is
    assert wrong(verified(book.records(), book.key, witness=WITNESS)) == []


# Witness


def test_a_demanded_witness_that_cosigned_nothing_is_missed() -> None:
    book = Book()
    book.add(4)
    book.seal()
    finding = only(verified(book.records(), book.key, witness=WITNESS))
    assert finding.where == "entries 0 to 3"
    assert "the witness has cosigned 0 entries, the newest checkpoint covers 4" in finding.what
    nothing = only(verified(Book(key=book.key).records(), book.key, witness=WITNESS))
    assert "the witness has cosigned 0 entries" in nothing.what


def test_entries_behind_the_witness_are_named(book: Book) -> None:
    book.add(3)
    book.seal(witness=WitnessKey())
    report = verified(book.records(), book.key, witness=WITNESS)
    assert only(report).where == "entries 12 to 14"
    assert (report.covered, report.cosigned) == (15, 12)
    book.seal(witness=WITNESS)
    assert wrong(verified(book.records(), book.key, witness=WITNESS)) == []


def test_a_cosignature_that_does_not_hold_is_named_only_where_it_is_demanded(book: Book) -> None:
    book.add()
    book.now += 1000
    wrong_head = book.stored.checkpoint(book.now + 1, origin=book.origin)
    book.seal(WITNESS.cosign(wrong_head), after=0)
    assert wrong(verified(book.records(), book.key)) == []
    told = only(verified(book.records(), book.key, witness=WITNESS))
    assert told == ("checkpoint 4", "the witness's cosignature does not hold")
