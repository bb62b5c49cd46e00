"""A key version goes from its making to its destruction in one order only, each step signed by who may."""

from typing import Any

import pytest

from tests.unit.samples import NOW, WRAPPED, ordered, sample_state, with_key
from vault_service.errors import MoreSignaturesNeededError, OrderRefusedError
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_state import Stage
from vault_service.orders.order import Action
from vault_service.orders.state import MOST_ROWS_PER_SECOND, ControlState, Reencryption

NEWER = WRAPPED.replace("vault:v1:", "vault:v2:")
ADMIN, OTHER_ADMIN, APPROVER = "key-admin-a", "key-admin-b", "records-officer"


def named(version: int, scope: str = "k12", kind: str = "data") -> dict[str, Any]:
    return {"scope": scope, "kind": kind, "version": version}


def step(state: ControlState, action: Action, version: int, *people: str, now: int = NOW, **more: Any) -> ControlState:
    return ordered(state, action, {**named(version), **more}, people or (ADMIN,), now=now)[0]


def stages(state: ControlState, scope: str = "k12", kind: KeyKind = KeyKind.DATA) -> list[Stage]:
    return [version.stage for version in state.versions(scope, kind)]


def two_versions() -> ControlState:
    """Version 1 old, version 2 active."""
    return step(with_key(with_key(sample_state(), "k12"), "k12", version=2), Action.ACTIVATE_KEY, 2)


def test_the_whole_life_of_a_version() -> None:
    state = with_key(sample_state(), "k12")
    assert stages(state) == [Stage.ACTIVE]  # nothing else could be
    state = with_key(state, "k12", version=2)
    assert stages(state) == [Stage.ACTIVE, Stage.LOADING]
    assert [version.name.version for version in state.live("k12", KeyKind.DATA)] == [1]
    assert len(state.wrapped_keys()) == 2  # servers load it already
    state = step(state, Action.ACTIVATE_KEY, 2, now=NOW + 1)
    assert stages(state) == [Stage.OLD, Stage.ACTIVE]
    assert [version.name.version for version in state.live("k12", KeyKind.DATA)] == [1, 2]
    state = step(state, Action.RETIRE_KEY, 1, now=NOW + 2)
    assert stages(state) == [Stage.RETIRED, Stage.ACTIVE]
    assert [name.version for name in state.wrapped_keys()] == [2]
    state = step(state, Action.DESTROY_KEY, 1, ADMIN, OTHER_ADMIN, now=NOW + 3)
    first, second = state.versions("k12", KeyKind.DATA)
    assert (first.stage, first.wrapped, second.stage) == (Stage.DESTROYED, "", Stage.ACTIVE)
    assert (first.since, first.active_until, first.retired_at, first.destroyed_at) == (NOW, NOW + 1, NOW + 2, NOW + 3)


def test_a_key_wrapped_anew_changes_nothing_else() -> None:
    before = two_versions()
    after = step(before, Action.REWRAP_KEY, 1, wrapped=NEWER, now=NOW + 5)
    version = after.version(KeyName("k12", KeyKind.DATA, 1))
    assert version is not None
    assert (version.wrapped, version.wrapped_at, version.since, version.stage) == (NEWER, NOW + 5, NOW, Stage.OLD)
    assert stages(after) == stages(before)


@pytest.mark.parametrize(
    ("action", "version", "more"),
    [
        (Action.ACTIVATE_KEY, 1, {}),  # old: there is no way back
        (Action.ACTIVATE_KEY, 2, {}),  # active already
        (Action.ACTIVATE_KEY, 3, {}),
        (Action.RETIRE_KEY, 2, {}),  # the active one
        (Action.RETIRE_KEY, 3, {}),
        (Action.DESTROY_KEY, 1, {}),  # not retired
        (Action.DESTROY_KEY, 2, {}),
        (Action.REWRAP_KEY, 3, {"wrapped": NEWER}),
    ],
)
def test_a_step_out_of_order_is_refused(action: Action, version: int, more: dict[str, Any]) -> None:
    with pytest.raises(OrderRefusedError, match="only a"):
        step(two_versions(), action, version, ADMIN, OTHER_ADMIN, **more)


