"""What holds of every order, and that one person alone never changes the policy."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.samples import (
    BULK,
    NOW,
    SIGNERS,
    TWO_SIGNERS,
    WRAPPED,
    frozen,
    ordered,
    sample_state,
    sample_text,
    with_key,
    with_policy,
)
from vault_service.audit.loss import Loss, parse_loss
from vault_service.errors import MoreSignaturesNeededError, OrderRefusedError
from vault_service.orders.key_state import Stage
from vault_service.orders.order import CLOCK_SKEW_MS, LIFE_MS, Action, new_order
from vault_service.orders.state import ControlState, apply, signatures_needed
from vault_service.policy.decide import Freezes

# Whatever the action


def test_every_order_in_force_takes_the_epoch_one_on() -> None:
    state = sample_state()
    assert (ControlState().epoch, state.epoch) == (0, 1)
    assert frozen(state)[0].epoch == 2


def test_an_order_leaves_the_state_before_it_as_it_was() -> None:
    state = sample_state()
    frozen(state)
    with_key(state, "k12")
    assert (state.epoch, state.freezes, dict(state.keys)) == (1, Freezes(), {})


@pytest.mark.parametrize("late", [LIFE_MS + 1, 2 * LIFE_MS])
def test_an_expired_order_is_refused(late: int) -> None:
    with pytest.raises(OrderRefusedError, match="expired"):
        ordered(
            sample_state(), Action.FREEZE, {"kind": "all", "name": "", "reason": "x"}, ["key-admin-a"], now=NOW + late
        )


def test_an_order_holds_to_the_end_of_its_life() -> None:
    arguments = {"kind": "all", "name": "", "reason": "x"}
    for now in (NOW - CLOCK_SKEW_MS, NOW, NOW + LIFE_MS):
        assert ordered(sample_state(), Action.FREEZE, arguments, ["key-admin-a"], now=now)[0].freezes.everything


def test_an_order_from_the_future_is_refused() -> None:
    with pytest.raises(OrderRefusedError, match="future"):
        ordered(
            sample_state(),
            Action.FREEZE,
            {"kind": "all", "name": "", "reason": "x"},
            ["key-admin-a"],
            now=NOW - CLOCK_SKEW_MS - 1,
        )


@pytest.mark.parametrize("signed_by", [[], ["key-admin-b"], ["signer-a", "signer-b"]])
def test_an_order_that_its_actor_did_not_sign_is_refused(signed_by: list[str]) -> None:
    with pytest.raises(OrderRefusedError, match="not signed by its actor"):
        ordered(
            sample_state(),
            Action.FREEZE,
            {"kind": "all", "name": "", "reason": "x"},
            signed_by,
            actor="key-admin-a",
        )


def test_the_grave_ones_need_two() -> None:
    needed = {action: signatures_needed(new_order(action, "a", {}, NOW), SIGNERS) for action in Action}
    assert needed == {
        Action.APPLY_POLICY: 2,
        Action.THAW: 2,
        Action.APPROVE_BULK: 2,
        Action.DESTROY_KEY: 2,
        Action.SET_ASIDE: 2,
        Action.ACCEPT_LOSS: 2,
        Action.CREATE_KEY: 1,
        Action.ACTIVATE_KEY: 1,
        Action.REWRAP_KEY: 1,
        Action.REENCRYPT: 1,
        Action.RETIRE_KEY: 1,
        Action.FREEZE: 1,
        Action.DRILL: 1,
        Action.DENY: 1,
    }


@pytest.mark.parametrize(
    "action",
    [action for action in Action if signatures_needed(new_order(action, "a", {}, NOW), SIGNERS) == 2],
)
def test_one_person_who_signs_twice_is_one(action: Action) -> None:
    with pytest.raises(OrderRefusedError, match="second person"):
        ordered(sample_state(), action, {}, ["signer-a", "signer-a"])


_ARGUMENTS: list[tuple[Action, list[str], dict[str, Any]]] = [
    (Action.APPLY_POLICY, TWO_SIGNERS, {"base": 1, "policy": sample_text()}),
    (Action.CREATE_KEY, ["key-admin-a"], {"scope": "k12", "kind": "data", "version": 1, "wrapped": WRAPPED}),
    (Action.FREEZE, ["key-admin-a"], {"kind": "all", "name": "", "reason": "x"}),
    (Action.APPROVE_BULK, ["tax-clerk", "records-officer"], BULK),
    (Action.DENY, ["key-admin-a"], {"order_id": "x"}),
]
_WRONG_TYPE = {str: 5, int: True}


@pytest.mark.parametrize(("action", "signed_by", "arguments"), _ARGUMENTS)
def test_arguments_are_exactly_those_of_the_action(
    action: Action, signed_by: list[str], arguments: dict[str, Any]
) -> None:
    state = sample_state()
    ordered(state, action, arguments, signed_by)
    wrong: list[dict[str, Any]] = [{}, {**arguments, "more": 1}]
    for name, value in arguments.items():
        wrong.append({other: kept for other, kept in arguments.items() if other != name})
        wrong.append({**arguments, name: _WRONG_TYPE[type(value)]})
        wrong.append({**arguments, name: None})
    for each in wrong:
        with pytest.raises(OrderRefusedError, match="not those of its action"):
            ordered(state, action, each, signed_by)


# Denials


@pytest.mark.parametrize("by", ["key-admin-a", "records-officer", "signer-a"])
def test_a_denied_order_never_comes_in_force(by: str) -> None:
    state = sample_state()
    asked = new_order(Action.APPROVE_BULK, "tax-clerk", BULK, NOW)
    denied, _ = ordered(state, Action.DENY, {"order_id": asked.id}, [by])
    with pytest.raises(OrderRefusedError, match="denied"):
        apply(denied, asked, ["tax-clerk", "records-officer"], SIGNERS, NOW)
    assert apply(state, asked, ["tax-clerk", "records-officer"], SIGNERS, NOW).approvals


@pytest.mark.parametrize("by", ["tax-clerk", "auditor", "nobody"])
def test_who_has_no_role_denies_nothing(by: str) -> None:
    with pytest.raises(OrderRefusedError, match="role"):
        ordered(sample_state(), Action.DENY, {"order_id": "x"}, [by])


DAY = 24 * 3600 * 1000


# Losses

LOSS = {
    "entries": 10,
    "root": "0a" * 32,
    "lost_entries": 20,
    "lost_root": "0b" * 32,
    "lost_at": NOW - 5000,
    "lost_note": "as it was signed",
    "until": NOW,
    "epoch": 1,
    "reason": "failover to a standby that was behind",
}


def test_a_loss_is_accepted_by_the_policys_signers_and_names_what_is_left_and_what_is_gone() -> None:
    state, order = ordered(sample_state(), Action.ACCEPT_LOSS, LOSS, TWO_SIGNERS)
    assert state.losses == (Loss(order.id, 10, b"\x0a" * 32, 20, b"\x0b" * 32, NOW - 5000, NOW, "as it was signed"),)
    assert (state.epoch, state.last_order) == (2, order.id)
    with pytest.raises(MoreSignaturesNeededError):
        ordered(sample_state(), Action.ACCEPT_LOSS, LOSS, ["signer-a", "key-admin-a"])
    with pytest.raises(OrderRefusedError, match="signers"):
        ordered(sample_state(), Action.ACCEPT_LOSS, LOSS, ["key-admin-a", "signer-a", "signer-b"])


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 0},
        {"epoch": 2},
        {"entries": -1},
        {"entries": 20},
        {"lost_entries": 2**53},
        {"lost_at": 0},
        {"until": NOW - 6000},
        {"root": "0A" * 32},
        {"lost_root": "0b" * 31},
        {"entries": True},
    ],
)
def test_a_loss_of_another_log_or_of_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OrderRefusedError):
        ordered(sample_state(), Action.ACCEPT_LOSS, {**LOSS, **changes}, TWO_SIGNERS)


@pytest.mark.parametrize(
    ("size", "root", "at", "expected"),
    [
        (10, b"x" * 32, NOW - 9000, False),
        (11, b"x" * 32, NOW - 9000, True),
        (20, b"\x0b" * 32, NOW - 5000, True),
        (20, b"x" * 32, NOW - 5000, False),
        (20, b"\x0b" * 32, NOW - 4999, False),
        (21, b"\x0b" * 32, NOW - 9000, False),
    ],
)
def test_a_loss_covers_what_was_signed_over_what_is_gone_and_nothing_else(
    size: int, root: bytes, at: int, expected: bool
) -> None:
    (loss,) = ordered(sample_state(), Action.ACCEPT_LOSS, LOSS, TWO_SIGNERS)[0].losses
    assert loss.covers(size, root, at) is expected
    assert parse_loss(loss.line).covers(size, root, at) is expected


# One person alone

_PEOPLE = st.sampled_from(["signer-a", "key-admin-a", "records-officer", "tax-clerk", "auditor", "nobody"])
_ANY_KEY = {
    "scope": st.sampled_from(["k12", "highered", "college-outcomes"]),
    "kind": st.sampled_from(["data", "index"]),
    "version": st.integers(1, 2),
}
_ANY_ARGUMENTS: dict[Action, st.SearchStrategy[dict[str, Any]]] = {
    Action.APPLY_POLICY: st.fixed_dictionaries(
        {"base": st.integers(0, 3), "policy": st.just(sample_text().replace("per_call: 10 ", "per_call: 999 "))}
    ),
    Action.CREATE_KEY: st.fixed_dictionaries({**_ANY_KEY, "wrapped": st.just(WRAPPED)}),
    Action.REWRAP_KEY: st.fixed_dictionaries({**_ANY_KEY, "wrapped": st.just(WRAPPED)}),
    Action.ACTIVATE_KEY: st.fixed_dictionaries(_ANY_KEY),
    Action.RETIRE_KEY: st.fixed_dictionaries(_ANY_KEY),
    Action.DESTROY_KEY: st.fixed_dictionaries(_ANY_KEY),
    Action.REENCRYPT: st.fixed_dictionaries({"scope": _ANY_KEY["scope"], "rows_per_second": st.integers(0, 9)}),
    Action.FREEZE: st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["client", "person", "domain", "all"]),
            "name": st.sampled_from(["sis", "k12"]),
            "reason": st.just("x"),
        }
    ),
    Action.THAW: st.just({"freeze": "replaced below"}),
    Action.DRILL: st.fixed_dictionaries(
        {"steps": st.integers(0, 9), "seconds": st.integers(0, 99), "passed": st.booleans()}
    ),
    Action.APPROVE_BULK: st.fixed_dictionaries(
        {
            "client": st.sampled_from(["sis", "financial-aid"]),
            "purpose": st.just("tax-reporting"),
            "tokens": st.integers(1, 200),
            "justification": st.just("the year's end"),
        }
    ),
    Action.DENY: st.just({"order_id": "x"}),
    Action.SET_ASIDE: st.fixed_dictionaries({"scope": _ANY_KEY["scope"], "rows": st.just(["k12_A"])}),
    Action.ACCEPT_LOSS: st.builds(dict, st.just(LOSS), epoch=st.integers(0, 3)),
}
_STEPS = st.sampled_from(list(Action)).flatmap(
    lambda action: st.tuples(st.just(action), _ANY_ARGUMENTS[action], st.integers(-2 * DAY, 2 * DAY))
)


@settings(max_examples=150)
@given(_PEOPLE, st.lists(_STEPS, max_size=12), st.integers(1, 3))
def test_no_orders_of_one_person_change_the_policy_or_approve_or_thaw_or_destroy(
    person: str, steps: list[tuple[Action, dict[str, Any], int]], times_signed: int
) -> None:
    start = sample_state()
    state = start
    for action, arguments, later in steps:
        sent = {"freeze": next(iter(state.freezes_by_order), "none")} if action is Action.THAW else arguments
        try:
            after, _ = ordered(state, action, sent, [person] * times_signed, now=NOW + later)
        except OrderRefusedError:
            continue
        assert state.freezes_by_order.items() <= after.freezes_by_order.items()
        state = after
    assert state.policy is start.policy
    assert (state.policy_text, state.policy_version) == (start.policy_text, start.policy_version)
    assert not state.approvals
    assert not state.losses
    assert not any(v.stage is Stage.DESTROYED for versions in state.keys.values() for v in versions)


@given(st.sets(st.sampled_from(["signer-a", "signer-b", "signer-c", "key-admin-a", "auditor"]), min_size=1))
def test_a_policy_is_in_force_exactly_when_enough_signers_and_nobody_else_signed(names: set[str]) -> None:
    def in_force(apply_it: Callable[[], ControlState]) -> bool:
        try:
            return apply_it().policy_version == 2
        except OrderRefusedError:
            return False

    state = sample_state()
    expected = len(names) >= 2 and names <= SIGNERS.names
    assert in_force(lambda: with_policy(state, sample_text(), sorted(names))) is expected
