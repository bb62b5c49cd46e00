"""Does the long work that orders asked for: one thread a server, one server a job, a batch a transaction.

Where a job stands is committed with each batch. A server that is killed loses the batch at hand and nothing
else: another takes the job when its hold lapses. Asking twice makes a second job that finds nothing to do.
"""

import threading
import time
from typing import Final

import sqlalchemy as sa
import structlog

from vault_service.audit.event import Facts, new_event_id, record
from vault_service.audit.stream import HashStream
from vault_service.errors import CallError, StoreError
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.keyring import Keyring
from vault_service.orders.control import Control
from vault_service.orders.keys import Keys
from vault_service.orders.reencryption import Progress, count_rows, move_batch
from vault_service.orders.state import ControlState, Reencryption
from vault_service.storage import events as event_rows
from vault_service.storage import jobs as job_rows
from vault_service.storage.engine import Store, Transaction, describe
from vault_service.storage.jobs import JobRow
from vault_service.storage.orders import read_epoch
from vault_service.telling import TellOnce

_POLL_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 1.0  # while keys or the database are away
_ROWS_A_BATCH: Final = 250  # small, because calls wait while one is moved
_BATCHES_A_SECOND: Final = 4  # at least, at a low rate: else the hold would lapse
_log: Final = structlog.stdlib.get_logger("ssn_vault.jobs")


class JobRunner:
    """One thread that looks for jobs and does them."""

    def __init__(
        self,
        store: Store,
        control: Control,
        keyring: Keyring,
        meter: EncryptionMeter,
        stream: HashStream,
        replica: str,
    ) -> None:
        """`replica` names this server among others."""
        self._store = store
        self._control = control
        self._keyring = keyring
        self._meter = meter
        self._stream = stream
        self._replica = replica
        self._told = TellOnce(_log)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, leave the job to others, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._look()
            except CallError as error:
                self._told.wrong("jobs wait", reason=error.reason)
            except StoreError as error:
                self._told.wrong("jobs wait", detail=str(error))
            except sa.exc.SQLAlchemyError as error:
                self._told.wrong("jobs wait", error=describe(error))
            except Exception as error:  # noqa: BLE001 - the next look must still come
                self._told.wrong("a job failed", "error", error=type(error).__name__)
            else:
                self._told.right("jobs are done again")
                continue
            self._stop.wait(_RETRY_SECONDS)

    def _look(self) -> None:
        with self._store.reading() as connection:
            jobs = job_rows.unfinished(connection)
        scopes: set[str] = set()
        for row in jobs:
            asked = self._control.state.reencryptions.get(row.order_id)  # a row alone is no order
            if asked is not None and row.scope not in scopes:  # one at a time in each scope, the oldest first
                self._work(row, asked)
            scopes.add(row.scope)

    def _work(self, row: JobRow, asked: Reencryption) -> None:
        with self._store.transaction() as tx:
            if not job_rows.claim(tx, row, self._replica):
                return
        _log.info("job taken", order=row.order_id, scope=row.scope)
        limit = max(1, min(_ROWS_A_BATCH, asked.rows_per_second // _BATCHES_A_SECOND))
        while not self._stop.is_set():
            began = time.monotonic()
            progress = self._batch(row.order_id, limit)
            if progress is None:
                return
            pause = progress.walked / asked.rows_per_second - (time.monotonic() - began)
            self._stop.wait(max(0.0, pause))
        with self._store.transaction() as tx:
            job_rows.release(tx, row.order_id, self._replica)

    def _batch(self, order_id: str, limit: int) -> Progress | None:
        """One batch, committed; None when the job is finished or another server's."""
        state = self._current_state()
        with self._store.transaction() as tx:
            row = job_rows.read_job(tx.connection, order_id)
            if row is None or row.holder != self._replica or row.finished_at is not None:
                return None
            if (tx.epoch, tx.last_order) != (state.epoch, state.last_order):
                return Progress(row, 0, finished=False)  # begun anew under the state that is in force now
            keys = Keys(state, self._keyring)
            progress = move_batch(tx, keys, self._meter, row if row.counted else count_rows(tx, keys, row), limit)
            if not job_rows.advance(tx, progress.row, finished=progress.finished):
                raise StoreError("the job was taken by another server")
            recorded = [self._finished(tx, progress.row)] if progress.finished else []
            event_rows.append(tx, recorded, [])
        self._stream.announce(recorded)
        if not progress.finished:
            return progress
        _log.info("job finished", order=order_id, moved=progress.row.moved, failed=progress.row.failed)
        return None

    def _current_state(self) -> ControlState:
        known = self._control.state.epoch
        with self._store.reading() as connection:
            epoch = read_epoch(connection)
        return self._control.refresh(epoch, known)

    @staticmethod
    def _finished(tx: Transaction, row: JobRow) -> event_rows.EventRow:
        facts: Facts = {
            "order": row.order_id,
            "scope": row.scope,
            "moved": row.moved,
            "failed": row.failed,
            "outcome": "done",
        }
        return record(new_event_id(), "job", tx.now_ms, facts).event
