"""The incident report: every token that a client, a person or a domain's readers were given, for notification.

Uses come in, one row a token goes out: how often, when first and last, how much, by whom and for what. What is kept
in memory is a token's row, not its uses. A token whose record did not open is on the list as well: that it did not
is what a later event says, and whoever can write into the database could say so.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from vault_service.governance.accounting import time_text
from vault_service.governance.uses import CALLS, REFUSALS, Use, is_refused
from vault_service.storage.event_queries import RELEASED, Sieve, fact

_MATCHED: Final = "matched"


class Suspect(NamedTuple):
    """Whose disclosures are asked for; None asks for all."""

    client: str | None = None
    person: str | None = None
    domain: str | None = None

    def sieve(self) -> Sieve:
        """Texts that the body of every event of theirs has."""
        kinds = tuple(fact("kind", kind) for kind in (*CALLS, REFUSALS))
        named = {"client": self.client, "person": self.person}
        return Sieve((kinds, *((fact(name, value),) for name, value in named.items() if value is not None)))

    def did(self, facts: dict[str, Any]) -> bool:
        """Whether a call was made by this client and person."""
        return (self.client is None or facts.get("client") == self.client) and (
            self.person is None or facts.get("person") == self.person
        )


@dataclass
class _Token:
    """What one token's disclosures come to. Times are milliseconds since 1970."""

    first: int
    last: int
    disclosures: int = 0
    unopened: int = 0
    views: set[str] = field(default_factory=set)
    clients: set[str] = field(default_factory=set)
    persons: set[str] = field(default_factory=set)
    purposes: set[str] = field(default_factory=set)


class Row(NamedTuple):
    """One token that was disclosed."""

    domain: str
    token: str
    disclosures: int
    unopened: int  # disclosures beside these, of which the record says that nothing could be opened
    first: str
    last: str
    views: list[str]  # LAST4, FULL, or matched under an agreement
    clients: list[str]
    persons: list[str]
    purposes: list[str]  # and agreements


@dataclass
class Breach:
    """The report while it is made, and its totals."""

    suspect: Suspect
    calls: int = 0  # that were answered
    refused: int = 0
    unopened: int = 0  # disclosures of which the record says that nothing could be opened
    _tokens: dict[tuple[str, str], _Token] = field(default_factory=dict)
    _last_across: str = ""

    def add(self, uses: Iterable[Use]) -> None:
        """Count uses; of others than the suspect's, nothing."""
        for use in uses:
            facts = use.event.facts
            if not self.suspect.did(facts):
                continue
            if use.row is None:
                if self.suspect.domain in (None, facts.get("domain")):
                    self._add_call(facts)
            elif use.row.outcome in RELEASED:
                if self.suspect.domain not in (None, facts.get("domain")) and use.event.id != self._last_across:
                    self._last_across = use.event.id  # a match from the other side of an agreement
                    self._add_call(facts)
                self._add_token(use, use.row.domain, use.row.token)

    def rows(self) -> list[Row]:
        """One row a token, by domain and token."""
        return [
            Row(
                domain,
                token,
                one.disclosures,
                one.unopened,
                time_text(one.first),
                time_text(one.last),
                sorted(one.views),
                sorted(one.clients),
                sorted(one.persons),
                sorted(one.purposes),
            )
            for (domain, token), one in sorted(self._tokens.items())
        ]

    def tokens_by_domain(self) -> dict[str, int]:
        """How many tokens were disclosed in each domain."""
        return dict(sorted(Counter(domain for domain, _ in self._tokens).items()))

    def _add_call(self, facts: dict[str, Any]) -> None:
        if is_refused(facts):
            self.refused += facts.get("count", 1) if facts["kind"] == REFUSALS else 1
        else:
            self.calls += 1

    def _add_token(self, use: Use, domain: str, token: str) -> None:
        facts = use.event.facts
        at = facts["at"]
        one = self._tokens.setdefault((domain, token), _Token(at, at))
        one.first, one.last = min(one.first, at), max(one.last, at)
        one.disclosures += not use.lost
        one.unopened += use.lost
        self.unopened += use.lost
        is_match = use.row is not None and use.row.outcome == _MATCHED
        one.views.add(_MATCHED if is_match else facts.get("view", ""))
        one.clients.add(facts.get("client", ""))
        if person := facts.get("person"):
            one.persons.add(person)
        one.purposes.add(facts.get("purpose") or facts.get("agreement", ""))
