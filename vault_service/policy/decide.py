"""The decisions: may this caller do this, under this policy? Pure functions, one a call; no I/O, no clock.

Facts about a request come in, with the policy and the freezes in force; a grant or a `Reason` goes out. The
order of checks is the contract's: client, grant, person, freeze, form, size. Form is looked at by the
callers between `permit_*` and `fits`; approval and budget need the database and come after.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date

from vault_service.errors import Reason
from vault_service.identity.caller import Caller
from vault_service.policy.model import Agreement, Client, Domain, Person, Policy, Purpose, View


@dataclass(frozen=True, slots=True)
class Freezes:
    """What incident freezes cover: names by kind, or everything."""

    clients: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    everything: bool = False

    def cover(self, *, client: str, person: str | None, domains: Collection[str]) -> bool:
        """Whether a call of this client and person in these domains is frozen."""
        return (
            self.everything
            or client in self.clients
            or (person is not None and person in self.people)
            or not self.domains.isdisjoint(domains)
        )


@dataclass(frozen=True, slots=True)
class TokenizeGrant:
    """A permitted Tokenize."""

    client: str
    domain_name: str
    domain: Domain
    person: str | None = None


@dataclass(frozen=True, slots=True)
class DetokenizeGrant:
    """A permitted Detokenize: `person` is set when a valid token came, also where none is required."""

    client: str
    domain_name: str
    domain: Domain
    purpose_name: str
    purpose: Purpose
    person: str | None


@dataclass(frozen=True, slots=True)
class LinkageGrant:
    """A permitted LinkageMatch: `own` is the caller's side, `other` the one across."""

    client: str
    agreement_name: str
    agreement: Agreement
    own: str
    other: str
    domains: Mapping[str, Domain] = field(repr=False)
    person: str | None = None


def permit_tokenize(policy: Policy, freezes: Freezes, caller: Caller, domain_name: str) -> TokenizeGrant | Reason:
    """Whether `caller` may tokenize in `domain_name`."""
    client = _client(policy, caller)
    domain = policy.domains.get(domain_name)
    if caller.client is None or client is None or domain is None or domain_name not in client.tokenize:
        return Reason.NOT_PERMITTED
    person = _person(policy, caller, required=False)
    if isinstance(person, Reason):
        return person
    if freezes.cover(client=caller.client, person=person, domains=[domain_name]):
        return Reason.FROZEN
    return TokenizeGrant(caller.client, domain_name, domain, person)


def permit_detokenize(
    policy: Policy, freezes: Freezes, caller: Caller, domain_name: str, purpose_name: str
) -> DetokenizeGrant | Reason:
    """Whether `caller` may detokenize in `domain_name` for `purpose_name`."""
    client = _client(policy, caller)
    domain = policy.domains.get(domain_name)
    purpose = policy.purposes.get(purpose_name)
    if (
        caller.client is None
        or client is None
        or domain is None
        or purpose is None
        or purpose_name not in client.detokenize.get(domain_name, ())
    ):
        return Reason.NOT_PERMITTED
    person = _person(policy, caller, required=purpose.person_required)
    if isinstance(person, Reason):
        return person
    if freezes.cover(client=caller.client, person=person, domains=[domain_name]):
        return Reason.FROZEN
    return DetokenizeGrant(caller.client, domain_name, domain, purpose_name, purpose, person)


def permit_linkage(
    policy: Policy, freezes: Freezes, caller: Caller, agreement_name: str, today: date
) -> LinkageGrant | Reason:
    """Whether `caller` may match under `agreement_name`; `today` is the database's day, UTC."""
    agreement = policy.agreements.get(agreement_name)
    own = agreement.side_of(caller.client) if agreement and caller.client else None
    if (
        caller.client is None
        or _client(policy, caller) is None
        or agreement is None
        or own is None
        or today < agreement.start
    ):
        return Reason.NOT_PERMITTED
    person = _person(policy, caller, required=False)
    if isinstance(person, Reason):
        return person
    if freezes.cover(client=caller.client, person=person, domains=agreement.parties):
        return Reason.FROZEN
    if today > agreement.end:
        return Reason.AGREEMENT_ENDED
    return LinkageGrant(
        caller.client, agreement_name, agreement, own, agreement.other_side(own), policy.domains, person
    )


def view_fits(asked: View, purpose: Purpose) -> bool:
    """Whether the purpose allows the view that was asked for."""
    return asked is View.LAST4 or purpose.view is View.FULL


def size_reason(items: int, *, at_most: int, at_least: int = 1) -> Reason | None:
    """Why a request of `items` has the wrong size, or None."""
    if items > at_most:
        return Reason.BATCH_TOO_LARGE
    if items < at_least:
        return Reason.BATCH_TOO_SMALL
    return None


def _client(policy: Policy, caller: Caller) -> Client | None:
    """The client that calls; None for one that the policy does not know, or a certificate that it denies."""
    if caller.client is None or caller.certificate in policy.denied_certificates:
        return None
    return policy.clients.get(caller.client)


def _person(policy: Policy, caller: Caller, *, required: bool) -> str | Reason | None:
    """The person who acts, None when nobody claims to, or why the claim does not hold."""
    if caller.person is None:
        return Reason.PERSON_REQUIRED if required else None
    name = caller.person.name
    person: Person | None = policy.people.get(name) if name else None
    if name is None or person is None or caller.client not in person.through:
        return Reason.PERSON_INVALID
    return name
