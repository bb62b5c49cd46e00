"""What is wrong with a key is said in words, with the command that mends it."""

from typing import Any

import pytest

from tests.unit.samples import NOW, ordered, sample_state, with_key
from vault_service.keys.encryptions import MOST_ENCRYPTIONS
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_report import KeyLine, Periods, key_lines
from vault_service.orders.order import Action
from vault_service.orders.state import ControlState

DAY = 24 * 3600 * 1000
PERIODS = Periods(730, 730, 365)
ONE, TWO = KeyName("k12", KeyKind.DATA, 1), KeyName("k12", KeyKind.DATA, 2)


def steps(*actions: tuple[Action, int]) -> ControlState:
    """A data key of k12 with two versions, after some more orders."""
    state = with_key(with_key(sample_state(), "k12"), "k12", version=2)
    for action, version in actions:
        arguments = {"scope": "k12", "kind": "data", "version": version}
        state = ordered(state, action, arguments, ["key-admin-a", "key-admin-b"])[0]
    return state


ACTIVATED = steps((Action.ACTIVATE_KEY, 2))
RETIRED = steps((Action.ACTIVATE_KEY, 2), (Action.RETIRE_KEY, 1))
DESTROYED = steps((Action.ACTIVATE_KEY, 2), (Action.RETIRE_KEY, 1), (Action.DESTROY_KEY, 1))


def lines(state: ControlState, days: float = 0, **known: Any) -> list[KeyLine]:
    found = {"records": {}, "encryptions": {}, "undeleted": (), "unopened": (), "periods": PERIODS, **known}
    return key_lines(state, now_ms=NOW + int(days * DAY), **found)


def test_keys_in_order_have_no_problem() -> None:
    for state in (ACTIVATED, RETIRED, DESTROYED):
        assert [line.problems for line in lines(state, records={TWO: 5})] == [(), ()]
    assert [line.problems for line in lines(with_key(sample_state(), "k12"), records={ONE: 5})] == [()]


def test_a_line_says_what_there_is() -> None:
    first, second = lines(ACTIVATED, 12.5, records={ONE: 3, TWO: 5}, encryptions={("k12", 1): 17})
    assert (first.scope, first.kind, first.version, first.state, first.age_days) == ("k12", "data", 1, "old", 12)
    assert (first.records, first.encryptions, first.cryptoperiod_days, first.wrapped_days) == (3, 17, 730, 12)
    assert (second.state, second.records, second.encryptions) == ("active", 5, 0)
    assert first.wrapping_key == "ssn-vault-k12-data-1"


@pytest.mark.parametrize(
    ("state", "days", "known", "version", "words"),
    [
        (ACTIVATED, 731, {}, 2, "cryptoperiod of 730 days: ssn-vault keys rotate --kind data --domain k12"),
        (ACTIVATED, 731, {}, 1, "cryptoperiod of 730 days: ssn-vault keys reencrypt --domain k12"),
        (ACTIVATED, 366, {}, 2, "not been rotated for 365 days: ssn-vault keys rotate --kind wrapping --domain k12"),
        (ACTIVATED, 0, {"encryptions": {("k12", 2): int(0.9 * MOST_ENCRYPTIONS)}}, 2, "of the 4,294,967,296"),
        (RETIRED, 0, {"records": {ONE: 7}}, 1, "7 rows use it although it is retired"),
        (DESTROYED, 0, {"records": {ONE: 7}}, 1, "7 rows use it although it is destroyed"),
        (
            DESTROYED,
            0,
            {"undeleted": [ONE]},
            1,
            "destroy --kind data --domain k12 --version 1 --confirm k12/data/1",
        ),
        (ACTIVATED, 0, {"unopened": [TWO]}, 2, "wrapping key ssn-vault-k12-data-2 was deleted, or is another one now"),
        (ACTIVATED, 0, {"unopened": [ONE]}, 1, "then ssn-vault keys reencrypt --domain k12"),
        (steps(), 0.1, {}, 2, "never became active: ssn-vault keys rotate --kind data --domain k12 goes on"),
        (ACTIVATED, 0, {"records": {KeyName("k12", KeyKind.DATA, 9): 1}}, 9, "no key of ours"),
    ],
)
def test_what_is_wrong_is_said(state: ControlState, days: float, known: Any, version: int, words: str) -> None:
    (line,) = [line for line in lines(state, days, **known) if line.version == version]
    assert any(words in problem for problem in line.problems), line.problems


@pytest.mark.parametrize(
    ("state", "days", "known"),
    [
        (ACTIVATED, 364, {"encryptions": {("k12", 2): int(0.7 * MOST_ENCRYPTIONS)}}),
        (RETIRED, 5000, {"records": {ONE: 0}}),  # nobody uses it any more, however old it is
    ],
)
def test_nothing_is_said_before_it_is_wrong(state: ControlState, days: float, known: Any) -> None:
    assert lines(state, days, **known)[0].problems == ()


def test_an_agreements_key_is_named_as_such() -> None:
    state = with_key(sample_state(), "college-outcomes", "index")
    (line,) = lines(state, 800)
    assert "--agreement college-outcomes" in line.problems[0]
    assert line.encryptions is None
