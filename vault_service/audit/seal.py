"""Whether the record is being sealed: what Detokenize and LinkageMatch ask before they give anything out.

A look at the database says until when they may go on: `max_unsealed` after the newest checkpoint was signed,
after the oldest event that it does not cover, and after the last acknowledgement of each sink. A checkpoint
counts by the log's signature, not by its row, and what does not change for that long by this server's own watch
is old, whatever the database's clock says. No look, no extension: when the database, the sequencer or a sink is
away for too long, the time runs out by itself (NIST SP 800-53, AU-5).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa
import structlog
from prometheus_client import Gauge

from vault_service.audit.checkpoint import CLOCK_MS, Checkpoint, Signer, signed_checkpoint
from vault_service.audit.loss import Loss
from vault_service.errors import CallError, LogDamagedError, Reason, SigningError, StoreError
from vault_service.storage import log
from vault_service.storage.engine import Store, database_now, describe

_LOOK_SECONDS: Final = 0.5
_SECONDS_LEFT: Final = Gauge(
    "ssn_vault_seal_seconds_left", "For how long numbers may be given out if nothing is sealed or acknowledged any more"
)
_SEALED: Final = Gauge("ssn_vault_log_sealed_entries", "Entries of the disclosure record under a checkpoint")
_log: Final = structlog.stdlib.get_logger("ssn_vault.seal")


class Seal:
    """One server's knowledge of how fresh the log's seal is. Any thread may ask."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        max_unsealed: float,
        sinks: Sequence[str],
        losses: Callable[[], Sequence[Loss]] = tuple,
    ) -> None:
        """`max_unsealed` in seconds; `sinks` are the names of those that must acknowledge; `losses` were accepted."""
        self._store = store
        self._signer = signer
        self._newest: tuple[str, Checkpoint] | None = None  # the note that was checked last
        self._max_unsealed = max_unsealed
        self._sinks = sinks
        self._losses = losses
        self._met: set[str] | None = None  # losses, by order, that were known while the log was whole
        self._good_until = 0.0  # monotonic seconds
        self._largest = 0  # entries that a checkpoint covered when this server looked
        self._first_seen: tuple[str, float] = ("", 0.0)  # the oldest unsealed event, and since when it is known
        self._latest_ms = 0  # when the newest checkpoint so far was signed
        self._unchanged: dict[str, tuple[int, float]] = {}  # what was seen last of each thing, and since when
        self._rolled_back = False
        self._held = True
        self._told = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seal", daemon=True)

    @property
    def holds(self) -> bool:
        """Whether numbers may be given out now."""
        return time.monotonic() < self._good_until

    @property
    def trouble(self) -> str:
        """Why numbers may not be given out now; empty when they may."""
        if self.holds:
            return ""
        why = "the log was rolled back" if self._rolled_back else self._told
        return f"the record is not sealed in time{f' ({why})' if why else ''}"

    def require(self) -> None:
        """CallError AUDIT_UNAVAILABLE unless numbers may be given out now."""
        if not self.holds:
            raise CallError(Reason.AUDIT_UNAVAILABLE)

    def start(self) -> None:
        """Look now, and then again and again."""
        self._safe_look()
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look at the database once."""
        now = time.monotonic()
        with self._store.reading() as connection:
            newest = self._checked(log.newest_checkpoint(connection))
            oldest = log.oldest_unsealed(connection, newest.size if newest else 0)
            sinks = log.sinks(connection)
            database_ms = database_now(connection)
        covered = newest.size if newest else 0
        losses = {loss.order: loss for loss in self._losses()}
        new = [loss for order, loss in losses.items() if self._met is not None and order not in self._met]
        declared = any(loss.entries <= covered and self._largest > loss.entries for loss in new)
        if covered < self._largest and not declared:
            if not self._rolled_back:
                _log.critical("the log was rolled back", covered=covered, known=self._largest)
            self._rolled_back = True
            self._good_until = 0.0
            return
        self._rolled_back = False
        self._largest = covered
        self._met = set(losses)
        # Signed anew every so often, also when nothing happens: an old one says that nobody seals.
        self._latest_ms = max(self._latest_ms, newest.at_ms if newest else 0)
        ages = [self._seconds_unchanged("the newest checkpoint", self._latest_ms, now)]
        ages += [_seconds_since(newest.at_ms, database_ms)] if newest else []
        ages += [0.0 if oldest is None else self._age(oldest, now, database_ms)]
        for name in self._sinks:
            acknowledged = sinks[name].acknowledged_at if name in sinks else 0
            ages += [_seconds_since(acknowledged, database_ms), self._seconds_unchanged(name, acknowledged, now)]
        left = self._max_unsealed - max(ages)
        self._good_until = now + left
        _SECONDS_LEFT.set(left)
        _SEALED.set(covered)

    def _age(self, event_id: str, now: float, database_ms: int) -> float:
        """Seconds since the event was made; by this server's own watch where that says more than the event's id."""
        known, since = self._first_seen
        if event_id != known:
            self._first_seen = event_id, since = event_id, now
        made_ms = int(event_id[:8] + event_id[9:13], 16)  # RFC 9562, section 5.7
        return max(0.0, now - since, (database_ms - made_ms) / 1000)

    def _seconds_unchanged(self, what: str, moment_ms: int, now: float) -> float:
        """For how long `what` has had this time, by this server's own watch."""
        known, since = self._unchanged.get(what, (None, now))
        if moment_ms != known:
            self._unchanged[what] = moment_ms, now
            return 0.0
        return now - since

    def _checked(self, row: log.CheckpointRow | None) -> Checkpoint | None:
        """The checkpoint of a row. LogDamagedError or SigningError when it cannot be told by the log's signature."""
        if row is None:
            return None
        if self._newest is None or self._newest[0] != row.note:
            self._newest = row.note, signed_checkpoint(row.note, self._signer)
        return self._newest[1]

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self._safe_look()
            if self.holds is not self._held:
                self._held = self.holds
                _log.warning("the record is sealed in time again" if self._held else "the record is not sealed in time")

    def _safe_look(self) -> None:
        try:
            self.look()
        except sa.exc.SQLAlchemyError as error:
            told = describe(error)
        except (LogDamagedError, SigningError, StoreError) as error:
            told = str(error)
        except Exception as error:  # noqa: BLE001 - the next look must still come
            told = type(error).__name__
        else:
            told = ""
        if told and told != self._told:
            _log.error("cannot look at the seal", detail=told)
        self._told = told


def _seconds_since(moment_ms: int, database_ms: int) -> float:
    """Since a moment; one from the future never was."""
    since = database_ms - moment_ms
    return since / 1000 if since > -CLOCK_MS else float("inf")
