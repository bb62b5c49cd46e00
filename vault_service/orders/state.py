"""The control state: policy, keys, freezes and approvals in force, as the fold of signed orders.

    empty --order 1--> state 1 --order 2--> state 2 ...

`apply` is the only way from one state to the next, pure, and refuses what the signers had no right to. The
database stores orders, never the state: editing it can therefore grant nothing (promise 9).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vault_service.audit.event import hash_name
from vault_service.audit.loss import Loss
from vault_service.errors import MoreSignaturesNeededError, OrderRefusedError, PolicyInvalidError
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_state import (
    IN_USE,
    LIVE,
    KeyVersion,
    Versions,
    activated,
    created,
    destroyed,
    retired,
    rewrapped,
)
from vault_service.orders.order import CLOCK_SKEW_MS, Action, Order
from vault_service.policy.decide import Freezes
from vault_service.policy.file import parse_policy
from vault_service.policy.model import Policy, Role

APPROVAL_LIFE_MS: Final = 7 * 24 * 3600 * 1000  # from the moment it is in force
MOST_SET_ASIDE: Final = 1_000  # rows that one order names: more than that is no damage to single rows
MOST_ROWS_PER_SECOND: Final = 1_000_000  # that a re-encryption may be asked for
_EMPTY_POLICY: Final = Policy(version=1, domains={})
_LARGEST: Final = 2**53  # what canonical JSON can hold exactly
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ROW: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")  # a token, or an event's id
_FREEZE_KINDS: Final = ("client", "person", "domain", "all")


class _Text:
    """Marks an argument that is text which a person wrote."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """An incident freeze: of a client, a person, a domain, or everything."""

    kind: str
    name: str
    by: str
    since: int


@dataclass(frozen=True, slots=True)
class Drill:
    """A rehearsal of the breach procedure: who held it, when it was recorded (ms), and whether it went as it should."""

    by: str
    at: int
    steps: int
    seconds: int
    passed: bool


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
class Reencryption:
    """An asked-for move of a domain's or an agreement's rows to the active versions, so many rows a second at most."""

    scope: str
    rows_per_second: int
    by: str


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
    keys: Versions = field(default_factory=dict)
    reencryptions: Mapping[str, Reencryption] = field(default_factory=dict)  # by order
    freezes_by_order: Mapping[str, Freeze] = field(default_factory=dict)
    freezes: Freezes = field(default_factory=Freezes)
    approvals: Mapping[str, Approval] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()
    last_drill: Drill | None = None
    first_domains: Mapping[str, str] = field(default_factory=dict)  # of every agreement there ever was
    losses: tuple[Loss, ...] = ()  # of the log, declared
    last_order: str = ""  # the id of the order at `epoch`

    def versions(self, scope: str, kind: KeyKind) -> tuple[KeyVersion, ...]:
        """All versions there ever were, oldest first."""
        return self.keys.get((scope, kind), ())

    def live(self, scope: str, kind: KeyKind) -> list[KeyVersion]:
        """The versions that rows can be under, the active one last."""
        return [version for version in self.versions(scope, kind) if version.stage in LIVE]

    def version(self, name: KeyName) -> KeyVersion | None:
        """One version, whatever its stage."""
        return next((version for version in self.versions(name.scope, name.kind) if version.name == name), None)

    def wrapped_keys(self) -> dict[KeyName, str]:
        """Every key version that servers hold, wrapped."""
        return {
            version.name: version.wrapped
            for versions in self.keys.values()
            for version in versions
            if version.stage in IN_USE
        }

    def missing_keys(self) -> list[KeyName]:
        """The first versions that the policy's domains and agreements still need."""
        wanted = [(d, kind) for d in self.policy.domains for kind in KeyKind]
        wanted += [(agreement, KeyKind.INDEX) for agreement in self.policy.agreements]
        return [KeyName(scope, kind, 1) for scope, kind in wanted if not self.versions(scope, kind)]


def signatures_needed(order: Order, signers: Signers) -> int:
    """How many different people must sign an order of this kind."""
    if order.action in (Action.APPLY_POLICY, Action.ACCEPT_LOSS):
        return signers.needed
    return 2 if order.action in (Action.THAW, Action.APPROVE_BULK, Action.SET_ASIDE, Action.DESTROY_KEY) else 1


def apply(
    state: ControlState,
    order: Order,
    signed_by: Collection[str],
    signers: Signers,
    now_ms: int,
    *,
    past: bool = False,
) -> ControlState:
    """The state after `order`, which `signed_by` have validly signed, takes effect at `now_ms`.

    OrderRefusedError says in words why it may not: too old, too few signatures, no such right, or an
    argument that does not fit the state. `past`: it is in force already, and rules made since are not held against it.
    """
    if not order.issued - CLOCK_SKEW_MS <= now_ms <= order.expires:
        raise OrderRefusedError("the order has expired, or comes from the future")
    if order.id in state.denied:
        raise OrderRefusedError("the order was denied")
    if order.actor not in signed_by:
        raise OrderRefusedError("the order is not signed by its actor")
    if len(set(signed_by)) < signatures_needed(order, signers):
        raise MoreSignaturesNeededError("a second person must sign")
    if order.action is Action.APPLY_POLICY:
        after = _apply_policy(state, order, frozenset(signed_by), signers, past=past)
    else:
        after = _CHANGES[order.action](state, order, frozenset(signed_by), signers, now_ms)
    return replace(after, epoch=state.epoch + 1, last_order=order.id)


