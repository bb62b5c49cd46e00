"""The control state: policy, keys, freezes and approvals in force, as the fold of signed orders.

    empty --order 1--> state 1 --order 2--> state 2 ...

`apply` is the only way from one state to the next, pure, and refuses what the signers had no right to. The
database stores orders, never the state: editing it can therefore grant nothing (promise 9).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vault_service.errors import MoreSignaturesNeededError, OrderRefusedError, PolicyInvalidError
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.order import CLOCK_SKEW_MS, Action, Order
from vault_service.policy.decide import Freezes
from vault_service.policy.file import parse_policy
from vault_service.policy.model import Policy, Role

APPROVAL_LIFE_MS: Final = 7 * 24 * 3600 * 1000  # from the moment it is in force
_WRAPPED: Final = re.compile(r"vault:v[0-9]+:[A-Za-z0-9+/=]{20,500}")
_EMPTY_POLICY: Final = Policy(version=1, domains={})
_FREEZE_KINDS: Final = ("client", "person", "domain", "all")


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key: wrapped under its own transit key; since when it is in force (ms)."""

    name: KeyName
    wrapped: str = field(repr=False)
    since: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """An incident freeze: of a client, a person, a domain, or everything."""

    kind: str
    name: str
    reason: str
    by: str
    since: int


@dataclass(frozen=True, slots=True)
class Approval:
    """A bulk detokenization that a second person agreed to: so many tokens, for one client, purpose and person."""

    id: str
    client: str
    purpose: str
    person: str
    tokens: int
    approver: str
    expires: int


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose signatures make a policy valid, and how many are needed; from the server's configuration."""

    names: frozenset[str]
    needed: int


@dataclass(frozen=True, slots=True)
class ControlState:
    """Everything that decides over calls, as of `epoch` orders. Immutable."""

    epoch: int = 0
    policy: Policy = _EMPTY_POLICY
    policy_text: str = ""
    policy_version: int = 0
    keys: Mapping[tuple[str, KeyKind], tuple[KeyVersion, ...]] = field(default_factory=dict)
    freezes_by_order: Mapping[str, Freeze] = field(default_factory=dict)
    freezes: Freezes = field(default_factory=Freezes)
    approvals: Mapping[str, Approval] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()
    first_domains: Mapping[str, str] = field(default_factory=dict)  # of every agreement there ever was

    def versions(self, scope: str, kind: KeyKind) -> tuple[KeyVersion, ...]:
        """The live versions of a key, oldest first; the last is the active one."""
        return self.keys.get((scope, kind), ())

    def wrapped_keys(self) -> dict[KeyName, str]:
        """Every live key version, wrapped."""
        return {version.name: version.wrapped for versions in self.keys.values() for version in versions}

    def missing_keys(self) -> list[KeyName]:
        """The first versions that the policy's domains and agreements still need."""
        wanted = [(d, kind) for d in self.policy.domains for kind in KeyKind]
        wanted += [(agreement, KeyKind.INDEX) for agreement in self.policy.agreements]
        return [KeyName(scope, kind, 1) for scope, kind in wanted if not self.versions(scope, kind)]


def signatures_needed(order: Order, signers: Signers) -> int:
    """How many different people must sign an order of this kind."""
    if order.action is Action.APPLY_POLICY:
        return signers.needed
    return 2 if order.action in (Action.THAW, Action.APPROVE_BULK) else 1


def apply(state: ControlState, order: Order, signed_by: Collection[str], signers: Signers, now_ms: int) -> ControlState:
    """The state after `order`, which `signed_by` have validly signed, takes effect at `now_ms`.

    OrderRefusedError says in words why it may not: too old, too few signatures, no such right, or an
    argument that does not fit the state.
    """
    if not order.issued - CLOCK_SKEW_MS <= now_ms <= order.expires:
        raise OrderRefusedError("the order has expired, or comes from the future")
    if order.id in state.denied:
        raise OrderRefusedError("the order was denied")
    if order.actor not in signed_by:
        raise OrderRefusedError("the order is not signed by its actor")
    if len(set(signed_by)) < signatures_needed(order, signers):
        raise MoreSignaturesNeededError("a second person must sign")
    change = _CHANGES[order.action]
    return replace(change(state, order, frozenset(signed_by), signers, now_ms), epoch=state.epoch + 1)


def _apply_policy(
    state: ControlState, order: Order, signed_by: frozenset[str], signers: Signers, _now: int
) -> ControlState:
    if order.actor not in signers.names:
        raise OrderRefusedError("the actor is not among the policy's signers")
    base, text = _arguments(order, base=int, policy=str)
    if base != state.policy_version:
        raise OrderRefusedError("the policy has changed since this was planned: plan again")
    try:
        policy = parse_policy(text)
    except PolicyInvalidError as error:
        raise OrderRefusedError(f"the policy has mistakes: {error}") from None
    for name, old in state.policy.domains.items():
        new = policy.domains.get(name)
        if new is None:
            raise OrderRefusedError(f"domain {name} holds records and cannot be left out")
        if new.token_format is not old.token_format:
            raise OrderRefusedError(f"the token format of domain {name} cannot change")
    # Signatures of others neither help nor hurt: anyone may add one, also later.
    if len(signed_by & signers.names) < signers.needed:
        raise MoreSignaturesNeededError("another of the policy's signers must sign")
    first_domains = {name: agreement.first_domain for name, agreement in policy.agreements.items()}
    for name, domain in first_domains.items():
        if state.first_domains.get(name, domain) != domain:
            raise OrderRefusedError(f"the first domain of agreement {name} cannot change: its linkage ids would")
    return replace(
        state,
        policy=policy,
        policy_text=text,
        policy_version=base + 1,
        first_domains={**state.first_domains, **first_domains},
    )


