"""A stored node that is not the root of its entries is never signed; it is named, and rebuilt from the entries."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import new_database_url
from tests.support.auditlog import ORIGIN, LogKey
from tests.support.commands import DONE, ssn_vault
from tests.support.inside import unread_stream
from tests.support.sealed import OwnSigner, add_event
from tests.support.servers import write_config
from vault_service.audit.checkpoint import parse_unverified
from vault_service.audit.merkle import Edge, leaf_hash
from vault_service.audit.rebuild import rebuild_tree
from vault_service.audit.sequencer import Sequencer
from vault_service.config import AuditSettings
from vault_service.errors import LogDamagedError
from vault_service.storage import log
from vault_service.storage.engine import Store, open_store
from vault_service.storage.schema import migrate

NODE = "log_node WHERE level = 1 AND position = 1"


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_database_url(database, request) or f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(sa.make_url(url))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def sequencer(store: Store) -> Sequencer:
    """A log of 300 entries under a checkpoint, and 300 more that have a place and no checkpoint yet."""
    one = Sequencer(store, OwnSigner(LogKey()), unread_stream(), AuditSettings(), ORIGIN, "one")
    for number in range(300):
        add_event(store, number, 1_700_000_000_000 + number)
    assert one.round()
    for number in range(300, 600):
        add_event(store, number, 1_700_000_000_000 + number)
    assert one._move() == 300
    return one


def tamper(store: Store, statement: str, **values: object) -> None:
    """As the database's owner, past the triggers, which stay."""
    with store.engine.begin() as connection, log.nodes_writable(connection):
        assert connection.execute(sa.text(statement), values).rowcount == 1


def flip(store: Store, where: str) -> None:
    with store.reading() as connection:
        hash_ = bytes(connection.execute(sa.text(f"SELECT hash FROM {where}")).scalar_one())
    tamper(store, f"UPDATE {where.replace('WHERE', 'SET hash = :hash WHERE')}", hash=bytes([hash_[0] ^ 1]) + hash_[1:])


def heads(store: Store) -> list[tuple[int, bytes]]:
    """Size of each checkpoint, and the root of that many entries by their bodies."""
    with store.reading() as connection:
        sizes = [row.size for row in log.checkpoints(connection)]
        bodies = [row.body or "" for row in log.entries(connection, 0, 10_000)]
    edges = [Edge() for _ in sizes]
    for edge, size in zip(edges, sizes, strict=True):
        edge.add([leaf_hash(body.encode()) for body in bodies[:size]])
    return [(edge.size, edge.root()) for edge in edges]


def signed(store: Store) -> list[tuple[int, bytes]]:
    with store.reading() as connection:
        found = [parse_unverified(row.note)[0] for row in log.checkpoints(connection)]
    return [(head.size, head.root) for head in found]


@pytest.mark.parametrize("change", ["flipped", "gone"])
def test_a_new_node_that_is_wrong_is_never_signed_and_is_rebuilt(
    store: Store, sequencer: Sequencer, change: str
) -> None:
    if change == "flipped":
        flip(store, NODE)
    else:
        tamper(store, f"DELETE FROM {NODE}")
    with pytest.raises(LogDamagedError, match=r"node 1 of level 1 .* rebuild-tree"):
        sequencer.round()
    assert [size for size, _ in signed(store)] == [300]
    (line,) = rebuild_tree(store)
    assert line.startswith("node 1 of level 1 was ")
    assert sequencer.round()
    assert [size for size, _ in signed(store)] == [300, 600]
    assert signed(store) == heads(store)
    assert rebuild_tree(store) == []


def test_a_node_under_a_checkpoint_that_is_wrong_is_rebuilt_too(store: Store, sequencer: Sequencer) -> None:
    flip(store, "log_node WHERE level = 1 AND position = 0")
    with pytest.raises(LogDamagedError, match="first 300 entries"):
        sequencer.round()
    assert rebuild_tree(store) == ["node 0 of level 1 was not the root of its entries"]
    assert sequencer.round()
    assert signed(store) == heads(store)


def test_a_node_of_entries_that_are_not_there_goes(store: Store, sequencer: Sequencer) -> None:
    tamper(store, "INSERT INTO log_node (level, position, hash) VALUES (1, 2, :hash)", hash=bytes(32))
    assert rebuild_tree(store) == ["1 nodes of level 1 were roots of no entries"]


@pytest.mark.parametrize("position", [5, 299, 300, 599])
def test_nothing_is_rebuilt_from_an_entry_that_was_changed(store: Store, sequencer: Sequencer, position: int) -> None:
    flip(store, NODE)
    with store.engine.begin() as connection:
        if store.postgresql:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        else:
            connection.exec_driver_sql("DROP TRIGGER log_leaf_no_update")
        statement = "UPDATE log_leaf SET hash = :hash WHERE position = :position"
        connection.execute(sa.text(statement), {"hash": bytes(32), "position": position})
    with store.reading() as connection:
        before = log.nodes(connection, 1, 0, 10)
    with pytest.raises(LogDamagedError, match=f"entry {position} was changed"):
        rebuild_tree(store)
    with store.reading() as connection:
        assert log.nodes(connection, 1, 0, 10) == before


def test_the_nodes_take_inserts_only_also_after_a_rebuild(store: Store, sequencer: Sequencer) -> None:
    flip(store, NODE)
    assert len(rebuild_tree(store)) == 1
    for statement in (f"DELETE FROM {NODE}", f"UPDATE {NODE.replace('WHERE', 'SET level = 2 WHERE')}"):
        with pytest.raises(sa.exc.DBAPIError, match="insert"), store.engine.begin() as connection:
            connection.exec_driver_sql(statement)


def test_the_command_rebuilds(store: Store, sequencer: Sequencer, url: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, url)
    line = ["database", "rebuild-tree", "--config", config]
    unchanged = ssn_vault(None, *line)
    assert (unchanged.exit_code, "nothing was changed" in unchanged.output) == (DONE, True)
    flip(store, NODE)
    mended = ssn_vault(None, *line)
    assert (mended.exit_code, "node 1 of level 1" in mended.output) == (DONE, True)