def _apply_policy(
    state: ControlState, order: Order, signed_by: frozenset[str], signers: Signers, *, past: bool
) -> ControlState:
    if order.actor not in signers.names:
        raise OrderRefusedError("the actor is not among the policy's signers")
    base, text = _arguments(order, base=int, policy=str)
    if base != state.policy_version:
        raise OrderRefusedError("the policy has changed since this was planned: plan again")
    try:
        policy = parse_policy(text, past=past)
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
    scope, kind_name, number, wrapped = _arguments(order, scope=str, kind=str, version=int, wrapped=str)
    name = _key_name(scope, kind_name, number)
    is_agreement = scope in state.policy.agreements
    if scope not in state.policy.domains and not (is_agreement and name.kind is KeyKind.INDEX):
        raise OrderRefusedError("there is no domain or agreement of that name for such a key")
    return replace(state, keys=created(state.keys, name, wrapped, state.epoch + 1, now))


def _activate_key(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN)
    return replace(state, keys=activated(state.keys, key_of(order), now))


def _rewrap_key(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN)
    scope, kind_name, number, wrapped = _arguments(order, scope=str, kind=str, version=int, wrapped=str)
    return replace(state, keys=rewrapped(state.keys, _key_name(scope, kind_name, number), wrapped, now))


def _retire_key(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN)
    return replace(state, keys=retired(state.keys, key_of(order), now))


def _destroy_key(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    _need(state, frozenset({order.actor}), Role.KEY_ADMIN)
    _need_two(state, signed_by)
    return replace(state, keys=destroyed(state.keys, key_of(order), now))


def _reencrypt(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, _now: int
) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN)
    scope, rows_per_second = _arguments(order, scope=str, rows_per_second=int)
    if not state.versions(scope, KeyKind.INDEX):
        raise OrderRefusedError("there is no domain or agreement of that name with keys")
    if not 0 < rows_per_second <= MOST_ROWS_PER_SECOND:
        raise OrderRefusedError(f"the rate must be 1 to {MOST_ROWS_PER_SECOND} rows a second")
    asked = Reencryption(scope, rows_per_second, order.actor)
    return replace(state, reencryptions={**state.reencryptions, order.id: asked})


def _set_aside(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, _now: int
) -> ControlState:
    """What it changes are rows; whether they open is looked at when it is put in force."""
    _need(state, frozenset({order.actor}), Role.KEY_ADMIN)
    _need_two(state, signed_by)
    scope, rows = _arguments(order, scope=str, rows=list)
    if not state.versions(scope, KeyKind.INDEX):
        raise OrderRefusedError("there is no domain or agreement of that name with keys")
    if (
        not all(isinstance(row, str) and _ROW.fullmatch(row) for row in rows)
        or rows != sorted(set(rows))
        or not 0 < len(rows) <= MOST_SET_ASIDE
    ):
        raise OrderRefusedError(f"the rows must be 1 to {MOST_SET_ASIDE} different names, sorted")
    return state


def _freeze(state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN, Role.APPROVER)
    kind, name, _reason = _arguments(order, kind=str, name=str, reason=_Text)
    known: dict[str, Collection[str]] = {
        "client": state.policy.clients,
        "person": state.policy.people,
        "domain": state.policy.domains,
    }
    if kind not in _FREEZE_KINDS:
        raise OrderRefusedError("a freeze is of a client, a person, a domain, or all")
    if kind != "all" and name not in known[kind]:
        raise OrderRefusedError(f"the policy has no {kind} of this name, so that nothing would be frozen")
    freeze = Freeze(kind, name, order.actor, now)
    return _with_freezes(state, {**state.freezes_by_order, order.id: freeze})


def _thaw(state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, _now: int) -> ControlState:
    _need(state, frozenset({order.actor}), Role.KEY_ADMIN, Role.APPROVER)
    (frozen,) = _arguments(order, freeze=str)
    if frozen not in state.freezes_by_order:
        raise OrderRefusedError("there is no such freeze")
    _need_two(state, signed_by)
    left = {order_id: freeze for order_id, freeze in state.freezes_by_order.items() if order_id != frozen}
    return _with_freezes(state, left)


def _drill(state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int) -> ControlState:
    _need(state, signed_by, Role.KEY_ADMIN, Role.APPROVER)
    steps, seconds, passed = _arguments(order, steps=int, seconds=int, passed=bool)
    return replace(state, last_drill=Drill(order.actor, now, steps, seconds, passed))


