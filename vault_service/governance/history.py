"""The policies that ever were in force, and which of them decided an event.

Policies with the epoch and the moment from which they held come in; the one that decided a call goes out. A
disclosure's authority and interest are those of that policy, never of today's.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from vault_service.policy.model import Policy

_NONE: Final = Policy(version=1, domains={})


class PolicyInForce(NamedTuple):
    """A policy, the epoch that it began with, and when that was (milliseconds since 1970, the database's clock)."""

    epoch: int
    since: int
    policy: Policy


class PolicyHistory:
    """All policies, oldest first."""

    def __init__(self, policies: Sequence[PolicyInForce]) -> None:
        self._policies = [PolicyInForce(0, 0, _NONE), *policies]

    def at_epoch(self, epoch: int) -> Policy:
        """The policy that was in force at a control epoch; an empty one before the first."""
        return self._policies[bisect_right(self._policies, epoch, key=lambda one: one.epoch) - 1].policy

    def at_time(self, at_ms: int) -> Policy:
        """The policy that was in force at a moment; an empty one before the first."""
        return self._policies[max(bisect_right(self._policies, at_ms, key=lambda one: one.since) - 1, 0)].policy

    def of(self, facts: Mapping[str, Any]) -> Policy:
        """The policy that decided an event: by its `epoch`; where it has none, by its time."""
        epoch = facts.get("epoch")
        return self.at_epoch(epoch) if type(epoch) is int else self.at_time(facts["at"])

    def clients(self) -> frozenset[str]:
        """The clients of any policy, now or ever."""
        return frozenset(name for one in self._policies for name in one.policy.clients)

    def people(self) -> frozenset[str]:
        """The people of any policy, now or ever."""
        return frozenset(name for one in self._policies for name in one.policy.people)

    def domains(self) -> frozenset[str]:
        """The domains of any policy, now or ever."""
        return frozenset(name for one in self._policies for name in one.policy.domains)
