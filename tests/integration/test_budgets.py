"""What budgets, approvals and remembered requests are worth, and for how long; on both databases."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import new_database_url
from tests.support.auditlog import LogKey
from tests.support.sealed import OwnSigner
from vault_service.audit.refusals import RefusalMeter
from vault_service.audit.seal import Seal
from vault_service.errors import CallError, Reason
from vault_service.identity.caller import Caller
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.keyring import Keyring
from vault_service.operations.budget import Charge, charge_all
from vault_service.operations.call import DetokenizeCall
from vault_service.operations.context import Context
from vault_service.orders.control import Control
from vault_service.orders.keys import Keys
from vault_service.orders.losses import LossCheck
from vault_service.orders.state import Approval, ControlState, Signers
from vault_service.policy.model import View
from vault_service.storage.budgets import (
    DAY_MINUTES,
    DAY_MS,
    SeenRequest,
    forget_old,
    remember_request,
    seen_request,
    spent_in_day,
)
from vault_service.storage.engine import Store, open_store
from vault_service.storage.schema import migrate
from vault_service.storage.tables import budget_spend, request_seen

ACCOUNT = "client:sis:tax-reporting"


@pytest.fixture
def store(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = new_database_url(database, request) or f"sqlite:///{tmp_path / 'test.db'}"
    opened = open_store(sa.make_url(url))
    migrate(opened)
    yield opened
    opened.close()


def test_tidying_forgets_nothing_that_a_rule_still_looks_at(store: Store) -> None:
    ages = (0, 1, DAY_MINUTES // 2, DAY_MINUTES - 1, DAY_MINUTES, 3 * DAY_MINUTES)
    with store.transaction() as tx:
        now = tx.now_ms // 60_000
        rows = [{"key": ACCOUNT, "minute": now - age, "amount": 10**at} for at, age in enumerate(ages)]
        tx.connection.execute(sa.insert(budget_spend), rows)
        for name in ("recent", "old"):
            remember_request(tx, "sis", "Detokenize", name, SeenRequest(1, b"digest"))
        made = {"recent": tx.now_ms - DAY_MS + 60_000, "old": tx.now_ms - 3 * DAY_MS}
        for name, at in made.items():
            tx.connection.execute(sa.update(request_seen).where(request_seen.c.request_id == name).values(at=at))
        before = spent_in_day(tx, [ACCOUNT])
        assert before == {ACCOUNT: 11111}
        forget_old(tx)
        assert spent_in_day(tx, [ACCOUNT]) == before
        assert seen_request(tx, "sis", "Detokenize", "recent") is not None
        left = {now - minute for minute in tx.connection.execute(sa.select(budget_spend.c.minute)).scalars()}
        assert left == set(ages[:-1])
        assert tx.connection.execute(sa.select(request_seen.c.request_id)).scalars().all() == ["recent"]


def charged(store: Store, approval: Approval, *, life: int) -> CallError | None:
    """How a call for eleven tokens ends that is free up to ten, with an approval that expires in `life` ms."""
    keyring = Keyring(lambda _name, _wrapped: bytes(32), 300)
    control = Control(store, lambda _name: {}, Signers(frozenset(), 2), keyring, LossCheck(OwnSigner(LogKey())))
    seal = Seal(store, OwnSigner(LogKey()), 300, [])
    call = DetokenizeCall(
        caller=Caller("sis"),
        domain="k12",
        tokens=["k12_ONE"] * 11,
        purpose="tax-reporting",
        justification="asked by a test",
        view=View.FULL,
    )
    with store.transaction() as tx:
        context = Context(tx, Keys(ControlState(), keyring), RefusalMeter(60), EncryptionMeter(), seal)
        charge = Charge(call, 11, {ACCOUNT: 1000}, "k12", lambda: b"", "unapproved", 10)
        charge.approvals = [replace(approval, expires=tx.now_ms + life)]
        passed = charge_all(context, control, [charge])
    assert bool(passed) is (call.failure is None)
    assert call.failure is None or isinstance(call.failure, CallError)
    return call.failure


def test_an_approval_is_worth_nothing_from_the_moment_it_expires(store: Store) -> None:
    approval = Approval("one", "sis", "tax-reporting", "tax-clerk", 1000, "records-officer", 0)
    for life in (0, -1, -DAY_MS):
        refused = charged(store, approval, life=life)
        assert refused is not None
        assert refused.reason is Reason.APPROVAL_REQUIRED
    assert charged(store, approval, life=1) is None
