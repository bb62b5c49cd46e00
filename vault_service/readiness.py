"""Whether this server can serve: a register of its parts, each of which says what is wrong with it.

Ready means that at least one domain can have a call committed, sealed and announced. A part is a name and a
function that answers at once, from memory: "" when all is well, else the reason in words, never a value. Domains
have reasons of their own, so that one whose key is gone takes nothing from the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge

_READY: Final = Gauge("ssn_vault_ready", "Whether calls can be served")
_DOMAIN_READY: Final = Gauge("ssn_vault_domain_ready", "Whether calls of a domain can be served", ["domain"])
_shown: Final[set[str]] = set()  # domains that have a gauge


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: reasons by part and by domain, empty where all is well."""

    parts: Mapping[str, str]
    domains: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether any call can be served."""
        return not any(self.parts.values()) and not all(self.domains.values())  # no domain: not ready

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong."""
        named = {**self.parts, **{f"domain {name}": reason for name, reason in self.domains.items()}}
        return {name: reason for name, reason in named.items() if reason}

    @property
    def text(self) -> str:
        """One line for all, then a line for each part and domain."""
        lines = ["ready" if self.ready else "not ready"]
        lines += [f"{name}: {reason or 'ok'}" for name, reason in self.parts.items()]
        lines += [f"domain {name}: {reason or 'ok'}" for name, reason in self.domains.items()]
        return "\n".join(lines) + "\n"


class Readiness:
    """The register. Any thread may ask for a report."""

    def __init__(self, domains: Callable[[], Mapping[str, str]]) -> None:
        """`domains` gives the reason of each domain of the policy in force."""
        self._domains = domains
        self._parts: dict[str, Callable[[], str]] = {}

    def add(self, part: str, ask: Callable[[], str]) -> None:
        """One more part without which nothing can be served."""
        self._parts[part] = ask

    def report(self) -> Report:
        """How it stands now."""
        return Report({name: ask() for name, ask in self._parts.items()}, self._domains())


def show(report: Report) -> None:
    """Set the gauges; for one thread."""
    _READY.set(report.ready)
    for domain in _shown - report.domains.keys():
        _DOMAIN_READY.remove(domain)
        _shown.discard(domain)
    for domain, reason in report.domains.items():
        _DOMAIN_READY.labels(domain).set(not reason)
        _shown.add(domain)
