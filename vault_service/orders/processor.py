"""Carries out the orders that people put into the database: verify, put in force, record, say what became of it.

Every replica looks; the exclusive transaction makes sure that each order is decided once. When it commits,
every later transaction on every replica reads the new epoch first (promise 12). What an order needs of Vault
or of the rows is looked at before the lock, because it may take its time.
"""

import threading
import time
from hashlib import sha256
from typing import Final

import sqlalchemy as sa
import structlog

from vault_service.audit.event import new_event_id, record
from vault_service.audit.loss import Loss
from vault_service.audit.stream import HashStream
from vault_service.errors import CallError, MoreSignaturesNeededError, OrderRefusedError, StoreError, TamperedError
from vault_service.orders.control import Control
from vault_service.orders.order import Action, Order, check_new, parse_order
from vault_service.orders.reencryption import first_step, set_aside
from vault_service.orders.state import ControlState, apply, key_of, loss_of, named_rows
from vault_service.storage import events as event_rows
from vault_service.storage import jobs as job_rows
from vault_service.storage import orders as order_rows
from vault_service.storage import replicas as replica_rows
from vault_service.storage import rotation
from vault_service.storage.engine import Store, Transaction, database_now, describe
from vault_service.telling import TellOnce

_POLL_SECONDS: Final = 0.2
_REPORT_SECONDS: Final = 2.0  # a fifth of the silence after which others no longer wait (storage.replicas)
_log: Final = structlog.stdlib.get_logger("ssn_vault.orders")