def _approve_bulk(
    state: ControlState, order: Order, signed_by: frozenset[str], _signers: Signers, now: int
) -> ControlState:
    client, purpose_name, tokens, _why = _arguments(order, client=str, purpose=str, tokens=int, justification=_Text)
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


def _accept_loss(
    state: ControlState, order: Order, signed_by: frozenset[str], signers: Signers, _now: int
) -> ControlState:
    """Whether the log is as the order says is looked at when it is put in force."""
    if order.actor not in signers.names:
        raise OrderRefusedError("the actor is not among the policy's signers")
    if len(signed_by & signers.names) < signers.needed:
        raise MoreSignaturesNeededError("another of the policy's signers must sign")
    if order.arguments.get("epoch") != state.epoch:
        raise OrderRefusedError("orders were decided since this was prepared: prepare it again")
    return replace(state, losses=(*state.losses, loss_of(order)))


def loss_of(order: Order) -> Loss:
    """The loss that an order declares. OrderRefusedError when it declares none that can be."""
    numbers = dict.fromkeys(("entries", "lost_entries", "lost_at", "until", "epoch"), int)
    entries, lost_entries, lost_at, until, _epoch, root, lost_root, note, _reason = _arguments(
        order, **numbers, root=str, lost_root=str, lost_note=str, reason=_Text
    )
    if not 0 <= entries < lost_entries < _LARGEST or not 0 < lost_at <= until < _LARGEST:
        raise OrderRefusedError("that is no span of entries and times that can be lost")
    if not all(_HASH.fullmatch(text) for text in (root, lost_root)):
        raise OrderRefusedError("a root is 64 hexadecimal digits")
    return Loss(order.id, entries, bytes.fromhex(root), lost_entries, bytes.fromhex(lost_root), lost_at, until, note)


_CHANGES: Final = {
    Action.CREATE_KEY: _create_key,
    Action.ACTIVATE_KEY: _activate_key,
    Action.REWRAP_KEY: _rewrap_key,
    Action.REENCRYPT: _reencrypt,
    Action.SET_ASIDE: _set_aside,
    Action.RETIRE_KEY: _retire_key,
    Action.DESTROY_KEY: _destroy_key,
    Action.FREEZE: _freeze,
    Action.THAW: _thaw,
    Action.DRILL: _drill,
    Action.APPROVE_BULK: _approve_bulk,
    Action.DENY: _deny,
    Action.ACCEPT_LOSS: _accept_loss,
}


def key_of(order: Order) -> KeyName:
    """The key version that an order names, where that is all its arguments are."""
    return _key_name(*_arguments(order, scope=str, kind=str, version=int))


def named_rows(order: Order) -> tuple[str, list[str]]:
    """The domain or agreement, and the rows, that an order sets aside."""
    scope, rows = _arguments(order, scope=str, rows=list)
    return scope, rows


def _key_name(scope: str, kind_name: str, number: int) -> KeyName:
    if kind_name not in tuple(KeyKind):
        raise OrderRefusedError("there is no such kind of key")
    return KeyName(scope, KeyKind(kind_name), number)


def _with_freezes(state: ControlState, by_order: Mapping[str, Freeze]) -> ControlState:
    def names(kind: str) -> frozenset[str]:
        return frozenset(freeze.name for freeze in by_order.values() if freeze.kind == kind)

    freezes = Freezes(
        names("client"), names("person"), names("domain"), any(f.kind == "all" for f in by_order.values())
    )
    return replace(state, freezes_by_order=dict(by_order), freezes=freezes)


def _arguments(order: Order, **fields: type) -> tuple[Any, ...]:
    """The order's arguments in the order of `fields`; refused unless exactly these, of exactly these types.

    Of a text the order has the hash, since form 2.
    """
    expected = {
        hash_name(name) if kind is _Text and order.form > 1 else name: str if kind is _Text else kind
        for name, kind in fields.items()
    }
    if order.arguments.keys() != expected.keys() or any(
        type(order.arguments[name]) is not kind for name, kind in expected.items()
    ):
        raise OrderRefusedError("the order's arguments are not those of its action")
    return tuple(order.arguments[name] for name in expected)


def _has(state: ControlState, name: str, *roles: Role) -> bool:
    person = state.policy.people.get(name)
    return person is not None and not person.roles.isdisjoint(roles)


def _need_two(state: ControlState, signed_by: frozenset[str]) -> None:
    if sum(_has(state, name, Role.KEY_ADMIN, Role.APPROVER) for name in signed_by) < 2:
        raise MoreSignaturesNeededError("a second person with a role for this must sign")


def _need(state: ControlState, signed_by: frozenset[str], *roles: Role) -> None:
    if not any(_has(state, name, *roles) for name in signed_by):
        raise OrderRefusedError("nobody who signed has the role for this")
