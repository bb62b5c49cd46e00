"""Budgets, approvals and repeated requests of one transaction: who may still spend how much. Exact under races.

Calls that were permitted come in with what they want to spend; each is charged or refused, in order. The
accounts are locked before they are read, so that racing transactions see each other's spending.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vault_service.errors import CallError, Reason, field_invalid
from vault_service.keys.envelope import request_digest
from vault_service.keys.names import KeyKind, KeyName
from vault_service.operations.call import Call
from vault_service.operations.context import Context
from vault_service.orders.control import Control
from vault_service.orders.state import Approval
from vault_service.storage.budgets import (
    SeenRequest,
    approvals_spent,
    lock_accounts,
    remember_request,
    seen_request,
    set_approvals_spent,
    spend,
    spent_in_day,
)

C = TypeVar("C", bound=Call)


@dataclass(slots=True)
class Charge(Generic[C]):
    """What one call wants to spend, and by which bounds."""

    call: C
    amount: int
    limits: dict[str, int]  # account -> most in a rolling day
    digest_scope: str  # domain or agreement whose index key digests the content
    content: Callable[[], bytes]  # what the request asked for
    approval_account: str | None = None
    approval_above: int = 0
    approvals: Sequence[Approval] = ()
    used_approvals: list[str] = field(default_factory=list)


def charge_all(context: Context, control: Control, charges: Sequence[Charge[C]]) -> list[Charge[C]]:
    """Charge each in turn; those that may go on. The others' calls have their `failure` set to a CallError.

    A repeated request (same client, method, id and content within 24 hours) is free; the same id with other
    content is FIELD_INVALID. A call that would take the day's count above `approval_above` must be covered
    wholly by approvals.
    """
    if not charges:
        return []
    tx = context.tx
    accounts = {name for charge in charges for name in charge.limits}
    accounts |= {charge.approval_account for charge in charges if charge.approval_account}
    lock_accounts(tx, accounts)
    spent = spent_in_day(tx, accounts)
    ids = {approval.id for charge in charges for approval in charge.approvals}
    taken = approvals_spent(tx, ids)
    void = {name for name in ids if control.was_rolled_back(name, taken.get(name, 0))}
    added: dict[str, int] = {}
    taken_now: dict[str, int] = {}
    passed = []
    for charge in charges:
        try:
            if not _is_repeated(context, charge):
                charge.approvals = [approval for approval in charge.approvals if approval.id not in void]
                _charge(context, charge, spent, taken, added, taken_now)
        except CallError as error:
            charge.call.failure = error
        else:
            passed.append(charge)
    spend(tx, added)
    set_approvals_spent(tx, taken_now)
    context.approvals_spent |= taken_now
    return passed


def _charge(
    context: Context,
    charge: Charge[C],
    spent: dict[str, int],
    taken: dict[str, int],
    added: dict[str, int],
    taken_now: dict[str, int],
) -> None:
    amount = charge.amount
    account = charge.approval_account
    from_approvals: dict[str, int] = {}
    if account and spent.get(account, 0) + amount > charge.approval_above:
        left = amount
        for approval in sorted(charge.approvals, key=lambda a: (a.expires, a.id)):
            if approval.expires > context.tx.now_ms and left:
                part = min(left, approval.tokens - taken.get(approval.id, 0))
                if part > 0:
                    from_approvals[approval.id] = part
                    left -= part
        if left:
            raise CallError(Reason.APPROVAL_REQUIRED)
    if any(spent.get(name, 0) + amount > limit for name, limit in charge.limits.items()):
        raise CallError(Reason.BUDGET_EXCEEDED)
    for name in {*charge.limits, *([account] if account else [])}:
        spent[name] = spent.get(name, 0) + amount
        added[name] = added.get(name, 0) + amount
    for name, part in from_approvals.items():
        taken[name] = taken_now[name] = taken.get(name, 0) + part
    charge.used_approvals = sorted(from_approvals)
    _remember(context, charge)


def _is_repeated(context: Context, charge: Charge[C]) -> bool:
    call = charge.call
    if not call.request_id:
        return False
    seen = seen_request(context.tx, call.caller.client or "", call.method, call.request_id)
    if seen is None:
        return False
    key = context.keys.of(KeyName(charge.digest_scope, KeyKind.INDEX, seen.key_version))
    if key is None:
        return False  # retired within the day: nothing can be compared, so that it counts as new
    if not hmac.compare_digest(seen.digest, request_digest(key.secret, charge.content())):
        raise field_invalid("request_id", "was used for another request within 24 hours")
    return True


def _remember(context: Context, charge: Charge[C]) -> None:
    call = charge.call
    if call.request_id:
        key = context.keys.active(charge.digest_scope, KeyKind.INDEX)
        seen = SeenRequest(key.version, request_digest(key.secret, charge.content()))
        remember_request(context.tx, call.caller.client or "", call.method, call.request_id, seen)
