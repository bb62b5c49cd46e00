"""What each order may change, who must have signed it, and that one person alone never changes the policy."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.samples import NOW, SIGNERS, WRAPPED, ordered, sample_policy, sample_state, sample_text
from vault_service.errors import OrderRefusedError
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.order import CLOCK_SKEW_MS, LIFE_MS, Action, new_order
from vault_service.orders.state import APPROVAL_LIFE_MS, ControlState, apply, signatures_needed
from vault_service.policy.decide import Freezes

TWO_SIGNERS = ["signer-a", "signer-b"]
DAY = 24 * 3600 * 1000


def _policy(state: ControlState, text: str, signed_by: list[str] | None = None, **times: int) -> ControlState:
    arguments = {"base": state.policy_version, "policy": text}
    return ordered(state, Action.APPLY_POLICY, arguments, signed_by or TWO_SIGNERS, **times)[0]


def _key(
    state: ControlState, scope: str, kind: str = "data", version: int = 1, by: str = "key-admin-a"
) -> ControlState:
    arguments = {"scope": scope, "kind": kind, "version": version, "wrapped": WRAPPED}
    return ordered(state, Action.CREATE_KEY, arguments, [by])[0]


def _frozen(
    state: ControlState, kind: str = "all", name: str = "", by: str = "key-admin-a"
) -> tuple[ControlState, str]:
    arguments = {"kind": kind, "name": name, "reason": "suspicion"}
    after, order = ordered(state, Action.FREEZE, arguments, [by])
    return after, order.id


BULK: dict[str, Any] = {"client": "sis", "purpose": "tax-reporting", "tokens": 150, "justification": "year's end"}


def _bulk(state: ControlState, signed_by: list[str], **changes: Any) -> ControlState:
    return ordered(state, Action.APPROVE_BULK, {**BULK, **changes}, signed_by)[0]


# Whatever the action


def test_every_order_in_force_takes_the_epoch_one_on() -> None:
    state = sample_state()
    assert (ControlState().epoch, state.epoch) == (0, 1)
    assert _frozen(state)[0].epoch == 2


def test_an_order_leaves_the_state_before_it_as_it_was() -> None:
    state = sample_state()
    _frozen(state)
    _key(state, "k12")
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
        Action.CREATE_KEY: 1,
        Action.FREEZE: 1,
        Action.DENY: 1,
    }


@pytest.mark.parametrize("action", [Action.APPLY_POLICY, Action.THAW, Action.APPROVE_BULK])
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


# Policy


def test_two_signers_put_a_policy_in_force() -> None:
    state = sample_state()
    assert (state.policy, state.policy_text, state.policy_version) == (sample_policy(), sample_text(), 1)


@pytest.mark.parametrize(
    ("signed_by", "words"),
    [
        (["signer-a"], "second person"),
        (["signer-a", "key-admin-a"], "not among the policy's signers"),
        (["key-admin-a", "key-admin-b"], "not among the policy's signers"),
        (["signer-a", "signer-b", "key-admin-a"], "not among the policy's signers"),
    ],
)
def test_a_policy_without_two_signers_is_refused(signed_by: list[str], words: str) -> None:
    with pytest.raises(OrderRefusedError, match=words):
        _policy(sample_state(), sample_text(), signed_by)


def test_a_policy_cannot_name_its_own_signers() -> None:
    """The people of the policy sign nothing of it, whatever their roles."""
    with pytest.raises(OrderRefusedError, match="signers"):
        _policy(sample_state(), sample_text(), ["records-officer", "key-admin-a"])


def test_a_policy_that_was_planned_on_an_older_one_is_refused() -> None:
    """So an old, signed policy cannot be put back either."""
    first = new_order(Action.APPLY_POLICY, "signer-a", {"base": 0, "policy": sample_text()}, NOW)
    state = apply(ControlState(), first, TWO_SIGNERS, SIGNERS, NOW)
    with pytest.raises(OrderRefusedError, match="plan again"):
        apply(state, first, TWO_SIGNERS, SIGNERS, NOW)
    second = _policy(state, sample_text().replace("per_call: 100 ", "per_call: 5 "))
    assert second.policy_version == 2
    with pytest.raises(OrderRefusedError, match="plan again"):
        ordered(second, Action.APPLY_POLICY, {"base": 1, "policy": sample_text()}, TWO_SIGNERS)
    with pytest.raises(OrderRefusedError, match="plan again"):
        ordered(second, Action.APPLY_POLICY, {"base": 3, "policy": sample_text()}, TWO_SIGNERS)


def test_a_policy_with_mistakes_is_refused_and_they_are_named() -> None:
    with pytest.raises(OrderRefusedError, match=r"line \d+, version"):
        _policy(sample_state(), sample_text().replace("version: 1", "version: 7"))


def _cut(text: str, start: str, end: str) -> str:
    at = text.index(start)
    return text[:at] + text[text.index(end, at) :]


def test_a_domain_cannot_be_left_out() -> None:
    alone = "version: 1\ndomains:\n  k12: {authority: Code, purpose: None at all, retention_days: 1}\n"
    with pytest.raises(OrderRefusedError, match="highered holds records"):
        _policy(sample_state(), alone)


def test_a_domains_token_format_cannot_change() -> None:
    text = sample_text().replace("  k12:\n", "  k12:\n    token_format: ssn_column\n", 1)
    with pytest.raises(OrderRefusedError, match="token format of domain k12"):
        _policy(sample_state(), text)


def test_an_agreements_first_domain_cannot_change() -> None:
    sides = "      k12: [k12-research]\n", "      highered: [linkage-job]\n"
    assert "".join(sides) in sample_text()
    with pytest.raises(OrderRefusedError, match="first domain of agreement college-outcomes"):
        _policy(sample_state(), sample_text().replace("".join(sides), "".join(reversed(sides))))


def test_everything_else_of_a_policy_can_change() -> None:
    text = _cut(sample_text(), "agreements:", "# A client is one workload")
    state = _policy(sample_state(), text.replace("retention_days: 2555", "retention_days: 5"))
    assert not state.policy.agreements
    assert state.policy.domains["k12"].retention_days == 5
    assert state.policy_version == 2


# Keys


def test_a_key_admin_puts_a_key_in_force() -> None:
    state = _key(sample_state(), "k12")
    (version,) = state.versions("k12", KeyKind.DATA)
    assert (version.name, version.wrapped, version.since) == (KeyName("k12", KeyKind.DATA, 1), WRAPPED, NOW)
    assert state.wrapped_keys() == {KeyName("k12", KeyKind.DATA, 1): WRAPPED}
    assert WRAPPED not in repr(state)


def test_the_last_version_is_the_active_one() -> None:
    state = _key(_key(sample_state(), "k12"), "k12", version=2)
    assert [version.name.version for version in state.versions("k12", KeyKind.DATA)] == [1, 2]
    assert len(state.wrapped_keys()) == 2


def test_missing_keys_are_those_the_policy_needs() -> None:
    state = sample_state()
    assert not ControlState().missing_keys()
    wanted = [("k12", "data"), ("k12", "index"), ("highered", "data"), ("highered", "index")]
    wanted.append(("college-outcomes", "index"))
    assert {(name.scope, str(name.kind)) for name in state.missing_keys()} == set(wanted)
    for scope, kind in wanted:
        state = _key(state, scope, kind)
    assert state.missing_keys() == []


@pytest.mark.parametrize("by", ["records-officer", "auditor", "aid-counselor", "signer-a", "nobody"])
def test_who_is_no_key_admin_puts_no_key_in_force(by: str) -> None:
    with pytest.raises(OrderRefusedError, match="nobody who signed has the role"):
        _key(sample_state(), "k12", by=by)


@pytest.mark.parametrize(
    ("scope", "kind", "version", "words"),
    [
        ("nowhere", "data", 1, "no domain or agreement"),
        ("college-outcomes", "data", 1, "no domain or agreement"),
        ("person-key-admin-b", "data", 1, "no domain or agreement"),
        ("k12", "secret", 1, "no such kind"),
        ("k12", "data", 0, "next version"),
        ("k12", "data", 2, "next version"),
        ("k12", "data", -1, "next version"),
    ],
)
def test_a_key_that_nothing_needs_is_refused(scope: str, kind: str, version: int, words: str) -> None:
    with pytest.raises(OrderRefusedError, match=words):
        _key(sample_state(), scope, kind, version)


def test_a_version_is_put_in_force_once() -> None:
    state = _key(sample_state(), "k12")
    with pytest.raises(OrderRefusedError, match="next version"):
        _key(state, "k12")


@pytest.mark.parametrize("scope", ["k12", "college-outcomes"])
def test_an_index_key_has_one_version(scope: str) -> None:
    state = _key(sample_state(), scope, "index")
    with pytest.raises(OrderRefusedError, match="only data keys"):
        _key(state, scope, "index", 2)


@pytest.mark.parametrize(
    "wrapped", ["", "A" * 60, "vault:v1:", "vault:v1:short", "vault:v1:" + "A" * 501, WRAPPED + "\n"]
)
def test_what_is_no_wrapped_key_is_refused(wrapped: str) -> None:
    arguments = {"scope": "k12", "kind": "data", "version": 1, "wrapped": wrapped}
    with pytest.raises(OrderRefusedError, match="not a wrapped key"):
        ordered(sample_state(), Action.CREATE_KEY, arguments, ["key-admin-a"])


# Freezes


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("client", "sis", Freezes(clients=frozenset({"sis"}))),
        ("person", "tax-clerk", Freezes(people=frozenset({"tax-clerk"}))),
        ("domain", "k12", Freezes(domains=frozenset({"k12"}))),
        ("all", "", Freezes(everything=True)),
    ],
)
@pytest.mark.parametrize("by", ["key-admin-a", "records-officer"])
def test_one_person_freezes(kind: str, name: str, expected: Freezes, by: str) -> None:
    state, freeze = _frozen(sample_state(), kind, name, by)
    assert state.freezes == expected
    found = state.freezes_by_order[freeze]
    assert (found.kind, found.name, found.reason, found.by, found.since) == (kind, name, "suspicion", by, NOW)


@pytest.mark.parametrize("by", ["auditor", "tax-clerk", "signer-a", "nobody"])
def test_who_has_no_role_does_not_freeze(by: str) -> None:
    with pytest.raises(OrderRefusedError, match="role"):
        _frozen(sample_state(), by=by)


def test_a_freeze_of_something_else_is_refused() -> None:
    with pytest.raises(OrderRefusedError, match="a freeze is of"):
        _frozen(sample_state(), "agreement", "college-outcomes")


def test_two_people_thaw_and_only_the_freeze_they_name() -> None:
    state, first = _frozen(sample_state(), "client", "sis")
    state, second = _frozen(state, "client", "sis", "records-officer")
    state, everything = _frozen(state)
    for freeze, still in ((everything, {"sis"}), (first, {"sis"}), (second, set())):
        state, _ = ordered(state, Action.THAW, {"freeze": freeze}, ["key-admin-a", "records-officer"])
        assert state.freezes == Freezes(clients=frozenset(still))
        with pytest.raises(OrderRefusedError, match="no such freeze"):
            ordered(state, Action.THAW, {"freeze": freeze}, ["key-admin-a", "records-officer"])


@pytest.mark.parametrize(
    ("signed_by", "words"),
    [
        (["key-admin-a"], "second person"),
        (["key-admin-a", "auditor"], "somebody who signed has no role"),
        (["key-admin-a", "signer-a"], "somebody who signed has no role"),
        (["signer-a", "signer-b"], "somebody who signed has no role"),
    ],
)
def test_who_may_not_thaw(signed_by: list[str], words: str) -> None:
    state, freeze = _frozen(sample_state())
    with pytest.raises(OrderRefusedError, match=words):
        ordered(state, Action.THAW, {"freeze": freeze}, signed_by)


def test_a_person_who_lost_the_role_does_not_freeze() -> None:
    state = _policy(sample_state(), sample_text().replace("  key-admin-a:\n    roles: [key-admin]\n", ""))
    with pytest.raises(OrderRefusedError, match="role"):
        _frozen(state)


# Approvals


def test_a_second_person_approves_a_bulk_detokenization() -> None:
    state = sample_state()
    after, order = ordered(state, Action.APPROVE_BULK, BULK, ["tax-clerk", "records-officer"])
    approval = after.approvals[order.id]
    assert (approval.id, approval.client, approval.purpose, approval.person) == (
        order.id,
        "sis",
        "tax-reporting",
        "tax-clerk",
    )
    assert (approval.tokens, approval.approver, approval.expires) == (150, "records-officer", NOW + APPROVAL_LIFE_MS)


@pytest.mark.parametrize(
    ("signed_by", "changes", "words"),
    [
        (["tax-clerk"], {}, "second person"),
        (["tax-clerk", "key-admin-a"], {}, "nobody who may approve"),
        (["tax-clerk", "auditor"], {}, "nobody who may approve"),
        (["records-officer", "tax-clerk"], {}, "nobody who may approve"),
        (["records-officer", "auditor"], {}, "nobody who may approve"),
        (["auditor", "records-officer"], {}, "need no approval, or do not exist"),
        (["nobody", "records-officer"], {}, "need no approval, or do not exist"),
        (["aid-counselor", "records-officer"], {}, "need no approval, or do not exist"),
        (["tax-clerk", "records-officer"], {"client": "financial-aid"}, "need no approval, or do not exist"),
        (["tax-clerk", "records-officer"], {"purpose": "aid-verification"}, "need no approval, or do not exist"),
        (["tax-clerk", "records-officer"], {"purpose": "curiosity"}, "need no approval, or do not exist"),
        (["tax-clerk", "records-officer"], {"tokens": 0}, "number of tokens"),
        (["tax-clerk", "records-officer"], {"tokens": -5}, "number of tokens"),
        (["tax-clerk", "records-officer"], {"tokens": 100_001}, "number of tokens"),
    ],
)
def test_what_is_not_approved(signed_by: list[str], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OrderRefusedError, match=words):
        _bulk(sample_state(), signed_by, **changes)


def test_nobody_approves_for_themselves() -> None:
    text = sample_text().replace("roles: [approver, disclosure-reader]", "roles: [approver]\n    through: [sis]")
    state = _policy(sample_state(), text)
    with pytest.raises(OrderRefusedError, match="nobody who may approve"):
        _bulk(state, ["records-officer", "tax-clerk"])


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


# One person alone

_PEOPLE = st.sampled_from(["signer-a", "key-admin-a", "records-officer", "tax-clerk", "auditor", "nobody"])
_ANY_ARGUMENTS: dict[Action, st.SearchStrategy[dict[str, Any]]] = {
    Action.APPLY_POLICY: st.fixed_dictionaries(
        {"base": st.integers(0, 3), "policy": st.just(sample_text().replace("per_call: 10 ", "per_call: 999 "))}
    ),
    Action.CREATE_KEY: st.fixed_dictionaries(
        {
            "scope": st.sampled_from(["k12", "highered", "college-outcomes"]),
            "kind": st.sampled_from(["data", "index"]),
            "version": st.integers(1, 2),
            "wrapped": st.just(WRAPPED),
        }
    ),
    Action.FREEZE: st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["client", "person", "domain", "all"]),
            "name": st.sampled_from(["sis", "k12"]),
            "reason": st.just("x"),
        }
    ),
    Action.THAW: st.just({"freeze": "replaced below"}),
    Action.APPROVE_BULK: st.fixed_dictionaries(
        {
            "client": st.sampled_from(["sis", "financial-aid"]),
            "purpose": st.just("tax-reporting"),
            "tokens": st.integers(1, 200),
            "justification": st.just("x"),
        }
    ),
    Action.DENY: st.just({"order_id": "x"}),
}
_STEPS = st.sampled_from(list(Action)).flatmap(
    lambda action: st.tuples(st.just(action), _ANY_ARGUMENTS[action], st.integers(-2 * DAY, 2 * DAY))
)


@settings(max_examples=150)
@given(_PEOPLE, st.lists(_STEPS, max_size=12), st.integers(1, 3))
def test_no_orders_of_one_person_change_the_policy_or_approve_or_thaw(
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


@given(st.sets(st.sampled_from(["signer-a", "signer-b", "signer-c", "key-admin-a", "auditor"]), min_size=1))
def test_a_policy_is_in_force_exactly_when_enough_signers_and_nobody_else_signed(names: set[str]) -> None:
    def in_force(apply_it: Callable[[], ControlState]) -> bool:
        try:
            return apply_it().policy_version == 2
        except OrderRefusedError:
            return False

    state = sample_state()
    expected = len(names) >= 2 and names <= SIGNERS.names
    assert in_force(lambda: _policy(state, sample_text(), sorted(names))) is expected
