"""Which policies and keys come in force, by whose signatures."""

from collections.abc import Callable

import pytest

from tests.unit.samples import (
    NOW,
    SIGNERS,
    TWO_SIGNERS,
    WRAPPED,
    ordered,
    sample_policy,
    sample_state,
    sample_text,
    with_key,
    with_policy,
)
from vault_service.errors import OrderRefusedError
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.order import Action, new_order
from vault_service.orders.state import ControlState, apply
from vault_service.policy.model import LARGEST_COUNT, LONGEST_RETENTION

# Policy


def test_signatures_of_others_change_nothing() -> None:
    """Anyone may add a signature, also after the decision: the log must mean the same at every later start."""
    text = sample_text().replace("per_call: 10\n", "per_call: 11\n")
    order = new_order(Action.APPLY_POLICY, "signer-a", {"base": 1, "policy": text}, NOW)
    decided = apply(sample_state(), order, ["signer-a", "signer-b"], SIGNERS, NOW)
    later = apply(sample_state(), order, ["signer-a", "signer-b", "auditor", "nobody"], SIGNERS, NOW)
    assert later == decided


def test_two_signers_put_a_policy_in_force() -> None:
    state = sample_state()
    assert (state.policy, state.policy_text, state.policy_version) == (sample_policy(), sample_text(), 1)


@pytest.mark.parametrize(
    ("signed_by", "words"),
    [
        (["signer-a"], "second person"),
        (["signer-a", "key-admin-a"], "another of the policy's signers"),
        (["key-admin-a", "key-admin-b"], "not among the policy's signers"),
    ],
)
def test_a_policy_without_two_signers_is_refused(signed_by: list[str], words: str) -> None:
    with pytest.raises(OrderRefusedError, match=words):
        with_policy(sample_state(), sample_text(), signed_by)


def test_a_policy_cannot_name_its_own_signers() -> None:
    """The people of the policy sign nothing of it, whatever their roles."""
    with pytest.raises(OrderRefusedError, match="signers"):
        with_policy(sample_state(), sample_text(), ["records-officer", "key-admin-a"])


def test_a_policy_that_was_planned_on_an_older_one_is_refused() -> None:
    """So an old, signed policy cannot be put back either."""
    first = new_order(Action.APPLY_POLICY, "signer-a", {"base": 0, "policy": sample_text()}, NOW)
    state = apply(ControlState(), first, TWO_SIGNERS, SIGNERS, NOW)
    with pytest.raises(OrderRefusedError, match="plan again"):
        apply(state, first, TWO_SIGNERS, SIGNERS, NOW)
    second = with_policy(state, sample_text().replace("per_call: 100 ", "per_call: 5 "))
    assert second.policy_version == 2
    with pytest.raises(OrderRefusedError, match="plan again"):
        ordered(second, Action.APPLY_POLICY, {"base": 1, "policy": sample_text()}, TWO_SIGNERS)
    with pytest.raises(OrderRefusedError, match="plan again"):
        ordered(second, Action.APPLY_POLICY, {"base": 3, "policy": sample_text()}, TWO_SIGNERS)


def test_a_policy_with_mistakes_is_refused_and_they_are_named() -> None:
    with pytest.raises(OrderRefusedError, match=r"line \d+, version"):
        with_policy(sample_state(), sample_text().replace("version: 1", "version: 7"))


def _cut(text: str, start: str, end: str) -> str:
    at = text.index(start)
    return text[:at] + text[text.index(end, at) :]


def test_a_domain_cannot_be_left_out() -> None:
    alone = "version: 1\ndomains:\n  k12: {authority: Code, purpose: None at all, retention_days: 1}\n"
    with pytest.raises(OrderRefusedError, match="highered holds records"):
        with_policy(sample_state(), alone)


def test_a_domains_token_format_cannot_change() -> None:
    text = sample_text().replace("  k12:\n", "  k12:\n    token_format: ssn_column\n", 1)
    with pytest.raises(OrderRefusedError, match="token format of domain k12"):
        with_policy(sample_state(), text)


