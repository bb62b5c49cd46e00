"""A database of an earlier release, with rows in it, is brought to this one's and works."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from tests.conftest import new_database_url
from vault_service.storage import budgets, log, orders
from vault_service.storage.engine import Store, open_store
from vault_service.storage.events import EventRow, append
from vault_service.storage.records import NewRecord, fetch_payloads, find_tokens, insert_records
from vault_service.storage.schema import _config, check_schema, migrate
from vault_service.tokens import Token

EARLIER = "0003"
# One row in every table of that release.
ROWS = (
    "INSERT INTO admin_order VALUES ('order-1', '{{}}')",
    "INSERT INTO order_signature VALUES ('order-1', 'key-admin-a', 1, CAST('raw' AS {bytes}))",
    "INSERT INTO control_log VALUES (1, 'order-1', 5)",
    "INSERT INTO order_outcome VALUES ('order-1', 'done', '', 5)",
    "UPDATE control SET epoch = 1",
    "INSERT INTO token_record"
    " VALUES ('k12_ONE', 'k12', 1, CAST('raw' AS {bytes}), 1, CAST('sealed' AS {bytes}), '2033-01-01')",
    "INSERT INTO event VALUES ('event-1', '{{}}', CAST('raw' AS {bytes}))",
    "INSERT INTO disclosure VALUES ('event-1', 0, 'k12', 'k12_ONE', 'found', 'salt')",
    "INSERT INTO budget_account VALUES ('client:sis')",
    "INSERT INTO budget_spend VALUES ('client:sis', 1, 7)",
    "INSERT INTO approval_spend VALUES ('order-1', 3)",
    "INSERT INTO request_seen VALUES ('sis', 'Tokenize', 'one', 1, CAST('raw' AS {bytes}), 5)",
    "INSERT INTO linkage_id VALUES ('college-outcomes', 1, CAST('raw' AS {bytes}), 'linked')",
    "INSERT INTO linkage_record VALUES ('event-1', 'college-outcomes', 1, CAST('raw' AS {bytes}))",
    "INSERT INTO replica VALUES ('replica', 1, 5)",
    "INSERT INTO job VALUES ('order-1', 'k12', 1, 1, 0, 'records', 1, CAST('raw' AS {bytes}), '', 0, 5, 6)",
    "INSERT INTO encryption_count VALUES ('k12', 1, 9)",
    "INSERT INTO log_leaf VALUES (0, 'event-1', CAST('raw' AS {bytes}))",
    "INSERT INTO log_node VALUES (1, 0, CAST('raw' AS {bytes}))",
    "INSERT INTO log_checkpoint VALUES (1, 1, 5, 'note')",
    "INSERT INTO log_sink VALUES ('file', 1, 5)",
    "INSERT INTO log_pending VALUES ('event-2')",
)
_INDEXED_BY_LANGUAGE = (
    "SELECT ind.indexrelid::regclass::text, att.attname FROM pg_index AS ind"
    " JOIN pg_attribute AS att ON att.attrelid = ind.indexrelid AND att.attcollation <> 0"
    " WHERE ind.indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
    " AND NOT (SELECT bool_and(one = 'pg_catalog.\"C\"'::regcollation OR one = 0) FROM unnest(ind.indcollation) AS one)"
)
_COLUMNS_BY_LANGUAGE = (
    "SELECT att.attrelid::regclass::text, att.attname FROM pg_index AS ind"
    " JOIN pg_attribute AS att ON att.attrelid = ind.indrelid AND att.attnum = ANY(ind.indkey)"
    " WHERE att.attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
    " AND att.attcollation NOT IN (0, 'pg_catalog.\"C\"'::regcollation)"
)
_GRANTS = (
    "SELECT rel.relname, pg_get_userbyid(acl.grantee), acl.privilege_type FROM pg_class AS rel,"
    " aclexplode(rel.relacl) AS acl WHERE rel.relnamespace = 'public'::regnamespace AND acl.grantee <> rel.relowner"
)


def migrate_to(store: Store, revision: str) -> None:
    """What an earlier release's `database migrate` did."""
    with store.engine.begin() as connection:
        if store.postgresql:
            connection.exec_driver_sql("SET LOCAL search_path = public, pg_temp")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def columns_of(store: Store) -> dict[str, list[str]]:
    """The tables with rows of the earlier release, and what is counted of them, with their columns of that time."""
    tables = [*(statement.split()[2] for statement in ROWS if statement.startswith("INSERT")), "control", "key_usage"]
    with store.reading() as connection:
        return {
            table: list(connection.exec_driver_sql(f"SELECT * FROM {table} WHERE false").keys()) for table in tables
        }


def rows_of(store: Store, columns: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
    with store.reading() as connection:
        return {
            table: sorted(map(tuple, connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM {table}")), key=repr)
            for table, names in columns.items()
        }


def test_a_database_of_an_earlier_release_keeps_its_rows_and_works(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = new_database_url(database, request) or f"sqlite:///{tmp_path / 'earlier.db'}"
    store = open_store(sa.make_url(url))
    migrate_to(store, EARLIER)
    with store.engine.begin() as connection:
        for row in ROWS:
            connection.exec_driver_sql(row.format(bytes="bytea" if store.postgresql else "BLOB"))
        grants = set(connection.exec_driver_sql(_GRANTS)) if store.postgresql else set()
    columns = columns_of(store)
    before = rows_of(store, columns)
    assert all(before.values())

    migrate(store)

    check_schema(store)
    assert rows_of(store, columns) == before
    with store.transaction() as tx:
        assert tx.epoch == 1
        if store.postgresql:
            assert set(tx.connection.exec_driver_sql(_GRANTS)) >= grants
        assert find_tokens(tx, "k12", [1], [b"raw"]) == {b"raw": "k12_ONE"}
        assert bytes(fetch_payloads(tx, "k12", [Token("k12_ONE")])[Token("k12_ONE")].ciphertext) == b"sealed"
        another = [NewRecord(b"another", Token("k12_TWO"), b"sealed")]
        versions = {"index_version": 1, "data_version": 1, "destroy_by": "2033-01-01"}
        assert insert_records(tx, "k12", records=another, **versions) == {b"another"}  # type: ignore[arg-type]  # of both kinds
        budgets.spend(tx, {"client:sis": 1})
        append(tx, [EventRow("event-3", "{}", b"raw")], [])
        orders.insert_order(tx.connection, "order-2", "{}")
        assert orders.undecided(tx.connection) == ["order-2"]
        assert log.position_of(tx.connection, "event-1") == 0
    for statement in ("UPDATE event SET body = ''", "DELETE FROM admin_order"):
        with pytest.raises(sa.exc.DBAPIError, match="takes inserts only"), store.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    store.close()


def test_no_index_over_text_follows_the_rules_of_a_language(request: pytest.FixtureRequest) -> None:
    """An upgrade of the host's C library changes such rules, and with them the order that an index was built in."""
    store = open_store(sa.make_url(new_database_url("postgresql", request) or ""))
    migrate_to(store, EARLIER)
    for language in (True, False):
        with store.reading() as connection:
            for query in (_INDEXED_BY_LANGUAGE, _COLUMNS_BY_LANGUAGE):
                assert bool(connection.exec_driver_sql(query).all()) is language, query
        migrate(store)
    store.close()
