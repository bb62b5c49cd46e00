"""The accounting of disclosures that 34 CFR 99.32 asks for: a line for each request and each disclosure.

Uses and the policies that decided them come in; lines go out. The rule asks for the parties who requested or
received information and for their legitimate interests (99.32(a)(3)), of requests that got nothing as well.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from vault_service.governance.history import PolicyHistory
from vault_service.governance.uses import Use, is_refused, uses_in, uses_of_token, with_texts
from vault_service.policy.model import Policy, View
from vault_service.storage.engine import Store
from vault_service.storage.event_queries import Sieve, Span, fact

_LAST_MS: Final = 253_402_300_800_000  # the end of the year 9999


class Line(NamedTuple):
    """One request or disclosure. `how` says what was disclosed; texts that do not apply are empty."""

    at: str
    event: str
    domain: str
    token: str
    call: str
    how: str
    client: str
    person: str
    purpose: str  # or the agreement
    view: str
    justification: str
    authority: str
    legitimate_interest: str


def lines_of_token(store: Store, policies: PolicyHistory, token: str, span: Span) -> Iterator[Line]:
    """The accounting of one token, oldest first: what the person it stands for may see (34 CFR 99.32(c))."""
    for use in with_texts(store, uses_of_token(store, token, span)):
        yield line(use, policies.of(use.event.facts))


def lines_of_domain(store: Store, policies: PolicyHistory, domain: str, span: Span) -> Iterator[Line]:
    """The accounting of a whole domain, oldest first, with the requests that were refused."""
    sieve = Sieve(((fact("kind", "detokenize"), fact("kind", "linkagematch")),))
    for use in with_texts(store, uses_in(store, span, sieve, domain=domain)):
        policy = policies.of(use.event.facts)
        if use.row is not None:
            yield line(use, policy)
        elif is_refused(use.event.facts) and _is_about(use.event.facts, policy, domain):
            yield line(use, policy)._replace(domain=domain)


def line(use: Use, policy: Policy) -> Line:
    """The line of one use, under the policy that decided it."""
    facts, row = use.event.facts, use.row
    domain = row.domain if row else str(facts.get("domain", ""))
    purpose = policy.purposes.get(facts.get("purpose", ""))
    agreement = policy.agreements.get(facts.get("agreement", ""))
    of_domain = policy.domains.get(domain)
    return Line(
        at=time_text(facts["at"]),
        event=use.event.id,
        domain=domain,
        token=row.token if row else "",
        call=facts["kind"],
        how=disclosed(use),
        client=facts.get("client", ""),
        person=facts.get("person", ""),
        purpose=facts.get("purpose") or facts.get("agreement", ""),
        view=facts.get("view", ""),
        justification=use.texts.get("justification") or facts.get("justification", ""),  # in its body before form 3
        authority=agreement.authority if agreement else of_domain.authority if of_domain else "",
        legitimate_interest=purpose.interest if purpose else agreement.purpose if agreement else "",
    )


def disclosed(use: Use) -> str:
    """What a use disclosed, in words."""
    facts, row = use.event.facts, use.row
    if row is None:
        return f"nothing (refused: {facts.get('outcome', '')})"
    if use.lost:
        return "nothing (the record did not open)"
    if row.outcome == "missing":
        return "nothing (no such token)"
    if row.outcome == "matched":
        return f"is known to the other side of agreement {facts.get('agreement', '')}"
    return "full number" if facts.get("view") == View.FULL else "last four digits"


def time_text(milliseconds: int) -> str:
    """A moment in ISO 8601, UTC; one that no calendar here has stays in milliseconds."""
    if not 0 <= milliseconds < _LAST_MS:
        return f"{milliseconds} ms"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_about(facts: dict[str, Any], policy: Policy, domain: str) -> bool:
    """Whether a refused request asked about records of the domain; of an agreement, those across from the client."""
    agreement = policy.agreements.get(facts.get("agreement", ""))
    if agreement is None:
        return bool(facts.get("domain") == domain)
    return domain in agreement.parties and agreement.side_of(facts.get("client", "")) != domain