def test_an_agreements_first_domain_cannot_change() -> None:
    sides = "      k12: [k12-research]\n", "      highered: [linkage-job]\n"
    assert "".join(sides) in sample_text()
    with pytest.raises(OrderRefusedError, match="first domain of agreement college-outcomes"):
        with_policy(sample_state(), sample_text().replace("".join(sides), "".join(reversed(sides))))


def test_everything_else_of_a_policy_can_change() -> None:
    text = _cut(sample_text(), "agreements:", "# A client is one workload")
    state = with_policy(sample_state(), text.replace("retention_days: 2555", "retention_days: 5"))
    assert not state.policy.agreements
    assert state.policy.domains["k12"].retention_days == 5
    assert state.policy_version == 2


# Keys


def test_a_key_admin_puts_a_key_in_force() -> None:
    state = with_key(sample_state(), "k12")
    (version,) = state.versions("k12", KeyKind.DATA)
    assert (version.name, version.wrapped, version.since) == (KeyName("k12", KeyKind.DATA, 1), WRAPPED, NOW)
    assert state.wrapped_keys() == {KeyName("k12", KeyKind.DATA, 1): WRAPPED}
    assert WRAPPED not in repr(state)


def test_missing_keys_are_those_the_policy_needs() -> None:
    state = sample_state()
    assert not ControlState().missing_keys()
    wanted = [("k12", "data"), ("k12", "index"), ("highered", "data"), ("highered", "index")]
    wanted.append(("college-outcomes", "index"))
    assert {(name.scope, str(name.kind)) for name in state.missing_keys()} == set(wanted)
    for scope, kind in wanted:
        state = with_key(state, scope, kind)
    assert state.missing_keys() == []


@pytest.mark.parametrize("by", ["records-officer", "auditor", "aid-counselor", "signer-a", "nobody"])
def test_who_is_no_key_admin_puts_no_key_in_force(by: str) -> None:
    with pytest.raises(OrderRefusedError, match="nobody who signed has the role"):
        with_key(sample_state(), "k12", by=by)


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
        with_key(sample_state(), scope, kind, version)


def test_a_version_is_put_in_force_once() -> None:
    state = with_key(sample_state(), "k12")
    with pytest.raises(OrderRefusedError, match="next version"):
        with_key(state, "k12")


@pytest.mark.parametrize(
    "wrapped", ["", "A" * 60, "vault:v1:", "vault:v1:short", "vault:v1:" + "A" * 501, WRAPPED + "\n"]
)
def test_what_is_no_wrapped_key_is_refused(wrapped: str) -> None:
    arguments = {"scope": "k12", "kind": "data", "version": 1, "wrapped": wrapped}
    with pytest.raises(OrderRefusedError, match="not a wrapped key"):
        ordered(sample_state(), Action.CREATE_KEY, arguments, ["key-admin-a"])


# Policies of the past


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("retention_days: 2555 ", "retention_days: 99999999 ", 1),
        lambda text: text.replace("per_day: 1000000 ", f"per_day: {10**20} ", 1),
        lambda text: text.replace("    person_required: true\n    approval_above: 100 ", "    approval_above: 100 ", 1),
        lambda text: text + "# about 900 --- 12 --- 3456\n",
    ],
)
def test_a_policy_in_force_from_before_a_rule_was_made_is_read_and_a_new_one_is_refused(
    change: Callable[[str], str],
) -> None:
    text = change(sample_text())
    assert text != sample_text()
    order = new_order(Action.APPLY_POLICY, "signer-a", {"base": 1, "policy": text}, NOW)
    with pytest.raises(OrderRefusedError, match="the policy has mistakes"):
        apply(sample_state(), order, TWO_SIGNERS, SIGNERS, NOW)
    policy = apply(sample_state(), order, TWO_SIGNERS, SIGNERS, NOW, past=True).policy
    assert all(domain.retention_days <= LONGEST_RETENTION for domain in policy.domains.values())
    assert all(purpose.per_day <= LARGEST_COUNT for purpose in policy.purposes.values())