def test_a_retired_version_does_not_come_back() -> None:
    state = step(two_versions(), Action.RETIRE_KEY, 1)
    for action in (Action.ACTIVATE_KEY, Action.RETIRE_KEY):
        with pytest.raises(OrderRefusedError, match="only a"):
            step(state, action, 1)
    with pytest.raises(OrderRefusedError, match="only a"):
        step(state, Action.REWRAP_KEY, 1, wrapped=NEWER)
    with pytest.raises(OrderRefusedError, match="next version"):
        with_key(state, "k12", version=1)


def test_one_version_is_loading_at_a_time_and_can_be_given_up() -> None:
    state = with_key(with_key(sample_state(), "k12"), "k12", version=2)
    with pytest.raises(OrderRefusedError, match="not active yet"):
        with_key(state, "k12", version=3)
    state = step(state, Action.RETIRE_KEY, 2)
    assert stages(with_key(state, "k12", version=3)) == [Stage.ACTIVE, Stage.RETIRED, Stage.LOADING]


@pytest.mark.parametrize("people", [(ADMIN,), (ADMIN, ADMIN), (ADMIN, "auditor"), (ADMIN, "nobody")])
def test_nobody_destroys_a_key_alone(people: tuple[str, ...]) -> None:
    retired = step(two_versions(), Action.RETIRE_KEY, 1)
    with pytest.raises(MoreSignaturesNeededError):
        step(retired, Action.DESTROY_KEY, 1, *people)


def test_an_approver_can_be_the_second_but_not_the_first() -> None:
    retired = step(two_versions(), Action.RETIRE_KEY, 1)
    assert stages(step(retired, Action.DESTROY_KEY, 1, ADMIN, APPROVER))[0] is Stage.DESTROYED
    with pytest.raises(OrderRefusedError, match="role"):
        step(retired, Action.DESTROY_KEY, 1, APPROVER, ADMIN)


@pytest.mark.parametrize(
    ("action", "more"),
    [
        (Action.ACTIVATE_KEY, {}),
        (Action.REWRAP_KEY, {"wrapped": NEWER}),
        (Action.RETIRE_KEY, {}),
    ],
)
@pytest.mark.parametrize("by", [APPROVER, "auditor", "signer-a", "nobody"])
def test_only_key_admins_carry_keys_on(action: Action, more: dict[str, Any], by: str) -> None:
    state = with_key(with_key(sample_state(), "k12"), "k12", version=2)
    with pytest.raises(OrderRefusedError, match="nobody who signed has the role"):
        step(state, action, 2, by, **more)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"scope": "k12"}, {**named(1), "more": 1}, {**named(1), "version": "1"}, {**named(1), "version": True}],
)
def test_arguments_of_another_form_are_refused(arguments: dict[str, Any]) -> None:
    for action in (Action.ACTIVATE_KEY, Action.RETIRE_KEY):
        with pytest.raises(OrderRefusedError, match="arguments"):
            ordered(two_versions(), action, arguments, [ADMIN])


# Re-encryption


def test_a_reencryption_is_remembered_by_its_order() -> None:
    state = with_key(with_key(sample_state(), "k12", "data"), "k12", "index")
    after, order = ordered(state, Action.REENCRYPT, {"scope": "k12", "rows_per_second": 7}, [ADMIN])
    assert after.reencryptions == {order.id: Reencryption("k12", 7, ADMIN)}


@pytest.mark.parametrize(
    ("scope", "rate", "by", "words"),
    [
        ("nowhere", 1, ADMIN, "no domain or agreement"),
        ("highered", 1, ADMIN, "no domain or agreement"),  # no keys yet
        ("k12", 0, ADMIN, "rate"),
        ("k12", -1, ADMIN, "rate"),
        ("k12", MOST_ROWS_PER_SECOND + 1, ADMIN, "rate"),
        ("k12", 1, APPROVER, "role"),
    ],
)
def test_a_reencryption_that_makes_no_sense_is_refused(scope: str, rate: int, by: str, words: str) -> None:
    state = with_key(with_key(sample_state(), "k12", "data"), "k12", "index")
    with pytest.raises(OrderRefusedError, match=words):
        ordered(state, Action.REENCRYPT, {"scope": scope, "rows_per_second": rate}, [by])
