"""Rows that do not open: named, set aside by two people, and no longer what keeps a stolen key alive."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem, Traits
from tests.conftest import new_database_url
from tests.support.commands import CHECK_FAILED, DONE, REFUSED, USAGE, parsed, ssn_vault, succeeds, waiting_order
from tests.support.stack import JUSTIFICATION, Stack

NUMBERS = [f"94703{serial:04}" for serial in range(20)]
OVERDUE = 3


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request)) as running:
        yield running


def tokens(stack: Stack) -> list[str]:
    with stack.client("sis") as sis:
        return [result.token or "" for result in sis.tokenize("k12", [TokenizeItem(Ssn(n)) for n in NUMBERS])]


def codes(stack: Stack, asked: list[str]) -> list[str]:
    with stack.client("sis") as sis:
        answer = sis.detokenize("k12", asked, purpose="transcript-verification", justification=JUSTIFICATION)
    return [result.error.code.name if result.error else "" for result in answer.results]


def damage(stack: Stack, token: str) -> None:
    stack.tamper("UPDATE token_record SET ciphertext = :bytes WHERE token = :token", token=token, bytes=b"damaged")


def test_the_worst_day_ends_although_a_row_does_not_open(own: Stack, tmp_path: Path) -> None:
    made = tokens(own)
    damage(own, made[7])
    report = tmp_path / "report.md"
    worst = ["keys", "compromised", "--domain", "k12", "--yes", "--report", report, "--second", "key-admin-b"]
    stuck = ssn_vault(own, *worst)
    assert stuck.exit_code == CHECK_FAILED, stuck.output
    assert "keys set-aside --domain k12" in stuck.output
    status = ssn_vault(own, "keys", "status")
    assert status.exit_code == OVERDUE
    assert "! k12: 1 rows do not open" in status.output
    retire = ["keys", "retire", "--domain", "k12", "--kind", "data", "--version", "1", "--yes"]
    assert ssn_vault(own, *retire).exit_code == REFUSED
    aside = ["keys", "set-aside", "--domain", "k12", "--yes"]
    alone = ssn_vault(own, *aside)
    assert alone.exit_code == REFUSED  # it waits for a second person
    assert made[7] in alone.output
    order = waiting_order(alone)
    shown = succeeds(own, "approvals", "show", order)
    assert made[7] in shown  # what the second person signs names the row
    succeeds(own, "approvals", "grant", order, "--as", "key-admin-b", "--yes")
    succeeds(own, *worst)
    assert "did not open, were not moved and were set aside by two people: 1." in report.read_text()
    succeeds(own, "keys", "status")
    assert codes(own, made) == ["DATA_LOSS" if token == made[7] else "" for token in made]
    kept = own.query("SELECT ciphertext FROM token_record WHERE token = :token", token=made[7])
    assert [bytes(row[0]) for row in kept] == [b"damaged"]
    assert "no row that does not open" in succeeds(own, *aside)


def test_a_row_that_opens_is_never_set_aside(own: Stack) -> None:
    """Neither by the command, nor by an order that names it because the database says that it is damaged."""
    made = tokens(own)
    assert ssn_vault(own, "keys", "set-aside", made[0], "--domain", "k12", "--yes").exit_code == USAGE
    own.tamper("INSERT INTO damaged_row (scope, name, found_at) VALUES ('k12', :token, 1)", token=made[0])
    aside = ["keys", "set-aside", "--domain", "k12", "--yes", "--second", "key-admin-b"]
    refused = ssn_vault(own, *aside)
    assert (refused.exit_code, "opens" in refused.output) == (REFUSED, True)
    own.tamper("UPDATE damaged_row SET name = 'k12_NONE'")
    refused = ssn_vault(own, *aside)
    assert (refused.exit_code, "no such row" in refused.output) == (REFUSED, True)
    assert own.query("SELECT count(*) FROM token_record WHERE set_aside IS NOT NULL")[0][0] == 0
    assert codes(own, made) == [""] * len(made)


def test_a_row_whose_number_is_sent_again_with_traits_is_whole_again(own: Stack) -> None:
    made = tokens(own)
    damage(own, made[0])
    assert ssn_vault(own, "keys", "rotate", "--domain", "k12", "--kind", "data", "--yes").exit_code == DONE
    assert ssn_vault(own, "keys", "reencrypt", "--domain", "k12", "--yes").exit_code == CHECK_FAILED
    succeeds(own, "keys", "set-aside", "--domain", "k12", "--yes", "--second", "key-admin-b")
    with own.client("sis") as sis:
        item = TokenizeItem(Ssn(NUMBERS[0]), traits=Traits("Ann", "Lee", "2001-02-03"))
        assert sis.tokenize("k12", [item])[0].token == made[0]
    assert codes(own, made[:1]) == [""]
    # It counts like any other again: the next rotation moves it.
    for kind in ("data", "index"):
        succeeds(own, "keys", "rotate", "--domain", "k12", "--kind", kind, "--yes")
    succeeds(own, "keys", "reencrypt", "--domain", "k12", "--yes")
    assert codes(own, made[:1]) == [""]


def test_a_list_of_an_agreement_that_does_not_open_is_set_aside_by_its_event(own: Stack) -> None:
    made = tokens(own)
    with own.client("k12-research") as research:
        event = research.linkage_match("college-outcomes", [LinkageItem(made[0])]).event_id
    own.tamper("UPDATE linkage_record SET ciphertext = :bytes", bytes=b"damaged")
    succeeds(own, "keys", "rotate", "--agreement", "college-outcomes", "--kind", "index", "--yes")
    again = ["keys", "reencrypt", "--agreement", "college-outcomes", "--yes"]
    assert ssn_vault(own, *again).exit_code == CHECK_FAILED
    retire = ["keys", "retire", "--agreement", "college-outcomes", "--kind", "index", "--version", "1", "--yes"]
    assert ssn_vault(own, *retire).exit_code == REFUSED
    aside = ["keys", "set-aside", event, "--agreement", "college-outcomes", "--yes", "--second", "key-admin-b"]
    assert event in succeeds(own, *aside)
    succeeds(own, *again)
    succeeds(own, *retire)
    assert parsed(own, "audit", "verify")["ok"]