class OrderProcessor:
    """One thread that looks for undecided orders."""

    def __init__(
        self,
        store: Store,
        control: Control,
        stream: HashStream,
        replica: str,
    ) -> None:
        """`replica` names this server among others."""
        self._store = store
        self._control = control
        self._stream = stream
        self._replica = replica
        self._told = TellOnce(_log)
        self._reported: tuple[int, float] = (0, 0.0)  # epoch, monotonic seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the order at hand and end."""
        self._stop.set()
        self._thread.join()
        try:
            with self._store.transaction() as tx:
                replica_rows.sign_off(tx, self._replica)
        except (StoreError, sa.exc.SQLAlchemyError):
            _log.warning("could not sign off: others wait for this server a little longer")

    def process_all(self) -> None:
        """Decide every order that can be decided now."""
        try:
            self._refresh()
        except TamperedError:
            self._process_rows(self._control.of_database(), {Action.ACCEPT_LOSS})
            raise
        self._report()
        self._process_rows(None, set(Action))

    def _process_rows(self, given: ControlState | None, actions: set[Action]) -> None:
        """Decide what waits under the state `given`, else under the one that is in force then."""
        with self._store.reading() as connection:
            rows = order_rows.read_orders(connection, order_rows.undecided(connection))
        self._told.forget(but=["", *(row.id for row in rows)])
        for row in sorted(rows, key=lambda row: row.id):
            try:
                self._process(row, given or self._control.state, actions)
            except CallError as error:
                self._told.wrong("an order waits", about=row.id, order=row.id, reason=error.reason)
            except (StoreError, sa.exc.SQLAlchemyError) as error:
                if not isinstance(error, sa.exc.DataError):  # that one concerns this order alone
                    raise
                _log.error("an order failed", order=row.id, error=describe(error))
            except Exception as error:  # noqa: BLE001 - one bad order must not keep everybody's freezes waiting
                self._told.wrong("an order failed", "error", about=row.id, order=row.id, error=type(error).__name__)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self.process_all()
            except CallError as error:
                self._told.wrong("orders wait", reason=error.reason)
            except StoreError as error:
                self._told.wrong("orders wait", "error", detail=str(error))
            except sa.exc.SQLAlchemyError as error:
                self._told.wrong("orders wait", error=describe(error))
            else:
                self._told.right("orders are decided again")

    def _process(self, row: order_rows.OrderRow, state: ControlState, actions: set[Action]) -> None:
        """Decide one order of these actions. Signatures and keys are checked before the lock: Vault may take time."""
        order: Order | None = None
        signed_by: list[str] = []
        refusal = ""
        now = time.time_ns() // 1_000_000
        try:
            order = parse_order(row.body)
            if order.action not in actions:
                return
            if order.id != row.id:
                raise OrderRefusedError("the order stands under another id")
            check_new(order, row.texts)
            signed_by = self._control.verified_signers(state, order, row.signatures)
            applied = apply(state, order, signed_by, self._control.signers, now)
            for name, wrapped in applied.wrapped_keys().items() - state.wrapped_keys().items():
                self._control.check_key(name, wrapped)
            if not self._fits_the_rows(order, state):
                return
        except MoreSignaturesNeededError:
            return
        except OrderRefusedError as error:
            if order is None and actions != set(Action):
                return
            refusal = str(error)
        with self._store.transaction(exclusive=True) as tx:
            (again,) = order_rows.read_orders(tx.connection, [row.id])
            if (
                (tx.epoch, tx.last_order) != (state.epoch, state.last_order)
                or again.outcome is not None
                or again.position is not None
            ):
                return  # decided by another replica, or to be looked at anew under the state that is in force now
            if order is not None and not refusal:
                try:
                    apply(state, order, signed_by, self._control.signers, tx.now_ms)
                    if order.action is Action.RETIRE_KEY:
                        _check_unused(tx.connection, order)  # a row may have come back to the version meanwhile
                    if order.action is Action.SET_ASIDE:
                        keys, (scope, rows) = self._control.keys(), named_rows(order)
                        set_aside(tx, keys, scope, rows, order.id)
                except OrderRefusedError as error:
                    refusal = str(error)
                else:
                    order_rows.put_in_force(tx, order.id)
                    if order.action is Action.REENCRYPT:
                        step = first_step(state, order.arguments["scope"])
                        job_rows.insert_job(tx, order.id, order.arguments["scope"], step)
            recorded = self._decide(tx, row, order, signed_by, "refused" if refusal else "done", refusal)
        self._stream.announce([recorded])
        self._refresh()
        self._report()

    def _fits_the_rows(self, order: Order, state: ControlState) -> bool:
        """False when the order has to wait for other servers; OrderRefusedError when rows are in its way."""
        with self._store.reading() as connection:
            if order.action is Action.ACTIVATE_KEY:
                version = state.version(key_of(order))
                epoch = version.epoch if version else 0
                if waiting := replica_rows.lagging(connection, epoch, database_now(connection)):
                    event = "an order waits for servers to load the key"
                    self._told.wrong(event, "info", about=order.id, order=order.id, servers=waiting)
                    return False
            if order.action is Action.RETIRE_KEY:
                _check_unused(connection, order)
            if order.action is Action.ACCEPT_LOSS:
                self._control.losses.check(connection, loss_of(order))
        return True

    def _report(self) -> None:
        """Say that this server is there and which keys it has; at once when that changed."""
        epoch, now = self._control.loaded_epoch, time.monotonic()
        reported, at = self._reported
        if epoch != reported or now - at > _REPORT_SECONDS:
            with self._store.transaction() as tx:
                replica_rows.report(tx, self._replica, epoch)
            self._reported = (epoch, now)

    def _refresh(self) -> None:
        known = self._control.state.epoch
        with self._store.reading() as connection:
            epoch = order_rows.read_epoch(connection)
        self._control.refresh(epoch, known)

    def _decide(
        self,
        tx: Transaction,
        row: order_rows.OrderRow,
        order: Order | None,
        signed_by: list[str],
        outcome: str,
        detail: str,
    ) -> event_rows.EventRow:
        order_rows.write_outcome(tx, row.id, outcome, detail)
        facts: dict[str, str | int | list[str] | None] = {
            "order": row.id,
            "action": order.action.value if order else None,
            "actor": order.actor if order else None,
            "signed_by": sorted(signed_by) if order else None,
            "order_sha256": sha256(row.body.encode()).hexdigest(),
            "outcome": outcome,
            "epoch": tx.epoch + (outcome == "done"),
        }
        if order is not None and order.action is Action.ACCEPT_LOSS and outcome == "done":
            facts |= _loss_facts(loss_of(order))
        recorded = record(new_event_id(), "order", tx.now_ms, facts).event
        event_rows.append(tx, [recorded], [])
        _log.info("order decided", order=row.id, outcome=outcome)
        return recorded


def _check_unused(connection: sa.Connection, order: Order) -> None:
    name = key_of(order)
    if rotation.rows_using(connection, name.scope, name.kind.value, name.version):
        raise OrderRefusedError("rows still use this version: re-encrypt first")


def _loss_facts(loss: Loss) -> dict[str, str | int]:
    """What the record says of a declared loss: verifiers excuse what it covers, and nothing else."""
    return {
        "loss_entries": loss.entries,
        "loss_root_sha256": loss.root.hex(),
        "loss_lost_entries": loss.lost_entries,
        "loss_lost_root_sha256": loss.lost_root.hex(),
        "loss_lost_at": loss.lost_at,
        "loss_until": loss.until,
    }
