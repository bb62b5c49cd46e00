"""A loss that was declared explains what it names, and nothing else; one that no checkpoint covers explains nothing."""

import copy
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.auditlog import Book
from tests.support.verifying import verified, wrong
from vault_service.audit.verify import Report, canonical, leaf_hash

Check = Callable[..., Report]


@pytest.fixture
def lost() -> tuple[Book, list[str], dict[str, Any]]:
    """A log that lost what was signed behind entry 3, all notes that were kept, and what the declaration says."""
    book = Book()
    book.add(3)
    common = book.seal()
    left = copy.deepcopy((book.stored, book.items, book.notes))
    book.seal()  # over no more entries, and lost as well
    book.add(4)
    book.seal()
    book.add(2)
    book.seal()
    kept = list(book.notes)
    head = book.stored.checkpoint(book.now)
    facts = {
        "loss_entries": 3,
        "loss_root_sha256": left[0].checkpoint().root.hex(),
        "loss_lost_entries": 9,
        "loss_lost_root_sha256": head.root.hex(),
        "loss_lost_at": book.now,
        "loss_until": book.now + 5000,
    }
    book.stored, book.items, book.notes = left
    assert book.notes == [common]
    book.now += 5000
    return book, kept, facts


ORDER = '{"arguments":{}}'


def line(facts: dict[str, Any]) -> str:
    """What whoever knows of the loss says."""
    names = ("entries", "root_sha256", "lost_entries", "lost_root_sha256", "lost_at")
    return " ".join(str(facts[f"loss_{name}"]) for name in names)


def declare(book: Book, facts: dict[str, Any], outcome: str = "done") -> None:
    made = book.event(kind="order")
    order = {"action": "audit.accept-loss", "order": "1", "order_sha256": sha256(ORDER.encode()).hexdigest()}
    body = json.loads(made["event"]) | order | facts | {"outcome": outcome, "signed_by": ["a", "b"]}
    made["event"] = canonical(body)
    made["hash"] = sha256(made["event"].encode()).hexdigest()
    leaf = leaf_hash(made["event"].encode())
    book.stored.append([leaf])
    book.items.append({"entry": book.stored.size - 1, "leaf": leaf.hex(), **made})


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    """Verify a log against everything that was kept outside of it."""

    def check(book: Book, kept: list[str], *losses: str) -> Report:
        file = tmp_path / "kept"
        file.write_text("".join(f"{note}\n" for note in dict.fromkeys([*kept, *book.notes])))
        *before, end = book.records()
        records = [*before, {"order": "1", "body": ORDER, "texts": []}, end]
        return verified(records, book.key, kept=[file], losses=losses)

    return check


def test_what_was_declared_as_lost_is_told_and_not_wrong(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check
) -> None:
    book, kept, facts = lost
    declare(book, facts)
    book.add(8)  # also over as many entries as were lost
    book.seal()
    report = checked(book, kept, line(facts))
    assert wrong(report) == []
    (loss,) = report.losses
    assert loss.line == line(facts)
    assert (loss.entries, loss.lost_entries, loss.signers, loss.position) == (3, 9, ("a", "b"), 3)
    assert any(note.startswith("DECLARED LOSS: what was signed over entries 3 to 8") for note in report.notes)
    assert any(note.endswith("kept: 2 checkpoints cover entries that are declared as lost") for note in report.notes)


def test_without_a_declaration_it_is_wrong(lost: tuple[Book, list[str], dict[str, Any]], checked: Check) -> None:
    book, kept, _ = lost
    book.add(8)
    book.seal()
    assert wrong(checked(book, kept))


@pytest.mark.parametrize(
    "change",
    [
        {"loss_entries": 7},  # the checkpoint over 7 entries is not explained
        {"loss_lost_entries": 8},
        {"loss_lost_root_sha256": "00" * 32},
        {"loss_lost_at": 0},
    ],
)
def test_a_declaration_of_something_else_explains_nothing(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check, change: dict[str, Any]
) -> None:
    book, kept, facts = lost
    declare(book, facts | change)
    book.add(8)
    book.seal()
    assert wrong(checked(book, kept, line(facts | change)))


@pytest.mark.parametrize("outcome", ["refused", "waiting"])
def test_a_declaration_that_was_refused_explains_nothing(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check, outcome: str
) -> None:
    book, kept, facts = lost
    declare(book, facts, outcome)
    book.seal()
    assert wrong(checked(book, kept, line(facts)))


def test_a_declaration_that_no_checkpoint_covers_explains_nothing(
    lost: tuple[Book, list[str], dict[str, Any]],
    checked: Check,
) -> None:
    book, kept, facts = lost
    declare(book, facts)
    assert wrong(checked(book, kept, line(facts)))


def test_what_was_signed_after_the_loss_is_not_excused_by_it(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check
) -> None:
    book, kept, facts = lost
    declare(book, facts)
    book.seal()
    before = copy.deepcopy((book.stored, book.items, book.notes))
    book.add(2)
    gone = book.seal()
    book.stored, book.items, book.notes = before
    assert wrong(checked(book, [*kept, gone], line(facts)))


def test_what_the_record_says_of_a_loss_excuses_nothing_by_itself(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check
) -> None:
    """Who can insert an event can invent a declaration, with any names: only who was told of the loss believes it."""
    book, kept, facts = lost
    declare(book, facts)
    book.add(8)
    book.seal()
    report = checked(book, kept)
    assert wrong(report)
    assert any(note.endswith(f"--known-loss '{line(facts)}'") for note in report.notes)


def test_a_loss_that_is_known_and_not_declared_is_missed(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check
) -> None:
    book, kept, facts = lost
    book.add(8)
    book.seal()
    assert any("declares no loss" in finding.what for finding in wrong(checked(book, kept, line(facts))))


@pytest.mark.parametrize("change", [{"loss_lost_at": 10**15, "loss_until": 10**15}, {"loss_entries": 9}])
def test_a_declaration_of_what_was_not_signed_by_then_is_found(
    lost: tuple[Book, list[str], dict[str, Any]], checked: Check, change: dict[str, int]
) -> None:
    book, _, facts = lost
    declare(book, facts | change)
    book.seal()
    assert any("can not have been signed" in finding.what for finding in wrong(checked(book, [])))
