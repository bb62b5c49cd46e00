"""A real store with a log in it: events with their disclosure rows, places, nodes and signed checkpoints.

What the sequencer does over time happens here at once, and with a key of the test's own instead of Vault's.
"""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from tests.support.auditlog import ORIGIN, START, LogKey, WitnessKey, event_id
from vault_service.audit.checkpoint import Checkpoint
from vault_service.audit.event import Disclosed, record
from vault_service.audit.merkle import Tree, leaf_hash
from vault_service.keys.log_signer import Signed
from vault_service.storage import events, log
from vault_service.storage.engine import Store, open_store
from vault_service.storage.schema import migrate


class OwnSigner:
    """Signs as the log without Vault; other keys of the log's stand beside its own."""

    def __init__(self, key: LogKey, *others: LogKey) -> None:
        self._key = key
        self.keys = [key, *others]

    def sign(self, text: bytes) -> Signed:
        return Signed(self._key.public, self._key.sign(text.decode()))

    def public_keys(self, *, anew: bool = False) -> list[bytes]:
        return [key.public for key in self.keys]


def new_store(directory: Path) -> Store:
    """An SQLite store with this release's schema."""
    store = open_store(sa.make_url(f"sqlite:///{directory / 'sealed.db'}"))
    migrate(store)
    return store


def add_event(store: Store, number: int, at_ms: int, disclosed: Sequence[Disclosed] = ()) -> str:
    """Commit an event, which waits for its place from then on; its id."""
    identifier = event_id(number, at_ms)
    made = record(identifier, "detokenize", at_ms, {"client": "sis", "purpose": "tax-reporting"}, disclosed)
    with store.transaction() as tx:
        events.append(tx, [made.event], made.disclosures)
    return identifier


def place(store: Store) -> int:
    """Give what waits its place in the log; the entries there are then."""
    with store.transaction() as tx:
        waiting = log.pending(tx.connection, 10_000)
        size = log.size(tx.connection)
        hashes = [leaf_hash(row.body.encode()) for row in waiting if row.body is not None]
        leaves = [
            log.LeafRow(size + at, row.event_id, hash_)
            for at, (row, hash_) in enumerate(zip(waiting, hashes, strict=True))
        ]
        if leaves:
            assert log.append_leaves(tx, leaves, tree_of(tx.connection).edge(size).add(hashes))
    return size + len(leaves)


def seal(store: Store, key: LogKey, at_ms: int = START, witness: WitnessKey | None = None) -> str:
    """Store a checkpoint over everything that has a place; the note."""
    with store.transaction() as tx:
        size, newest = log.size(tx.connection), log.newest_checkpoint(tx.connection)
        head = Checkpoint(ORIGIN, size, tree_of(tx.connection).root(size), at_ms)
        note = key.note(head, *([witness.cosign(head)] if witness else []))
        number = newest.number + 1 if newest else 1
        log.insert_checkpoint(tx, log.CheckpointRow(number, size, at_ms, note))
    return note


def tree_of(connection: sa.Connection) -> Tree:
    """The log's tree as it is stored."""
    return Tree(lambda level, first, count: log.stored_hashes(connection, level, first, count))
