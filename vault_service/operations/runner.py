"""Runs a batch of calls in one transaction, in the order that the promises need.

    lock -> read control -> (stale: refresh and begin anew) -> tokenize, detokenize, linkage -> append the
    record -> COMMIT -> hashes to the log stream -> decrypt

A batch that fails is tried call by call, so that one call never fails another. A commit whose end is not
known is never tried again for a call that discloses: nothing was decrypted, and the client may ask anew.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
import structlog

from vault_service.audit.event import INVALID, new_event_id, record
from vault_service.audit.refusals import RefusalKey, RefusalMeter
from vault_service.audit.seal import Seal
from vault_service.audit.stream import HashStream
from vault_service.config import LimitSettings
from vault_service.errors import CallError, Reason, StoreError
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.keyring import Keyring
from vault_service.operations import detokenize, linkage_match, tokenize
from vault_service.operations.call import Call, DetokenizeCall, LinkageCall, TokenizeCall
from vault_service.operations.context import Context
from vault_service.orders.control import Control
from vault_service.orders.keys import Keys
from vault_service.storage.budgets import forget_old
from vault_service.storage.engine import NothingCommittedError, Store, database_error_code, describe
from vault_service.storage.events import append
from vault_service.storage.linkages import insert_linkage_records
from vault_service.telling import TellOnce

_ATTEMPTS: Final = 5
_DEADLOCK, _SERIALIZATION = "40P01", "40001"  # SQLSTATE: rolled back for certain, and worth another attempt
_log: Final = structlog.stdlib.get_logger("ssn_vault.operations")


class _StaleError(Exception):
    """The control state in memory is not the one in the database."""

    def __init__(self, epoch: int, known: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch
        self.known = known


class _NotRefreshedError(Exception):
    """The control state could not be brought up to date: that concerns every call."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Runner:
    """Executes batches; its threads share nothing but what they are given here."""

    def __init__(
        self,
        store: Store,
        control: Control,
        keyring: Keyring,
        meter: RefusalMeter,
        encryptions: EncryptionMeter,
        stream: HashStream,
        seal: Seal,
        limits: LimitSettings,
    ) -> None:
        self._store = store
        self._control = control
        self._keyring = keyring
        self._meter = meter
        self._encryptions = encryptions
        self._stream = stream
        self._seal = seal
        self._limits = limits
        self._told = TellOnce(_log)

    def execute(self, calls: Sequence[Call]) -> None:
        """Run all calls; each ends with its results or its `failure`, a CallError unless there is a defect."""
        if self._stream.trouble:  # nothing is recorded, spent or given out whose hash cannot leave
            for call in calls:
                call.failure = CallError(Reason.AUDIT_UNAVAILABLE)
            return
        failure = self._attempts(calls)
        if failure is None:
            self._told.right("calls are served again", about="calls")
            return
        if len(calls) > 1 and not _concerns_all(failure):
            for call in calls:
                self.execute([call])
            return
        error = _call_error(failure)
        if not isinstance(failure, (CallError, _NotRefreshedError)):  # those are answers, and counted
            self._told.wrong("calls fail", about="calls", error=_what(failure))
        for call in calls:
            call.forget()
            call.failure = error

    def tidy(self) -> None:
        """Write the counts of withheld refusals and delete what no rule looks at; for a timer."""
        counts = self._meter.take()
        try:
            with self._store.transaction() as tx:
                summaries = [
                    record(new_event_id(), "refusals", tx.now_ms, {**key._asdict(), "count": count})
                    for key, count in sorted(self._known(counts).items())
                ]
                append(tx, [summary.event for summary in summaries], [])
                forget_old(tx)
        except (sa.exc.SQLAlchemyError, StoreError) as error:
            self._meter.give_back(counts)
            self._told.wrong("tidying waits", error=_what(error))
            return
        self._told.right("tidying is done again")
        try:
            self._stream.announce([summary.event for summary in summaries])
        except CallError as error:
            _log.error("hashes could not be written", error=_what(error))
        try:
            self._store.shrink()
        except StoreError as error:
            _log.warning("the write-ahead log keeps its size", error=_what(error))

    def _known(self, counts: Counter[RefusalKey]) -> Counter[RefusalKey]:
        """The counts by clients of the policy; a certificate may name anybody, who then is `invalid`."""
        clients = self._control.state.policy.clients
        known: Counter[RefusalKey] = Counter()
        for key, count in counts.items():
            known[key if key.client in clients else key._replace(client=INVALID)] += count
        return known

    def _attempts(self, calls: Sequence[Call]) -> BaseException | None:
        """Run all in one transaction, again where that is safe; why it did not work, or None."""
        failure: BaseException | None = None
        for _ in range(_ATTEMPTS):
            for call in calls:
                call.forget()
            try:
                self._once(calls)
            except _StaleError as stale:
                failure = stale
                try:
                    self._control.refresh(stale.epoch, stale.known)
                except CallError as error:
                    return _NotRefreshedError(error.reason)
                except (StoreError, sa.exc.SQLAlchemyError) as error:
                    if not _lost_connection(error):
                        return error
                    failure = error
            except (sa.exc.IntegrityError, tokenize.LostRaceError, NothingCommittedError) as error:
                failure = error  # a token drawn twice, a row gone, a stale connection: all begun anew
            except sa.exc.DBAPIError as error:
                failure = error
                if database_error_code(error) not in (_DEADLOCK, _SERIALIZATION):
                    return error
            except Exception as error:  # noqa: BLE001 - whatever it is, every call must get an answer
                return error
            else:
                return None
        return failure

    def _once(self, calls: Sequence[Call]) -> None:
        tokenizations = [call for call in calls if isinstance(call, TokenizeCall)]
        detokenizations = [call for call in calls if isinstance(call, DetokenizeCall)]
        state = self._control.state
        keys = Keys(state, self._keyring)
        prepared = tokenize.prepare(keys, tokenizations, self._limits.items_per_call)
        with self._store.transaction(ahead=prepared.ahead) as tx:
            if (tx.epoch, tx.last_order) != (state.epoch, state.last_order) or self._control.tampered:
                raise _StaleError(tx.epoch, state.epoch)
            context = Context(tx, keys, self._meter, self._encryptions, self._seal)
            # One order for all transactions: rows of tokens, then accounts, then linkage ids, then the record.
            tokenize.perform(context, prepared)
            if detokenizations:
                detokenize.perform(context, self._control, detokenizations)
            if linkages := [call for call in calls if isinstance(call, LinkageCall)]:
                linkage_match.perform(context, self._control, linkages, self._limits.items_per_call)
            append(
                tx,
                [recorded.event for recorded in context.recorded],
                [row for recorded in context.recorded for row in recorded.disclosures],
                [row for recorded in context.recorded for row in recorded.texts],
            )
            insert_linkage_records(tx, context.linkage_records)
        try:
            self._after_commit(context, calls, detokenizations)
        except Exception as error:  # noqa: BLE001 - committed: another attempt would record and spend twice
            for call in calls:
                call.failure = call.failure or _call_error(error)

    def _after_commit(self, context: Context, calls: Sequence[Call], detokenizations: Sequence[DetokenizeCall]) -> None:
        """What may not run before the commit (promise 2): first the hashes leave, then numbers are opened."""
        self._stream.announce([recorded.event for recorded in context.recorded])
        for approval_id, spent in context.approvals_spent.items():
            self._control.saw_spent(approval_id, spent)
        if not self._seal.holds:  # the commit took longer than the seal lasts: nothing is given out any more
            for call in calls:
                if not isinstance(call, TokenizeCall):
                    call.failure = call.failure or CallError(Reason.AUDIT_UNAVAILABLE)
        if losses := detokenize.deliver(context, detokenizations):
            with self._store.transaction() as tx:
                append(
                    tx,
                    [loss.event for loss in losses],
                    [row for loss in losses for row in loss.disclosures],
                )
            self._stream.announce([loss.event for loss in losses])
            _log.error("records do not open", events=len(losses))


def _lost_connection(failure: BaseException) -> bool:
    """Whether only the connection is no good: another one may be."""
    return isinstance(failure, sa.exc.DBAPIError) and failure.connection_invalidated


def _concerns_all(failure: BaseException) -> bool:
    """Whether the failure is not one call's: trying them one by one would only take longer."""
    if isinstance(failure, sa.exc.DBAPIError):
        return failure.connection_invalidated or isinstance(failure, sa.exc.OperationalError)
    return isinstance(failure, (StoreError, sa.exc.TimeoutError, _NotRefreshedError))


def _call_error(failure: BaseException) -> CallError | BaseException:
    if isinstance(failure, _NotRefreshedError):
        return CallError(failure.reason)
    if isinstance(failure, (sa.exc.SQLAlchemyError, StoreError, _StaleError, tokenize.LostRaceError)):
        return CallError(Reason.STORE_UNAVAILABLE)
    return failure


def _what(failure: BaseException) -> str:
    """What may be logged of a failure."""
    if isinstance(failure, sa.exc.SQLAlchemyError):
        return describe(failure)
    return str(failure) if isinstance(failure, (StoreError, CallError)) else type(failure).__name__
