"""Every allow and every refusal, and that a call wrong in several ways gets the contract's first reason."""

from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

import pytest

from tests.unit.samples import changed_policy, sample_policy
from vault_service.errors import Reason
from vault_service.identity.caller import Caller, PersonClaim
from vault_service.policy.decide import (
    DetokenizeGrant,
    Freezes,
    LinkageGrant,
    TokenizeGrant,
    permit_detokenize,
    permit_linkage,
    permit_tokenize,
    size_reason,
    view_fits,
)
from vault_service.policy.model import Policy, View

POLICY = sample_policy()
NONE = Freezes()
ALL = Freezes(everything=True)
TODAY = date(2026, 11, 24)
NOBODY: PersonClaim | None = None
BAD = PersonClaim(None)  # a token that did not verify


def _named(name: str) -> PersonClaim:
    return PersonClaim(name)


@dataclass(frozen=True)
class Case:
    """One row: who calls with which token, what is frozen, and the reason, or None when it is permitted."""

    client: str | None
    target: str
    person: PersonClaim | None
    freezes: Freezes
    reason: Reason | None
    purpose: str = ""
    today: date = TODAY

    @property
    def caller(self) -> Caller:
        return Caller(self.client, self.person)


TOKENIZE = [
    Case("sis", "k12", NOBODY, NONE, None),
    Case("sis", "k12", _named("tax-clerk"), NONE, None),
    Case("registrar", "highered", NOBODY, NONE, None),
    Case("registrar", "highered", NOBODY, Freezes(domains=frozenset({"k12"})), None),
    Case("sis", "k12", NOBODY, Freezes(clients=frozenset({"registrar"}), people=frozenset({"tax-clerk"})), None),
    # client, domain, grant
    Case(None, "k12", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("", "k12", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("stranger", "k12", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("sis", "nowhere", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("sis", "", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("sis", "highered", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("registrar", "k12", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("financial-aid", "highered", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("linkage-job", "highered", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("tax-clerk", "k12", NOBODY, NONE, Reason.NOT_PERMITTED),
    # person: none is needed, but one that is claimed must hold
    Case("sis", "k12", BAD, NONE, Reason.PERSON_INVALID),
    Case("sis", "k12", _named("nobody"), NONE, Reason.PERSON_INVALID),
    Case("sis", "k12", _named("aid-counselor"), NONE, Reason.PERSON_INVALID),
    Case("registrar", "highered", _named("tax-clerk"), NONE, Reason.PERSON_INVALID),
    # freeze
    Case("sis", "k12", NOBODY, ALL, Reason.FROZEN),
    Case("sis", "k12", NOBODY, Freezes(clients=frozenset({"sis"})), Reason.FROZEN),
    Case("sis", "k12", NOBODY, Freezes(domains=frozenset({"k12"})), Reason.FROZEN),
    Case("sis", "k12", _named("tax-clerk"), Freezes(people=frozenset({"tax-clerk"})), Reason.FROZEN),
    # several at once: the first of client, grant, person, freeze
    Case("stranger", "k12", BAD, ALL, Reason.NOT_PERMITTED),
    Case("sis", "highered", BAD, ALL, Reason.NOT_PERMITTED),
    Case("sis", "k12", BAD, ALL, Reason.PERSON_INVALID),
]


@pytest.mark.parametrize("case", TOKENIZE)
def test_tokenize(case: Case) -> None:
    found = permit_tokenize(POLICY, case.freezes, case.caller, case.target)
    if case.reason is not None:
        assert found is case.reason
        return
    assert isinstance(found, TokenizeGrant)
    person = case.person.name if case.person else None
    assert found == TokenizeGrant(case.client or "", case.target, POLICY.domains[case.target], person)


AID, TAX, TRANSCRIPT = "aid-verification", "tax-reporting", "transcript-verification"

DETOKENIZE = [
    Case("sis", "k12", NOBODY, NONE, None, TRANSCRIPT),
    Case("sis", "k12", _named("tax-clerk"), NONE, None, TRANSCRIPT),
    Case("sis", "k12", _named("tax-clerk"), NONE, None, TAX),
    Case("financial-aid", "highered", _named("aid-counselor"), NONE, None, AID),
    Case("sis", "k12", NOBODY, Freezes(domains=frozenset({"highered"})), None, TRANSCRIPT),
    # client, domain, purpose, grant
    Case(None, "k12", NOBODY, NONE, Reason.NOT_PERMITTED, TRANSCRIPT),
    Case("stranger", "k12", NOBODY, NONE, Reason.NOT_PERMITTED, TRANSCRIPT),
    Case("sis", "nowhere", NOBODY, NONE, Reason.NOT_PERMITTED, TRANSCRIPT),
    Case("sis", "highered", NOBODY, NONE, Reason.NOT_PERMITTED, TRANSCRIPT),
    Case("sis", "k12", NOBODY, NONE, Reason.NOT_PERMITTED, "curiosity"),
    Case("sis", "k12", NOBODY, NONE, Reason.NOT_PERMITTED, ""),
    Case("sis", "k12", NOBODY, NONE, Reason.NOT_PERMITTED, AID),
    Case("registrar", "highered", NOBODY, NONE, Reason.NOT_PERMITTED, AID),
    Case("financial-aid", "k12", _named("aid-counselor"), NONE, Reason.NOT_PERMITTED, AID),
    Case("linkage-job", "highered", NOBODY, NONE, Reason.NOT_PERMITTED, AID),
    # person
    Case("sis", "k12", NOBODY, NONE, Reason.PERSON_REQUIRED, TAX),
    Case("financial-aid", "highered", NOBODY, NONE, Reason.PERSON_REQUIRED, AID),
    Case("sis", "k12", BAD, NONE, Reason.PERSON_INVALID, TAX),
    Case("sis", "k12", BAD, NONE, Reason.PERSON_INVALID, TRANSCRIPT),
    Case("sis", "k12", _named("aid-counselor"), NONE, Reason.PERSON_INVALID, TAX),
    Case("sis", "k12", _named("records-officer"), NONE, Reason.PERSON_INVALID, TAX),
    Case("financial-aid", "highered", _named("nobody"), NONE, Reason.PERSON_INVALID, AID),
    Case("financial-aid", "highered", _named(""), NONE, Reason.PERSON_INVALID, AID),
    # freeze
    Case("sis", "k12", NOBODY, ALL, Reason.FROZEN, TRANSCRIPT),
    Case("sis", "k12", NOBODY, Freezes(clients=frozenset({"sis"})), Reason.FROZEN, TRANSCRIPT),
    Case("sis", "k12", NOBODY, Freezes(domains=frozenset({"k12"})), Reason.FROZEN, TRANSCRIPT),
    Case("sis", "k12", _named("tax-clerk"), Freezes(people=frozenset({"tax-clerk"})), Reason.FROZEN, TAX),
    # several at once
    Case("stranger", "k12", BAD, ALL, Reason.NOT_PERMITTED, TAX),
    Case("sis", "k12", NOBODY, ALL, Reason.NOT_PERMITTED, AID),
    Case("sis", "k12", NOBODY, ALL, Reason.PERSON_REQUIRED, TAX),
    Case("sis", "k12", BAD, ALL, Reason.PERSON_INVALID, TAX),
]


@pytest.mark.parametrize("case", DETOKENIZE)
def test_detokenize(case: Case) -> None:
    found = permit_detokenize(POLICY, case.freezes, case.caller, case.target, case.purpose)
    if case.reason is not None:
        assert found is case.reason
        return
    assert isinstance(found, DetokenizeGrant)
    assert (found.client, found.domain_name, found.purpose_name) == (case.client, case.target, case.purpose)
    assert found.domain is POLICY.domains[case.target]
    assert found.purpose is POLICY.purposes[case.purpose]
    assert found.person == (case.person.name if case.person else None)


STUDY = "college-outcomes"
FIRST, LAST = date(2024, 7, 1), date(2034, 6, 30)
BEFORE, AFTER = date(2024, 6, 30), date(2034, 7, 1)

LINKAGE = [
    Case("linkage-job", STUDY, NOBODY, NONE, None),
    Case("k12-research", STUDY, NOBODY, NONE, None),
    Case("linkage-job", STUDY, NOBODY, NONE, None, today=FIRST),
    Case("linkage-job", STUDY, NOBODY, NONE, None, today=LAST),
    Case("linkage-job", STUDY, NOBODY, Freezes(clients=frozenset({"k12-research"})), None),
    # client, agreement, side; one that has not begun does not exist yet
    Case(None, STUDY, NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("stranger", STUDY, NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("sis", STUDY, NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("registrar", STUDY, NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("linkage-job", "another", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("linkage-job", "", NOBODY, NONE, Reason.NOT_PERMITTED),
    Case("linkage-job", STUDY, NOBODY, NONE, Reason.NOT_PERMITTED, today=BEFORE),
    # person
    Case("linkage-job", STUDY, BAD, NONE, Reason.PERSON_INVALID),
    Case("linkage-job", STUDY, _named("tax-clerk"), NONE, Reason.PERSON_INVALID),
    # freeze: of either side's domain
    Case("linkage-job", STUDY, NOBODY, ALL, Reason.FROZEN),
    Case("linkage-job", STUDY, NOBODY, Freezes(clients=frozenset({"linkage-job"})), Reason.FROZEN),
    Case("linkage-job", STUDY, NOBODY, Freezes(domains=frozenset({"k12"})), Reason.FROZEN),
    Case("linkage-job", STUDY, NOBODY, Freezes(domains=frozenset({"highered"})), Reason.FROZEN),
    # end
    Case("linkage-job", STUDY, NOBODY, NONE, Reason.AGREEMENT_ENDED, today=AFTER),
    # several at once; who stands on no side does not learn that it has ended
    Case("sis", STUDY, BAD, ALL, Reason.NOT_PERMITTED, today=AFTER),
    Case("linkage-job", STUDY, BAD, ALL, Reason.PERSON_INVALID, today=AFTER),
    Case("linkage-job", STUDY, NOBODY, ALL, Reason.FROZEN, today=AFTER),
    Case("linkage-job", STUDY, BAD, ALL, Reason.NOT_PERMITTED, today=BEFORE),
]


@pytest.mark.parametrize("case", LINKAGE)
def test_linkage(case: Case) -> None:
    found = permit_linkage(POLICY, case.freezes, case.caller, case.target, case.today)
    if case.reason is not None:
        assert found is case.reason
        return
    assert isinstance(found, LinkageGrant)
    own, other = ("k12", "highered") if case.client == "k12-research" else ("highered", "k12")
    assert (found.client, found.own, found.other) == (case.client, own, other)
    assert found.agreement is POLICY.agreements[case.target]


def test_a_person_may_link_through_a_client_that_lists_them() -> None:
    policy = changed_policy(people={"tax-clerk": {"through": ["linkage-job"]}})
    found = permit_linkage(policy, NONE, Caller("linkage-job", _named("tax-clerk")), STUDY, TODAY)
    assert isinstance(found, LinkageGrant)
    assert found.person == "tax-clerk"
    frozen = Freezes(people=frozenset({"tax-clerk"}))
    assert permit_linkage(policy, frozen, Caller("linkage-job", _named("tax-clerk")), STUDY, TODAY) is Reason.FROZEN


def test_a_client_on_a_side_that_stands_nowhere_else_is_no_client() -> None:
    """The file's rules refuse such a policy; the decision does not rely on them."""
    data: dict[str, Any] = POLICY.model_dump()
    del data["clients"]["linkage-job"]
    policy = Policy.model_validate(data)
    assert permit_linkage(policy, NONE, Caller("linkage-job"), STUDY, TODAY) is Reason.NOT_PERMITTED


def test_nothing_is_permitted_by_an_empty_policy() -> None:
    empty = Policy(version=1, domains={})
    for name in [*POLICY.clients, None]:
        for domain, purpose in product(POLICY.domains, POLICY.purposes):
            assert permit_tokenize(empty, NONE, Caller(name), domain) is Reason.NOT_PERMITTED
            assert permit_detokenize(empty, NONE, Caller(name), domain, purpose) is Reason.NOT_PERMITTED
        assert permit_linkage(empty, NONE, Caller(name), STUDY, TODAY) is Reason.NOT_PERMITTED


def test_the_sample_permits_what_its_table_says_and_nothing_else() -> None:
    """Every client, domain, purpose and person against each other."""
    tokenize = {
        (client, domain)
        for client, domain in product(POLICY.clients, POLICY.domains)
        if isinstance(permit_tokenize(POLICY, NONE, Caller(client), domain), TokenizeGrant)
    }
    assert tokenize == {("sis", "k12"), ("registrar", "highered")}
    detokenize = {
        (client, domain, purpose, person)
        for client, domain, purpose, person in product(
            POLICY.clients, POLICY.domains, POLICY.purposes, [None, *POLICY.people]
        )
        if isinstance(
            permit_detokenize(POLICY, NONE, Caller(client, _named(person) if person else None), domain, purpose),
            DetokenizeGrant,
        )
    }
    assert detokenize == {
        ("sis", "k12", TRANSCRIPT, None),
        ("sis", "k12", TRANSCRIPT, "tax-clerk"),
        ("sis", "k12", TAX, "tax-clerk"),
        ("financial-aid", "highered", AID, "aid-counselor"),
    }
    linkage = {
        client
        for client in POLICY.clients
        if isinstance(permit_linkage(POLICY, NONE, Caller(client), STUDY, TODAY), LinkageGrant)
    }
    assert linkage == {"linkage-job", "k12-research"}


@pytest.mark.parametrize(
    ("asked", "purpose", "fits"),
    [
        (View.LAST4, TRANSCRIPT, True),
        (View.FULL, TRANSCRIPT, False),
        (View.LAST4, TAX, True),
        (View.FULL, TAX, True),
    ],
)
def test_a_purpose_gives_its_view_and_less(asked: View, purpose: str, fits: bool) -> None:
    assert view_fits(asked, POLICY.purposes[purpose]) is fits


@pytest.mark.parametrize(
    ("items", "at_most", "at_least", "reason"),
    [
        (1, 1, 1, None),
        (1000, 1000, 1, None),
        (1001, 1000, 1, Reason.BATCH_TOO_LARGE),
        (0, 1000, 1, Reason.BATCH_TOO_SMALL),
        (9, 1000, 10, Reason.BATCH_TOO_SMALL),
        (10, 1000, 10, None),
        (7, 5, 10, Reason.BATCH_TOO_LARGE),
    ],
)
def test_sizes(items: int, at_most: int, at_least: int, reason: Reason | None) -> None:
    assert size_reason(items, at_most=at_most, at_least=at_least) is reason


# Denied certificates

SERIAL = "3f0a11c2d3e4f5a6b7c8d9eaf1b2c3d4e5f60718"


@pytest.mark.parametrize("serial", [SERIAL, "", SERIAL[1:], SERIAL.upper()])
def test_a_certificate_is_denied_by_exactly_its_serial_number(serial: str) -> None:
    denying = POLICY.model_copy(update={"denied_certificates": frozenset({SERIAL})})
    sis, job = Caller("sis", certificate=serial), Caller("linkage-job", certificate=serial)
    found = [
        permit_tokenize(denying, NONE, sis, "k12"),
        permit_detokenize(denying, NONE, sis, "k12", "transcript-verification"),
        permit_linkage(denying, NONE, job, STUDY, TODAY),
    ]
    assert [one is Reason.NOT_PERMITTED for one in found] == [serial == SERIAL] * 3
