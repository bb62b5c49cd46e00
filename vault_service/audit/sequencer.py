"""The sequencer: gives committed events their places in the log, and seals the log with signed checkpoints.

    claim the lease -> move what waits to dense positions, commit -> read back what was committed, compare it
    with every checkpoint known -> sign -> ask the witness -> store the checkpoint -> file, log stream

Signing comes after the commit and over what is read back, so that two servers that both think they hold the
lease sign heads of one tree: only a committed position is ever signed, and positions are never changed. What
does not fit an earlier checkpoint (database, file, memory, witness) is not signed at all: a fork or a restored
backup stops the seal, and with it, after `max_unsealed`, everything that gives numbers out.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Final, NamedTuple

import sqlalchemy as sa
import structlog

from vault_service.audit.checkpoint import CLOCK_MS, ED25519, Checkpoint, Signer, signature_line, signed_checkpoint
from vault_service.audit.checkpoint_file import CheckpointFile
from vault_service.audit.loss import Loss
from vault_service.audit.merkle import Edge, Tree, leaf_hash
from vault_service.audit.sinks import FILE, WITNESS, AheadError, ForkError, SinkError, Witness
from vault_service.audit.stream import HashStream
from vault_service.config import AuditSettings
from vault_service.errors import CallError, LogDamagedError, SigningError, StoreError
from vault_service.storage import log
from vault_service.storage.engine import Store, database_now, describe
from vault_service.storage.replicas import running
from vault_service.telling import TellOnce

_LEAVES_A_BATCH: Final = 2_000
_IDLE_SECONDS: Final = 60.0  # between checkpoints when nothing happens, so that silence is visible
_READ_BACK: Final = 5_000  # entries read at once
_BATCHES_A_SEAL: Final = 25  # while a long queue is worked off
_STAND_BACK: Final = 2  # holds of the lease, for which a server that cannot seal leaves it to others
_NOT_ACCEPTED: Final = "the witness's operator has not accepted the declared loss yet (accepted_losses)"
_log: Final = structlog.stdlib.get_logger("ssn_vault.sequencer")


class _Known(NamedTuple):
    """A head that was signed before, and where it stands."""

    where: str
    size: int
    root: bytes
    at_ms: int
    stored: bool = False  # in the database: its entries were read back when it was signed


class Sequencer:
    """One thread a server; of all servers the one that holds the lease works."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        stream: HashStream,
        settings: AuditSettings,
        origin: str,
        replica: str,
        witness: Witness | None = None,
        losses: Callable[[], Sequence[Loss]] = tuple,
    ) -> None:
        """`origin` names the log, `replica` this server among others; `losses` are those that were accepted."""
        self._store = store
        self._signer = signer
        self._stream = stream
        self._origin = origin
        self._replica = replica
        self._file = CheckpointFile(settings.checkpoint_file, self._is_signed) if settings.checkpoint_file else None
        self._witness = witness
        self._losses = losses
        # Often enough that a fault is noticed, and mended, well before `max_unsealed`.
        self._period = min(settings.checkpoint_seconds, settings.max_unsealed / 6)
        self._hold_ms = int(2000 * self._period) + 3000  # how long a silent holder keeps the lease
        self._idle = min(_IDLE_SECONDS, settings.max_unsealed / 3)
        self._last: _Known | None = None  # what this server signed last
        self._last_at = 0.0  # monotonic seconds; 0: sign when the lease is won
        self._witness_asked = False  # whether the witness has told what it knows since the lease was won
        self._failing_since = 0.0  # monotonic seconds; 0: sealing works
        self._stand_back_until = 0.0
        self._not_cosigned = ""  # why, the last time
        self._told = TellOnce(_log)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Seal what is there, give the lease up, and end."""
        self._stop.set()
        self._thread.join()
        self._attempt(self._finish)

    def round(self) -> bool:
        """Move and seal what is there; False when another server does it."""
        with self._store.reading() as connection:
            holder = log.holder(connection, database_now(connection))
        waits = time.monotonic() < self._stand_back_until
        if waits or holder not in (None, self._replica) or not self._claim():
            self._last_at = 0.0
            self._witness_asked = False
            return False
        moved = self._move()
        for batch in itertools.count(1):
            if moved < _LEAVES_A_BATCH:
                break
            if batch % _BATCHES_A_SEAL == 0:
                self._seal()
            moved = self._move()
        if moved or self._behind() or time.monotonic() - self._last_at >= self._idle:
            self._seal()
        return True

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            began = time.monotonic()
            works = self._attempt(self.round)
            # Whoever waits for the lease looks twice as often, and takes it within ten seconds.
            wait = max(0.0, (self._period if works else min(1.0, self._period)) - (time.monotonic() - began))

    def _finish(self) -> bool:
        if self.round():
            with self._store.transaction() as tx:
                log.release(tx, self._replica)
        return True

    def _attempt(self, work: Callable[[], bool]) -> bool:
        """Do it; every failure is told once, and left for the next attempt."""
        try:
            done = work()
        except LogDamagedError as error:
            self._told.wrong("the log is not sealed: it is not what was signed", "critical", detail=str(error))
        except (SigningError, StoreError) as error:
            self._told.wrong("the log is not sealed", "error", detail=str(error))
        except CallError as error:
            self._told.wrong("the log is not sealed", "error", detail=error.reason.value)
        except sa.exc.SQLAlchemyError as error:
            self._told.wrong("the log is not sealed", "error", detail=describe(error))
        except Exception as error:  # noqa: BLE001 - the next attempt must still come
            self._told.wrong("the log is not sealed", "error", detail=type(error).__name__)
        else:
            if done:
                self._told.right("the log is sealed again")
            self._failing_since = 0.0
            return done
        self._perhaps_stand_back()
        return True

    def _perhaps_stand_back(self) -> None:
        """Leave the lease to others, where there are any, once sealing has failed here for as long as it lasts."""
        now, hold = time.monotonic(), self._hold_ms / 1000
        self._failing_since = self._failing_since or now
        if now - self._failing_since < hold:
            return
        self._failing_since = 0.0
        try:
            with self._store.transaction() as tx:
                if len(running(tx.connection, tx.now_ms)) > 1:
                    log.release(tx, self._replica)
                    self._stand_back_until = now + _STAND_BACK * hold
        except (StoreError, sa.exc.SQLAlchemyError):
            return
        if self._stand_back_until > now:
            _log.warning("sealing is left to another server for a while")

    def _claim(self) -> bool:
        with self._store.transaction() as tx:
            return log.claim(tx, self._replica, self._hold_ms)

    def _move(self) -> int:
        """One batch of waiting events to the next positions, committed; how many."""
        with self._store.reading() as connection:
            rows = log.pending(connection, _LEAVES_A_BATCH)
        if not rows:
            return 0
        hashes = [_leaf_of(row) for row in rows]
        with self._store.transaction() as tx:
            # The update locks the lease's row: two holders pass here one after the other.
            if not log.claim(tx, self._replica, self._hold_ms):
                raise StoreError("another server took the log over")
            size = log.size(tx.connection)
            leaves = [
                log.LeafRow(size + at, row.event_id, hash_)
                for at, (row, hash_) in enumerate(zip(rows, hashes, strict=True))
            ]
            nodes = stored_tree(tx.connection).edge(size).add(hashes)
            if not log.append_leaves(tx, leaves, nodes):
                raise StoreError("another server moved these events")
        return len(rows)

    def _behind(self) -> bool:
        """Whether entries stand behind the newest checkpoint."""
        with self._store.reading() as connection:
            newest = log.newest_checkpoint(connection)
            return log.size(connection) > (newest.size if newest else 0)

    def _seal(self) -> None:
        """Sign the head of what is committed, and hand it on; again in the next round while a sink does not take it."""
        self._last_at = 0.0
        with self._store.reading() as connection:
            newest = log.newest_checkpoint(connection)
            known, lost = self._known_heads(newest)
            size = log.size(connection)  # after the heads, which others may have signed meanwhile
            root = self._checked_root(connection, size, known)
            now = time.time_ns() // 1_000_000
            # A head from the future would be fresh for too long, and no later one could be earlier.
            if abs(now - database_now(connection)) > CLOCK_MS:
                raise StoreError("this server's clock and the database's are too far apart")
        now = max(now, *(head.at_ms + 1 for head in (*known, *lost)), 0)  # never earlier than the one before
        checkpoint = Checkpoint(self._origin, size, root, now)
        signed = self._signer.sign(checkpoint.text.encode())
        note = checkpoint.note([signature_line(self._origin, ED25519, signed.public_key, signed.signature)])
        self._last = _Known("this server's memory", size, root, now)
        cosigned = self._cosigned(checkpoint, note)
        note += cosigned or ""
        with self._store.transaction() as tx:
            if not log.claim(tx, self._replica, self._hold_ms):
                raise StoreError("another server took the log over")
            number = newest.number + 1 if newest else 1
            log.insert_checkpoint(tx, log.CheckpointRow(number, size, checkpoint.at_ms, note))
            if cosigned is not None:
                log.acknowledge(tx, WITNESS, size, checkpoint.at_ms)
        self._stream.announce_checkpoint(note)
        if self._file is not None:
            self._keep_in_file(self._file, note, checkpoint)
        if self._witness is not None and cosigned is None:
            raise StoreError(self._not_cosigned)
        self._last_at = time.monotonic()

    def _checked_root(self, connection: sa.Connection, size: int, heads: Sequence[_Known]) -> bytes:
        """The root of the committed tree. LogDamagedError unless it continues every head that is known.

        From the largest head in the database on it is computed from the entries themselves. Of what is stored only
        the edge of that head's tree is used, which gives the root that was signed; a hash or node behind it that is
        wrong is found here, and never signed.
        """
        tree = stored_tree(connection)
        for known in heads:
            if known.size > size:
                raise LogDamagedError(f"the log has {size} entries, but {known.where} has {known.size}")
        edge = tree.edge(max((known.size for known in heads if known.stored), default=0))
        later = sorted((known for known in heads if known.size > edge.size), key=lambda known: known.size)
        for known in heads:
            if known.size == edge.size:
                _check_head(known, edge.root())
            elif known.size < edge.size:
                _check_head(known, tree.root(known.size))
        for known in later:
            self._read_on(connection, edge, known.size)
            _check_head(known, edge.root())
        self._read_on(connection, edge, size)
        return edge.root()

    def _read_on(self, connection: sa.Connection, edge: Edge, size: int) -> None:
        """Extend `edge` to `size` by the entries, and see that leaves and nodes are stored as they give them."""
        while edge.size < size:
            first = edge.size
            rows = log.entries(connection, first, min(_READ_BACK, size - first))
            if not rows:
                raise LogDamagedError(f"entry {first} is missing from the log")
            for at, row in enumerate(rows):
                if row.position != first + at or row.body is None or leaf_hash(row.body.encode()) != row.hash:
                    raise LogDamagedError(f"entry {first + at} was changed before it was sealed")
            for node in edge.add([row.hash for row in rows]):
                if log.stored_hashes(connection, node.level, node.position, 1) != [node.hash]:
                    raise LogDamagedError(
                        f"node {node.position} of level {node.level} of the log is not the root of its entries:"
                        " run `ssn-vault database rebuild-tree`"
                    )

    def kept_heads(self) -> list[tuple[str, Checkpoint]]:
        """The last head in the checkpoint file, if there is one: what a declared loss is held against."""
        note = self._file.last() if self._file is not None else None
        return [] if note is None else [("the checkpoint file", signed_checkpoint(note, self._signer))]

    def _known_heads(self, newest: log.CheckpointRow | None) -> tuple[list[_Known], list[_Known]]:
        """The heads that the log must continue; and those over entries that were declared as lost."""
        heads = [self._last] if self._last else []
        notes = []
        if newest is not None:
            notes.append((f"checkpoint {newest.number}", newest.note))
        if self._file is not None:
            try:
                last = self._file.last()
            except OSError as error:
                raise StoreError(f"the checkpoint file cannot be read ({type(error).__name__})") from None
            if last is not None:
                notes.append(("the checkpoint file", last))
        if self._witness is not None and not self._witness_asked:  # new to the lease: the witness may know more
            with suppress(SinkError):  # away: it is asked again, and what it then cosigns fits what it knows
                seen = self._witness.latest(self._origin)
                self._witness_asked = True
                notes += [("the witness", seen)] if seen is not None else []
        for where, note in notes:
            head = signed_checkpoint(note, self._signer)
            if where == "the checkpoint file" and head.origin != self._origin:
                raise LogDamagedError("the checkpoint file is of another log: move it aside to begin a new one")
            stored = newest is not None and note == newest.note
            heads.append(_Known(where, head.size, head.root, head.at_ms, stored=stored))
        lost = [head for head in heads if not head.stored and self._is_lost(head.size, head.root, head.at_ms)]
        # What this server signed last may have reached nobody else: then no order can name it.
        own = self._last
        if own and any(loss.entries < own.size and own.at_ms <= loss.until for loss in self._losses()):
            lost.append(own)
        return [head for head in heads if head not in lost], lost

    def _is_lost(self, size: int, root: bytes, at_ms: int) -> bool:
        return any(loss.covers(size, root, at_ms) for loss in self._losses())

    def _cosigned(self, checkpoint: Checkpoint, note: str) -> str | None:
        if self._witness is None:
            return None

        def consistency(old: int, size: int) -> list[bytes]:
            with self._store.reading() as connection:
                return stored_tree(connection).consistency(old, size)

        try:
            return self._witness.cosign(checkpoint, note, consistency)
        except AheadError as error:
            self._believe(error, checkpoint.size)
            return None
        except ForkError as error:
            if not self._witness_has_lost():
                raise LogDamagedError(str(error)) from None
            self._not_cosigned = _NOT_ACCEPTED
            return None
        except SinkError as error:
            self._not_cosigned = str(error)
            return None

    def _believe(self, ahead: AheadError, size: int) -> None:
        """LogDamagedError when the witness shows a longer log under this log's own signature."""
        with self._store.reading() as connection:
            if log.size(connection) > size:
                raise StoreError("the log has grown meanwhile")
        seen = self._witness.latest(self._origin) if self._witness else None
        if seen is not None and (head := signed_checkpoint(seen, self._signer)).size > size:
            if not self._is_lost(*head.seen):
                raise LogDamagedError(str(ahead))
            self._not_cosigned = _NOT_ACCEPTED
        else:
            self._not_cosigned = str(ahead)

    def _witness_has_lost(self) -> bool:
        """Whether what the witness cosigned last is over entries that were declared as lost."""
        with suppress(SinkError):
            seen = self._witness.latest(self._origin) if self._witness else None
            return seen is not None and self._is_lost(*signed_checkpoint(seen, self._signer).seen)
        return False

    def _is_signed(self, note: str) -> bool:
        try:
            signed_checkpoint(note, self._signer)
        except LogDamagedError:
            return False
        return True

    def _keep_in_file(self, file: CheckpointFile, note: str, checkpoint: Checkpoint) -> None:
        try:
            file.append(note)
        except OSError as error:
            raise StoreError(f"the checkpoint file does not take it ({type(error).__name__})") from None
        with self._store.transaction() as tx:
            log.acknowledge(tx, FILE, checkpoint.size, checkpoint.at_ms)


def _check_head(known: _Known, root: bytes) -> None:
    if root != known.root:
        raise LogDamagedError(
            f"the log's first {known.size} entries are not those of {known.where}: `ssn-vault audit verify` says where"
        )


def _leaf_of(row: log.PendingRow) -> bytes:
    """The leaf hash of a waiting event; LogDamagedError for one that is not what its transaction committed."""
    if row.body is None or sha256(row.body.encode()).digest() != row.hash:
        raise LogDamagedError(f"event {row.event_id} was changed before it was sealed")
    return leaf_hash(row.body.encode())


def stored_tree(connection: sa.Connection) -> Tree:
    """The log's tree as it is stored."""
    return Tree(lambda level, first, count: log.stored_hashes(connection, level, first, count))
