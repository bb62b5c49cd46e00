"""Freezes need one person and thawing two; a bulk detokenization needs somebody else who may approve."""

from typing import Any

import pytest

from tests.unit.samples import BULK, NOW, frozen, ordered, sample_state, sample_text, with_bulk, with_policy
from vault_service.errors import OrderRefusedError
from vault_service.orders.order import Action
from vault_service.orders.state import APPROVAL_LIFE_MS, Drill
from vault_service.policy.decide import Freezes

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
    state, freeze = frozen(sample_state(), kind, name, by)
    assert state.freezes == expected
    found = state.freezes_by_order[freeze]
    assert (found.kind, found.name, found.by, found.since) == (kind, name, by, NOW)


@pytest.mark.parametrize("by", ["auditor", "tax-clerk", "signer-a", "nobody"])
def test_who_has_no_role_does_not_freeze(by: str) -> None:
    with pytest.raises(OrderRefusedError, match="role"):
        frozen(sample_state(), by=by)


def test_a_freeze_of_something_else_is_refused() -> None:
    with pytest.raises(OrderRefusedError, match="a freeze is of"):
        frozen(sample_state(), "agreement", "college-outcomes")


def test_two_people_thaw_and_only_the_freeze_they_name() -> None:
    state, first = frozen(sample_state(), "client", "sis")
    state, second = frozen(state, "client", "sis", "records-officer")
    state, everything = frozen(state)
    for freeze, still in ((everything, {"sis"}), (first, {"sis"}), (second, set())):
        state, _ = ordered(state, Action.THAW, {"freeze": freeze}, ["key-admin-a", "records-officer"])
        assert state.freezes == Freezes(clients=frozenset(still))
        with pytest.raises(OrderRefusedError, match="no such freeze"):
            ordered(state, Action.THAW, {"freeze": freeze}, ["key-admin-a", "records-officer"])


@pytest.mark.parametrize(
    ("signed_by", "words"),
    [
        (["key-admin-a"], "second person"),
        (["key-admin-a", "auditor"], "second person"),
        (["key-admin-a", "signer-a"], "second person"),
        (["signer-a", "signer-b"], "nobody who signed has the role"),
    ],
)
def test_who_may_not_thaw(signed_by: list[str], words: str) -> None:
    state, freeze = frozen(sample_state())
    with pytest.raises(OrderRefusedError, match=words):
        ordered(state, Action.THAW, {"freeze": freeze}, signed_by)


def test_a_person_who_lost_the_role_does_not_freeze() -> None:
    state = with_policy(sample_state(), sample_text().replace("  key-admin-a:\n    roles: [key-admin]\n", ""))
    with pytest.raises(OrderRefusedError, match="role"):
        frozen(state)


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
    assert APPROVAL_LIFE_MS == 7 * 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("signed_by", "changes", "words"),
    [
        (["tax-clerk"], {}, "second person"),
        (["tax-clerk", "key-admin-a"], {}, "nobody who may approve"),
        (["tax-clerk", "auditor"], {}, "nobody who may approve"),
        (["records-officer", "tax-clerk"], {}, "need no approval, or do not exist"),
        (["records-officer", "auditor"], {}, "need no approval, or do not exist"),
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
        with_bulk(sample_state(), signed_by, **changes)


def test_nobody_approves_for_themselves() -> None:
    text = sample_text().replace("roles: [approver, disclosure-reader]", "roles: [approver]\n    through: [sis]")
    state = with_policy(sample_state(), text)
    with pytest.raises(OrderRefusedError, match="nobody who may approve"):
        with_bulk(state, ["records-officer", "tax-clerk"])


# Drills


def test_a_drill_is_remembered_and_needs_a_role() -> None:
    arguments = {"steps": 7, "seconds": 30, "passed": True}
    state, _ = ordered(sample_state(), Action.DRILL, arguments, ["records-officer"])
    assert state.last_drill == Drill("records-officer", NOW, 7, 30, True)
    for wrong in ({**arguments, "passed": 1}, {**arguments, "more": 1}, {"steps": 7}):
        with pytest.raises(OrderRefusedError, match="arguments"):
            ordered(sample_state(), Action.DRILL, wrong, ["records-officer"])
    with pytest.raises(OrderRefusedError, match="role"):
        ordered(sample_state(), Action.DRILL, arguments, ["tax-clerk"])