def _create_key(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN)
    scope, kind_name, version, wrapped = _arguments(order, scope=str, kind=str, version=int, wrapped=str)
    if kind_name not in tuple(KeyKind):
        raise OrderRefusedError("there is no such kind of key")
    kind = KeyKind(kind_name)
    is_agreement = scope in state.policy.agreements
    if scope not in state.policy.domains and not (is_agreement and kind is KeyKind.INDEX):
        raise OrderRefusedError("there is no domain or agreement of that name for such a key")
    present = state.versions(scope, kind)
    if version != (present[-1].name.version + 1 if present else 1):
        raise OrderRefusedError("that is not the key's next version")
    if present and kind is not KeyKind.DATA:
        raise OrderRefusedError("only data keys can have a second version yet")
    if not _WRAPPED.fullmatch(wrapped):
        raise OrderRefusedError("that is not a wrapped key")
    added = KeyVersion(KeyName(scope, kind, version), wrapped, now)
    return replace(state, keys={**state.keys, (scope, kind): (*present, added)})


def _freeze(state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN, Role.APPROVER)
    kind, name, reason = _arguments(order, kind=str, name=str, reason=str)
    known: dict[str, Collection[str]] = {
        "client": state.policy.clients,
        "person": state.policy.people,
        "domain": state.policy.domains,
    }
    if kind not in _FREEZE_KINDS:
        raise OrderRefusedError("a freeze is of a client, a person, a domain, or all")
    if kind != "all" and name not in known[kind]:
        raise OrderRefusedError(f"the policy has no {kind} of this name, so that nothing would be frozen")
    freeze = Freeze(kind, name, reason, order.actor, now)
    return _with_freezes(state, {**state.freezes_by_order, order.id: freeze})


def _thaw(state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, _now: int) -> ControlState:
    _need(state, frozenset({order.actor}), Role.KEY_ADMIN, Role.APPROVER)
    (frozen,) = _arguments(order, freeze=str)
    if frozen not in state.freezes_by_order:
        raise OrderRefusedError("there is no such freeze")
    if sum(_has(state, name, Role.KEY_ADMIN, Role.APPROVER) for name in signed_by) < 2:
        raise MoreSignaturesNeededError("a second person with a role for this must sign")
    left = {order_id: freeze for order_id, freeze in state.freezes_by_order.items() if order_id != frozen}
    return _with_freezes(state, left)


def _approve_bulk(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    client, purpose_name, tokens, _why = _arguments(order, client=str, purpose=str, tokens=int, justification=str)
    approvers = [name for name in sorted(signed_by - {order.actor}) if _has(state, name, Role.APPROVER)]
    person = state.policy.people.get(order.actor)
    purpose = state.policy.purposes.get(purpose_name)
    if person is None or client not in person.through or purpose is None or purpose.approval_above is None:
        raise OrderRefusedError("this person, client and purpose need no approval, or do not exist")
    if not 0 < tokens <= purpose.per_day:
        raise OrderRefusedError("the number of tokens is not between 1 and the purpose's day")
    if not approvers:
        raise MoreSignaturesNeededError("nobody who may approve has signed beside the person who asks")
    approval = Approval(order.id, client, purpose_name, order.actor, tokens, approvers[0], now + APPROVAL_LIFE_MS)
    return replace(state, approvals={**state.approvals, order.id: approval})


def _deny(state: ControlState, order: Order, signed_by: frozenset[str], signers: Signers, _now: int) -> ControlState:
    (denied,) = _arguments(order, order_id=str)
    if order.actor not in signers.names:
        _need(state, signed_by, Role.KEY_ADMIN, Role.APPROVER)
    left = {order_id: approval for order_id, approval in state.approvals.items() if order_id != denied}
    return replace(state, denied=state.denied | {denied}, approvals=left)


_CHANGES: Final = {
    Action.APPLY_POLICY: _apply_policy,
    Action.CREATE_KEY: _create_key,
    Action.FREEZE: _freeze,
    Action.THAW: _thaw,
    Action.APPROVE_BULK: _approve_bulk,
    Action.DENY: _deny,
}


def _with_freezes(state: ControlState, by_order: Mapping[str, Freeze]) -> ControlState:
    def names(kind: str) -> frozenset[str]:
        return frozenset(freeze.name for freeze in by_order.values() if freeze.kind == kind)

    freezes = Freezes(
        names("client"), names("person"), names("domain"), any(f.kind == "all" for f in by_order.values())
    )
    return replace(state, freezes_by_order=dict(by_order), freezes=freezes)


def _arguments(order: Order, **fields: type) -> tuple[Any, ...]:
    """The order's arguments in the order of `fields`; refused unless exactly these, of exactly these types."""
    if order.arguments.keys() != fields.keys() or any(
        type(order.arguments[name]) is not kind for name, kind in fields.items()
    ):
        raise OrderRefusedError("the order's arguments are not those of its action")
    return tuple(order.arguments[name] for name in fields)


def _has(state: ControlState, name: str, *roles: Role) -> bool:
    person = state.policy.people.get(name)
    return person is not None and not person.roles.isdisjoint(roles)


def _need(state: ControlState, signed_by: frozenset[str], *roles: Role) -> None:
    if not any(_has(state, name, *roles) for name in signed_by):
        raise OrderRefusedError("nobody who signed has the role for this")
