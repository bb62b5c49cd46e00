"""Searching the record: a question comes in, whether an event answers it goes out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vault_service.errors import Reason
from vault_service.governance.uses import CALLS, LOSSES, REFUSALS, is_refused
from vault_service.storage.event_queries import Sieve, fact

KINDS: Final = (*CALLS, "order", "job", REFUSALS, LOSSES)
OUTCOMES: Final = ("ok", "done", "refused", "DATA_LOSS", *Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an event must have; None asks for nothing. A domain or agreement is also the scope of a job."""

    client: str | None = None
    person: str | None = None  # who acted, asked for an order, or signed it
    purpose: str | None = None
    agreement: str | None = None
    domain: str | None = None
    kind: str | None = None
    outcome: str | None = None  # also the reason of counted refusals
    refused: bool = False

    def sieve(self) -> Sieve:
        """Texts that the body of every answer has."""
        exact = {"client": self.client, "purpose": self.purpose, "kind": self.kind}
        wanted: list[tuple[str, ...]] = [(fact(name, value),) for name, value in exact.items() if value is not None]
        either = {"agreement": self.agreement, "domain": self.domain, "outcome": self.outcome}
        for name, value in either.items():
            if value is not None:
                other = "reason" if name == "outcome" else "scope"
                wanted.append((fact(name, value), fact(other, value)))
        if self.person is not None:
            wanted.append((f'"{self.person}"',))
        return Sieve(tuple(wanted), (fact("outcome", "ok"),) if self.refused else ())

    def is_answered_by(self, facts: dict[str, Any]) -> bool:
        """Whether an event is an answer."""
        exact = {"client": self.client, "purpose": self.purpose, "kind": self.kind}
        return (
            all(value is None or facts.get(name) == value for name, value in exact.items())
            and (self.agreement is None or self.agreement in (facts.get("agreement"), facts.get("scope")))
            and (self.domain is None or self.domain in (facts.get("domain"), facts.get("scope")))
            and (self.outcome is None or self.outcome in (facts.get("outcome"), _reason(facts)))
            and (self.person is None or self.person in _people(facts))
            and (not self.refused or is_refused(facts))
        )


def _reason(facts: Mapping[str, Any]) -> Any:
    return facts.get("reason") if facts["kind"] == REFUSALS else None


def _people(facts: Mapping[str, Any]) -> list[Any]:
    return [facts.get("person"), facts.get("actor"), *facts.get("signed_by", ())]
