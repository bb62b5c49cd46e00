"""The schema and the set-based statements, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.conftest import new_database_url
from vault_service.errors import StoreError
from vault_service.keys.envelope import index_maker
from vault_service.ssn import Ssn
from vault_service.storage.engine import Store, check_durability, open_store
from vault_service.storage.events import EventRow, append
from vault_service.storage.records import (
    NewRecord,
    fetch_payloads,
    find_tokens,
    insert_records,
    lock_records,
    look_up,
    replace_payloads,
)
from vault_service.storage.rotation import rows_using
from vault_service.storage.schema import check_schema, migrate
from vault_service.storage.tables import APPEND_ONLY, metadata
from vault_service.storage.texts import TextRow
from vault_service.tokens import Token, TokenFormat, draw_token

KEY = bytes(32)
RECORD = "INSERT INTO token_record (token, domain, index_version, blind_index, data_version, ciphertext, destroy_by)"
LIST = "INSERT INTO linkage_record (event_id, agreement, key_version, ciphertext)"


@pytest.fixture
def store(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = new_database_url(database, request) or f"sqlite:///{tmp_path / 'test.db'}"
    opened = open_store(sa.make_url(url), connections=16)
    migrate(opened)
    yield opened
    opened.close()


def record(number: int, token: str | None = None) -> NewRecord:
    index = index_maker(KEY)(Ssn(f"949{number:06}"))
    return NewRecord(index, Token(token or draw_token("k12", TokenFormat.STANDARD)), b"sealed")


def insert(store: Store, records: list[NewRecord]) -> set[bytes]:
    with store.transaction() as tx:
        return insert_records(tx, "k12", index_version=1, data_version=1, destroy_by="2033-01-01", records=records)


def test_the_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_changes_nothing_and_the_schema_is_accepted(store: Store) -> None:
    migrate(store)
    check_schema(store)
    check_durability(store)


def test_another_schema_version_is_refused(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999"):
        check_schema(store)


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET {} = {}"])
def test_append_only_tables_refuse_changes_even_by_their_owner(store: Store, table: str, statement: str) -> None:
    from vault_service.storage import log, orders
    from vault_service.storage.events import DisclosureRow, EventRow, append
    from vault_service.storage.linkages import LinkageRecordRow, insert_linkage_records

    with store.transaction() as tx:
        append(
            tx,
            [EventRow("e", "{}", b"h")],
            [DisclosureRow("e", 0, "k12", "t", "found", "s")],
            [TextRow("e", "n", "s", "t")],
        )
        insert_linkage_records(tx, [LinkageRecordRow("e", "a", 1, b"c")])
        orders.insert_order(tx.connection, "o", "{}", [TextRow("o", "n", "s", "t")])
        orders.insert_signature(tx.connection, "o", orders.SignatureRow("p", 1, b"s"))
        orders.put_in_force(tx, "o")
        orders.write_outcome(tx, "o", "done", "")
    with store.transaction() as tx:
        assert log.append_leaves(tx, [log.LeafRow(0, "e", b"h")], [log.NodeRow(1, 0, b"h")])
        log.insert_checkpoint(tx, log.CheckpointRow(1, 1, 1, "note"))
    column = next(iter(metadata.tables[table].c)).name
    with pytest.raises(sa.exc.DBAPIError, match="takes inserts only"), store.engine.begin() as connection:
        connection.exec_driver_sql(statement.format(table, column, column))


def test_inserting_what_is_there_changes_nothing_and_says_so(store: Store) -> None:
    first = [record(n) for n in range(10)]
    assert len(insert(store, first)) == 10
    with store.transaction() as tx:
        found = find_tokens(tx, "k12", [1], [r.blind_index for r in first])
        assert found == {r.blind_index: r.token for r in first}
        assert find_tokens(tx, "highered", [1], [r.blind_index for r in first]) == {}
        assert find_tokens(tx, "k12", [2], [r.blind_index for r in first]) == {}


def test_overlapping_batches_from_many_writers_neither_deadlock_nor_double(
    store: Store,
) -> None:
    together = Barrier(8)

    def writer(seed: int) -> set[bytes]:
        together.wait(30)
        inserted: set[bytes] = set()
        for at in range(10):
            numbers = list(range(at * 100, at * 100 + 300))
            (numbers.reverse if seed % 2 else numbers.sort)()
            records = [record(n) for n in numbers]
            if store.postgresql:
                inserted |= insert(store, records)
            else:
                with store.transaction() as tx:
                    there = find_tokens(tx, "k12", [1], [r.blind_index for r in records])
                    inserted |= insert_records(
                        tx,
                        "k12",
                        index_version=1,
                        data_version=1,
                        destroy_by="2033-01-01",
                        records=[r for r in records if r.blind_index not in there],
                    )
        return inserted

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(writer, range(8)))
    assert sum(map(len, won)) == 1200
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM token_record")).scalar_one() == 1200


def test_a_token_drawn_twice_is_an_error_not_a_lost_number(store: Store) -> None:
    insert(store, [record(1, "k12_TAKEN")])
    with pytest.raises(sa.exc.IntegrityError):
        insert(store, [record(2, "k12_TAKEN")])
    assert len(insert(store, [record(2)])) == 1


def test_replacing_a_payload_replaces_that_one_only(store: Store) -> None:
    first, second = record(1), record(2)
    insert(store, [first, second])
    with store.transaction() as tx:
        assert lock_records(tx, [first.token, Token("k12_NONE")]) == {first.token: first.blind_index}
        assert replace_payloads(tx, 3, [replace(first, ciphertext=b"newer")]) == 1
        moved = replace(second, blind_index=first.blind_index, ciphertext=b"for another place")
        assert replace_payloads(tx, 3, [moved]) == 0
        found = fetch_payloads(tx, "k12", [first.token, second.token])
    assert {token: (p.data_version, bytes(p.ciphertext)) for token, p in found.items()} == {
        first.token: (3, b"newer"),
        second.token: (1, b"sealed"),
    }


def test_a_remote_database_without_verified_tls_is_refused() -> None:
    for url in (
        "postgresql://vault@db.example.org/vault",
        "postgresql://vault@db.example.org/vault?sslmode=require",
        "postgresql://vault@/vault?host=db.example.org",
        "postgresql://vault@/vault?host=db.example.org:5432",
        "postgresql://vault@/vault?host=127.0.0.1:5432&host=db.example.org:5432",
        "postgresql://vault@/vault?host=localhost,db.example.org&port=5432,5432",
        "postgresql://vault@localhost/vault?host=db.example.org",
        "postgresql://vault@localhost/vault?hostaddr=192.0.2.1",
        "postgresql://vault@localhost/vault?service=elsewhere",
        "postgresql://vault@db.example.org/vault?sslmode=verify-full&sslmode=disable",
    ):
        with pytest.raises(StoreError, match="verify-full"):
            open_store(sa.make_url(url))
    for url in (
        "postgresql://vault@db.example.org/vault?sslmode=verify-full",
        "postgresql://vault@/vault?host=db1.example.org:5432&host=db2.example.org:5432&sslmode=verify-full",
        "postgresql://vault@/vault?host=127.0.0.1:5432&host=localhost:5433&host=/run/postgresql",
        "postgresql://vault@/vault?host=::1",
    ):
        open_store(sa.make_url(url)).close()


def test_libpqs_variables_lead_to_no_remote_database_without_verified_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in (
        ("PGHOST", "postgresql://vault@/vault"),
        ("PGHOSTADDR", "postgresql://vault@localhost/vault"),
        ("PGSERVICE", "postgresql://vault@localhost/vault"),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, "192.0.2.1")
            with pytest.raises(StoreError, match="verify-full"):
                open_store(sa.make_url(url))


def test_other_databases_and_databases_in_memory_are_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://x@localhost/y"):
        with pytest.raises(StoreError):
            open_store(sa.make_url(url))


def test_a_transaction_with_megabytes_of_values_commits(store: Store) -> None:
    """libpq's pipeline never ends once it has more to send than the sockets hold: such a batch travels without it."""
    events = [EventRow(f"large-{number:05}", "x" * 2_000, bytes(32)) for number in range(2_500)]
    indexes = [number.to_bytes(32) for number in range(20_000)]
    ahead = [look_up("k12", [1], indexes)] if store.postgresql else []
    with store.transaction(ahead=ahead) as tx:
        append(tx, events, [])
    with store.reading() as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM event WHERE id LIKE 'large-%'")).scalar_one()
    assert count == len(events)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("data", f"{RECORD} VALUES ('T', 'scope', 1, CAST('i' AS {{bytes}}), 2, CAST('c' AS {{bytes}}), '')"),
        ("index", f"{RECORD} VALUES ('T', 'scope', 2, CAST('i' AS {{bytes}}), 1, CAST('c' AS {{bytes}}), '')"),
        ("index", "INSERT INTO linkage_id VALUES ('scope', 2, CAST('i' AS {bytes}), 'linked')"),
        ("index", f"{LIST} VALUES ('event', 'scope', 2, CAST('c' AS {{bytes}}))"),
    ],
)
def test_a_key_version_is_in_use_while_any_kind_of_row_is_under_it(store: Store, kind: str, row: str) -> None:
    """A version that nothing uses is retired and destroyed: what was forgotten here would never open again."""
    with store.transaction() as tx:
        append(tx, [EventRow("event", "{}", bytes(32))], [])
    with store.engine.begin() as connection:
        assert not rows_using(connection, "scope", kind, 2)
        connection.exec_driver_sql(row.format(bytes="bytea" if store.postgresql else "BLOB"))
        assert rows_using(connection, "scope", kind, 2)
        for scope, other, version in (("scope", kind, 3), ("another", kind, 2)):
            assert not rows_using(connection, scope, other, version)
        assert not rows_using(connection, "scope", "index" if kind == "data" else "data", 2)
