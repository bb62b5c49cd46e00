"""Ships the log: every sealed entry as a line of OCSF JSON to standard output, a file or a syslog collector.

Entries up to the newest checkpoint come in, in order, from the server that holds the log's lease; lines go out, and
then the position is acknowledged in the database (sink `ship`), also when nothing is left to ship and the destination
is there. A crash may repeat lines, which carry position and id, and loses none. Where the destination is unavailable
only this waits, and what gives numbers out once the last acknowledgement is too old (`audit.seal`). What a line holds
is `audit.ocsf`'s; `audit.destinations` delivers it.

The position is a plain row, and who moves it forward wants events to go unseen. So it is never taken for more than
this server knows itself: beyond the log, or beyond what this server shipped since it has the lease, it was moved. That
is told as tampering, and shipping goes on where this server knows it stopped, else at the log's first entry: lines that
come twice are better than lines that never come. A position that was moved within the log while no server had the
lease is not noticed here, but at the collector: as a gap in `metadata.sequence`.
"""

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import sqlalchemy as sa
import structlog
from prometheus_client import Counter

from vault_service.audit.destinations import Destination, Line, ShippingError
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.ocsf import missing_entry, to_ocsf
from vault_service.errors import StoreError
from vault_service.storage import log
from vault_service.storage.engine import Store, database_now, describe
from vault_service.telling import TellOnce

SHIP: Final = "ship"  # the sink whose acknowledgement is the number of entries shipped
_POLL_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 5.0  # while the destination or the database is unavailable
_IDLE_SECONDS: Final = 60.0  # between acknowledgements when there is nothing to ship
_ENTRIES_A_BATCH: Final = 250
_MOVED: Final = Counter(
    "ssn_vault_shipping_position_moved",
    "Times that the position up to which events were shipped was found tampered with",
)
_NOT_SHIPPED: Final = "events are not shipped: they wait"
_log: Final = structlog.stdlib.get_logger("ssn_vault.shipper")


class LogShipper:
    """One thread a server; of all servers the one that holds the log's lease ships."""

    def __init__(
        self, store: Store, destination: Destination, replica: str, product_version: str, max_unsealed: float
    ) -> None:
        """`replica` names this server among others, as the sequencer's does; `product_version` is told in lines.

        `max_unsealed`: seconds without an acknowledgement after which nothing is given out.
        """
        self._store = store
        self._destination = destination
        self._replica = replica
        self._product_version = product_version
        # Often enough that a fault is noticed, and mended, well before `max_unsealed`.
        self._soon = max_unsealed / 6
        self._idle = min(_IDLE_SECONDS, max_unsealed / 3)
        self._waiting = 0  # entries that are not shipped yet, at the last look
        self._told = TellOnce(_log)
        self._shipped: int | None = None  # entries that the destination has, as known since this server has the lease
        self._acknowledged_at: float | None = None  # monotonic seconds; None: not since it has the lease
        self._moved: int | None = None  # the position that was told as tampered with
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, leave the rest to the next server, and end."""
        self._stop.set()
        self._thread.join()

    def round(self) -> bool:
        """Ship one batch; False when nothing is left to ship, or another server ships.

        ShippingError when the destination does not take it, StoreError or SQLAlchemyError when the database is away.
        """
        with self._store.reading() as connection:
            if log.holder(connection, database_now(connection)) != self._replica:
                self._forget()
                return False
            newest = log.newest_checkpoint(connection)
            row = log.sinks(connection).get(SHIP)
            size = newest.size if newest else 0
            first = self._first(row.size if row else 0, size)
            end = min(size, first + _ENTRIES_A_BATCH)
            rows = log.entries(connection, first, end - first) if first < end else []
        self._waiting = size - first
        if first == end and not self._is_idle_for_long():
            return False
        self._destination.write(self._lines(first, end, rows))
        self._shipped = end
        self._acknowledge(end)
        self._waiting = size - end
        return end < size

    def _first(self, stored: int, size: int) -> int:
        """The position to go on from, given the stored one and the log's size."""
        if 0 <= stored <= (size if self._shipped is None else min(size, self._shipped)):
            self._moved = None
            return stored
        # After a restored backup the log may be shorter than what was shipped.
        first = self._shipped if self._shipped is not None and self._shipped <= size else 0
        if stored != self._moved:
            _MOVED.inc()
            _log.critical(
                "the shipping position was tampered with: events are shipped again from the last one known",
                stored=stored,
                log_size=size,
                shipped_from=first,
            )
            self._moved = stored
        return first

    def _is_idle_for_long(self) -> bool:
        """Whether the destination is to be asked, and the acknowledgement renewed, though there is nothing to ship."""
        since = self._acknowledged_at
        return self._moved is not None or since is None or time.monotonic() - since >= self._idle

    def _acknowledge(self, size: int) -> None:
        with self._store.transaction() as tx:
            # Another server may have shipped more meanwhile, which it would take for tampering.
            if log.holder(tx.connection, tx.now_ms) != self._replica:
                raise StoreError("another server took the log over")
            log.acknowledge(tx, SHIP, size)
        self._acknowledged_at = time.monotonic()

    def _forget(self) -> None:
        """What another server ships is not known here."""
        self._waiting = 0
        self._shipped = None
        self._acknowledged_at = None

    def _run(self) -> None:
        wait = min(_POLL_SECONDS, self._soon)
        while not self._stop.wait(wait):
            wait = self._attempt()

    def _attempt(self) -> float:
        """One round; the seconds until the next. A failure is told once, until it works again."""
        try:
            more = self.round()
        except (ShippingError, StoreError) as error:
            self._told.wrong(_NOT_SHIPPED, detail=str(error), also={"waiting": self._waiting})
        except sa.exc.SQLAlchemyError as error:
            self._told.wrong(_NOT_SHIPPED, detail=describe(error), also={"waiting": self._waiting})
        except Exception as error:  # noqa: BLE001 - the next attempt must still come
            self._told.wrong(_NOT_SHIPPED, detail=type(error).__name__, also={"waiting": self._waiting})
        else:
            self._told.right("events are shipped again", waiting=self._waiting)
            return 0.0 if more else min(_POLL_SECONDS, self._soon)
        return min(_RETRY_SECONDS, self._soon)

    def _lines(self, first: int, end: int, rows: Iterable[log.EntryRow]) -> list[Line]:
        """A line for every position from `first` to before `end`, whether the log still has it or not."""
        by_position = {row.position: row for row in rows}
        return [self._line(position, by_position.get(position)) for position in range(first, end)]

    def _line(self, position: int, row: log.EntryRow | None) -> Line:
        event = None
        # What is not what was sealed is missing: nobody else should take it for the record.
        if row is not None and row.body is not None and leaf_hash(row.body.encode()) == row.hash:
            with suppress(ValueError, RecursionError):
                body = json.loads(row.body)
                event = to_ocsf(position, body, self._product_version) if isinstance(body, dict) else None
        if event is None:
            event = missing_entry(position, row.event_id if row else None, self._product_version)
        return Line(json.dumps(event, separators=(",", ":")), event["severity_id"], event["time"])
