"""Budgets of the rolling day, approvals' spending and request ids: counted exactly, also under races.

Keys and amounts come in; what was spent goes out. Whether that is too much is not decided here. A caller
first locks the accounts it may spend from (in one order), then reads, then adds: whoever comes second sees
what the first committed.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import approval_spend, budget_spend, request_seen

DAY_MINUTES: Final = 24 * 60
DAY_MS: Final = DAY_MINUTES * 60_000

_LOCK: Final = sa.text(
    "INSERT INTO budget_account (key) VALUES (:key) ON CONFLICT (key) DO UPDATE SET key = excluded.key"
)
_SPENT: Final = (
    sa.select(budget_spend.c.key, sa.func.sum(budget_spend.c.amount))
    .where(budget_spend.c.key.in_(sa.bindparam("keys", expanding=True)))
    .where(budget_spend.c.minute >= sa.bindparam("since"))
    .group_by(budget_spend.c.key)
)
_SPEND: Final = sa.text(
    "INSERT INTO budget_spend (key, minute, amount) VALUES (:key, :minute, :amount)"
    " ON CONFLICT (key, minute) DO UPDATE SET amount = budget_spend.amount + excluded.amount"
)
_APPROVALS: Final = sa.select(approval_spend.c.approval_id, approval_spend.c.spent).where(
    approval_spend.c.approval_id.in_(sa.bindparam("ids", expanding=True))
)
_SPEND_APPROVAL: Final = sa.text(
    "INSERT INTO approval_spend (approval_id, spent) VALUES (:id, :spent)"
    " ON CONFLICT (approval_id) DO UPDATE SET spent = excluded.spent"
)
_SEEN: Final = (
    sa.select(request_seen.c.key_version, request_seen.c.digest)
    .where(request_seen.c.client == sa.bindparam("client"))
    .where(request_seen.c.method == sa.bindparam("method"))
    .where(request_seen.c.request_id == sa.bindparam("request_id"))
    .where(request_seen.c.at > sa.bindparam("since"))
)
_REMEMBER: Final = sa.text(
    "INSERT INTO request_seen (client, method, request_id, key_version, digest, at)"
    " VALUES (:client, :method, :request_id, :key_version, :digest, :at)"
    " ON CONFLICT (client, method, request_id) DO UPDATE"
    " SET key_version = excluded.key_version, digest = excluded.digest, at = excluded.at"
)


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request id that was used before: the keyed digest of what it carried, and the key's version."""

    key_version: int
    digest: bytes


def lock_accounts(tx: Transaction, keys: Collection[str]) -> None:
    """Make later transactions that lock any of these accounts wait until this one ends."""
    if keys:
        tx.connection.execute(_LOCK, [{"key": key} for key in sorted(keys)])


def spent_in_day(tx: Transaction, keys: Collection[str]) -> dict[str, int]:
    """What each account has spent in the last 24 hours, to the minute, rounded up. 0 is left out."""
    if not keys:
        return {}
    since = tx.now_ms // 60_000 - DAY_MINUTES
    rows = tx.connection.execute(_SPENT, {"keys": list(keys), "since": since})
    return {key: int(amount) for key, amount in rows}


def spend(tx: Transaction, amounts: Mapping[str, int]) -> None:
    """Add to the accounts, in the present minute."""
    if amounts:
        minute = tx.now_ms // 60_000
        rows = [{"key": key, "minute": minute, "amount": amounts[key]} for key in sorted(amounts)]
        tx.connection.execute(_SPEND, rows)


def approvals_spent(tx: Transaction, ids: Collection[str]) -> dict[str, int]:
    """What was taken from each approval so far. 0 is left out."""
    if not ids:
        return {}
    return {name: int(spent) for name, spent in tx.connection.execute(_APPROVALS, {"ids": list(ids)})}


def set_approvals_spent(tx: Transaction, spent: Mapping[str, int]) -> None:
    """Write what has been taken from each approval in all."""
    if spent:
        tx.connection.execute(_SPEND_APPROVAL, [{"id": name, "spent": spent[name]} for name in sorted(spent)])


def seen_request(tx: Transaction, client: str, method: str, request_id: str) -> SeenRequest | None:
    """The request of this id in the last 24 hours, or None."""
    row = tx.connection.execute(
        _SEEN,
        {"client": client, "method": method, "request_id": request_id, "since": tx.now_ms - DAY_MS},
    ).one_or_none()
    return SeenRequest(row[0], row[1]) if row else None


def remember_request(tx: Transaction, client: str, method: str, request_id: str, seen: SeenRequest) -> None:
    """Keep the digest of a request for 24 hours."""
    tx.connection.execute(
        _REMEMBER,
        {
            "client": client,
            "method": method,
            "request_id": request_id,
            "key_version": seen.key_version,
            "digest": seen.digest,
            "at": tx.now_ms,
        },
    )


def forget_old(tx: Transaction) -> None:
    """Delete spending and request ids that no rule looks at any more."""
    horizon: Iterable[sa.Executable] = (
        sa.delete(budget_spend).where(budget_spend.c.minute < tx.now_ms // 60_000 - 2 * DAY_MINUTES),
        sa.delete(request_seen).where(request_seen.c.at < tx.now_ms - 2 * DAY_MS),
    )
    for statement in horizon:
        tx.connection.execute(statement)
