"""Who may do what in the database: the three roles of PostgreSQL, and triggers that refuse even the owner."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from tests.conftest import new_database_url
from vault_service.storage.engine import open_store
from vault_service.storage.schema import migrate
from vault_service.storage.tables import APPEND_ONLY, metadata

ADMIN, SERVER, AUDITOR = "ssn_vault_admin", "ssn_vault_server", "ssn_vault_auditor"
ROLES = (ADMIN, SERVER, AUDITOR)
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
EVERYTHING = frozenset({*metadata.tables, "key_usage", "alembic_version"})

STATUS = frozenset(
    {"control", "control_log", "admin_order", "order_signature", "order_text", "order_outcome", "alembic_version"}
)
SEALED = frozenset({"log_checkpoint", "log_lease", "log_sink"})
LOG = SEALED | {"log_pending", "log_leaf", "log_node"}
ALLOWED: dict[str, dict[str, frozenset[str]]] = {
    ADMIN: {
        "SELECT": STATUS | {"key_usage", "replica", "job", "encryption_count", "damaged_row"} | SEALED,
        "INSERT": frozenset({"admin_order", "order_signature", "order_text"}),
    },
    AUDITOR: {"SELECT": STATUS | {"event", "event_text", "disclosure", "linkage_record", "damaged_row"} | LOG},
    SERVER: {
        "SELECT": EVERYTHING,
        "INSERT": EVERYTHING
        - {"control", "admin_order", "order_signature", "order_text", "key_usage", "alembic_version", "log_lease"},
        "UPDATE": frozenset(
            {
                "control",
                "token_record",
                "budget_account",
                "budget_spend",
                "approval_spend",
                "request_seen",
                "replica",
                "job",
                "encryption_count",
                "damaged_row",
                "log_lease",
                "log_sink",
            }
        ),
        "DELETE": frozenset({"budget_spend", "request_seen", "replica", "linkage_id", "log_pending", "damaged_row"}),
    },
}

# One row in every append-only table.
ROWS = (
    "INSERT INTO admin_order VALUES ('one', '{}')",
    "INSERT INTO order_signature VALUES ('one', 'key-admin-a', 1, 'raw')",
    "INSERT INTO order_text VALUES ('one', 'reason', 'salt', 'text')",
    "INSERT INTO control_log VALUES (1, 'one', 0)",
    "INSERT INTO order_outcome VALUES ('one', 'done', '', 0)",
    "INSERT INTO event VALUES ('one', '{}', 'raw')",
    "INSERT INTO event_text VALUES ('one', 'justification', 'salt', 'text')",
    "INSERT INTO disclosure VALUES ('one', 0, 'k12', 'invalid', 'missing', '')",
    "INSERT INTO linkage_record VALUES ('one', 'college-outcomes', 1, 'raw', NULL)",
    "INSERT INTO log_leaf VALUES (0, 'one', 'raw')",
    "INSERT INTO log_node VALUES (1, 0, 'raw')",
    "INSERT INTO log_checkpoint VALUES (1, 0, 0, 'note')",
)


def migrated(url: str) -> Iterator[sa.Engine]:
    store = open_store(sa.make_url(url))
    migrate(store)
    with store.engine.begin() as connection:
        for row in ROWS:
            connection.exec_driver_sql(row)
    yield store.engine
    store.close()


@pytest.fixture(scope="module")
def postgresql(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """A PostgreSQL database of this release, as its owner."""
    url = new_database_url("postgresql", request)
    assert url is not None
    yield from migrated(url)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    yield from migrated(f"sqlite:///{tmp_path_factory.mktemp('roles') / 'ssn-vault.db'}")


@pytest.fixture
def owned(database: str, request: pytest.FixtureRequest) -> sa.Engine:
    """Either database, as its owner."""
    engine: sa.Engine = request.getfixturevalue(database)
    return engine


@contextmanager
def acting_as(engine: sa.Engine, role: str) -> Iterator[sa.Connection]:
    """A connection with the rights of `role` alone, rolled back at the end."""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {role}")
        try:
            yield connection
        finally:
            connection.rollback()
            connection.exec_driver_sql("RESET ROLE")
            connection.rollback()


def denied(engine: sa.Engine, role: str, statement: str) -> bool:
    """Whether `role` is told that it has no right to this."""
    with acting_as(engine, role) as connection:
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            return getattr(error.orig, "sqlstate", None) == "42501"
    return False


@pytest.mark.parametrize("role", sorted(ALLOWED))
def test_a_role_has_exactly_its_rights(postgresql: sa.Engine, role: str) -> None:
    with postgresql.connect() as connection:
        found = {
            verb: frozenset(
                connection.execute(
                    sa.text(
                        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                        " AND relkind IN ('r', 'v') AND has_table_privilege(:role, oid, :verb)"
                    ),
                    {"role": role, "verb": verb},
                ).scalars()
            )
            for verb in VERBS
        }
    assert found == {verb: ALLOWED[role].get(verb, frozenset()) for verb in VERBS}


# What a role may do beyond tables. CONNECT and TEMPORARY are PUBLIC's: whoever has a login is told of in pg_hba.conf,
# and a temporary table hides none of ours (test_search_path).
BEYOND_TABLES = {
    ("schema public", "USAGE"),
    ("database", "CONNECT"),
    ("database", "TEMPORARY"),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_nothing_beyond_its_tables(postgresql: sa.Engine, role: str) -> None:
    with postgresql.connect() as connection:
        found = connection.execute(
            sa.text(
                "SELECT 'schema ' || nspname, verb FROM pg_namespace, unnest(ARRAY['USAGE', 'CREATE']) AS verb"
                " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
                " AND has_schema_privilege(:role, oid, verb)"
                " UNION ALL SELECT 'database', verb FROM unnest(ARRAY['CONNECT', 'TEMPORARY', 'CREATE']) AS verb"
                " WHERE has_database_privilege(:role, current_database(), verb)"
                " UNION ALL SELECT 'function ' || proname, 'EXECUTE' FROM pg_proc"
                " WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(:role, oid, 'EXECUTE')"
                " UNION ALL SELECT 'sequence ' || relname, 'any' FROM pg_class WHERE relkind = 'S'"
                " UNION ALL SELECT 'member of ' || roleid::regrole, 'SET' FROM pg_auth_members"
                " WHERE member = CAST(:role AS regrole)"
                " UNION ALL SELECT 'parameter ' || parname, 'any' FROM pg_parameter_acl"
                " UNION ALL SELECT 'default rights', defaclobjtype::text FROM pg_default_acl"
                " UNION ALL SELECT 'extension ' || extname, 'any' FROM pg_extension WHERE extname <> 'plpgsql'"
            ),
            {"role": role},
        )
        assert {tuple(row) for row in found} == BEYOND_TABLES


@pytest.mark.parametrize("role", ROLES)
def test_no_list_of_rights_names_a_role_but_those_of_its_tables(postgresql: sa.Engine, role: str) -> None:
    """Whatever kind of object: PostgreSQL notes each list that names a role, and what the role owns."""
    with postgresql.connect() as connection:
        named = connection.execute(
            sa.text(
                "SELECT classid::regclass::text, deptype::text, CASE classid WHEN 'pg_class'::regclass"
                " THEN (SELECT relname FROM pg_class WHERE oid = objid) ELSE objid::text END"
                " FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = CAST(:role AS regrole)"
                " AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"
            ),
            {"role": role},
        )
        found = {tuple(row) for row in named}
    columns = {"linkage_id", "linkage_record"} if role == SERVER else set()
    tables = frozenset().union(*ALLOWED[role].values()) | columns
    assert found == {("pg_class", "a", table) for table in tables}


def test_no_role_has_other_rights_to_single_columns_or_owns_anything(postgresql: sa.Engine) -> None:
    with postgresql.connect() as connection:
        columns = {
            tuple(row)
            for row in connection.exec_driver_sql(
                "SELECT attrelid::regclass::text, attname, (aclexplode(attacl)).grantee::regrole::text,"
                " (aclexplode(attacl)).privilege_type FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid IN"
                " (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
            )
        }
        owned = connection.execute(
            sa.text("SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = ANY(:roles)"),
            {"roles": list(ROLES)},
        ).scalar_one()
        grave = connection.execute(
            sa.text(
                "SELECT count(*) FROM pg_roles WHERE rolname = ANY(:roles)"
                " AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication OR rolcanlogin)"
            ),
            {"roles": list(ROLES)},
        ).scalar_one()
    # A rotation moves linkage ids and lists to newer keys; lists that do not open are set aside. What they are stays.
    assert columns == {
        (table, column, SERVER, "UPDATE")
        for table, column in (
            ("linkage_id", "key_version"),
            ("linkage_id", "blind_index"),
            ("linkage_record", "key_version"),
            ("linkage_record", "ciphertext"),
            ("linkage_record", "set_aside"),
        )
    }
    assert (owned, grave) == (0, 0)


def test_an_admin_asks_and_reads_status_and_no_more(postgresql: sa.Engine) -> None:
    with acting_as(postgresql, ADMIN) as connection:
        connection.exec_driver_sql("INSERT INTO admin_order VALUES ('two', '{}')")
        connection.exec_driver_sql("INSERT INTO order_signature VALUES ('two', 'key-admin-a', 1, 'raw')")
        connection.exec_driver_sql("SELECT epoch FROM control")
        connection.exec_driver_sql("SELECT scope, kind, version, records FROM key_usage")
    for statement in (
        "SELECT token FROM token_record",
        "SELECT blind_index FROM token_record",
        "SELECT body FROM event",
        "SELECT token FROM disclosure",
        "SELECT linkage_id FROM linkage_id",
        "SELECT ciphertext FROM linkage_record",
        "SELECT digest FROM request_seen",
        "UPDATE control SET epoch = 99",
        "INSERT INTO control_log VALUES (99, 'one', 0)",
        "INSERT INTO order_outcome VALUES ('two', 'done', '', 0)",
        "INSERT INTO approval_spend VALUES ('one', 0)",
        "UPDATE admin_order SET body = '{}'",
        "DELETE FROM order_signature",
        "CREATE TABLE mine (id integer)",
        "ALTER TABLE event DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
    ):
        assert denied(postgresql, ADMIN, statement), statement


@pytest.mark.parametrize("role", [SERVER, AUDITOR, ADMIN])
@pytest.mark.parametrize("table", APPEND_ONLY)
def test_no_role_changes_what_is_append_only(postgresql: sa.Engine, role: str, table: str) -> None:
    column = metadata.tables[table].columns.keys()[0]
    for statement in (
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE {table} DISABLE TRIGGER ALL",
    ):
        assert denied(postgresql, role, statement), statement


def test_the_server_signs_nothing_and_deletes_no_record(postgresql: sa.Engine) -> None:
    for statement in (
        "INSERT INTO admin_order VALUES ('three', '{}')",
        "INSERT INTO order_signature VALUES ('one', 'key-admin-b', 1, 'raw')",
        "DELETE FROM token_record",
        "UPDATE linkage_id SET linkage_id = 'x'",
        "SET session_replication_role = replica",
    ):
        assert denied(postgresql, SERVER, statement), statement


def test_an_auditor_only_reads_the_record(postgresql: sa.Engine) -> None:
    with acting_as(postgresql, AUDITOR) as connection:
        assert connection.exec_driver_sql("SELECT body FROM event").scalar_one() == "{}"
    for statement in (
        "SELECT ciphertext FROM token_record",
        "SELECT linkage_id FROM linkage_id",
        "INSERT INTO event VALUES ('two', '{}', 'raw')",
        "INSERT INTO admin_order VALUES ('three', '{}')",
    ):
        assert denied(postgresql, AUDITOR, statement), statement


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_the_owner_cannot_change_what_is_append_only_without_dropping_its_triggers(
    owned: sa.Engine, table: str
) -> None:
    column = metadata.tables[table].columns.keys()[-1]
    statements = [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]
    if owned.dialect.name == "postgresql":
        statements.append(f"TRUNCATE {table} CASCADE")
    else:
        statements.append(f"UPDATE OR REPLACE {table} SET {column} = {column}")
    statements.append(
        f"INSERT INTO {table} SELECT * FROM {table} WHERE true"
        f" ON CONFLICT ({keys(table)}) DO UPDATE SET {column} = excluded.{column}"
    )
    for statement in statements:
        assert refuses(owned, statement), statement


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_sqlite_does_not_replace_a_row_of_what_is_append_only(sqlite: sa.Engine, table: str) -> None:
    assert refuses(sqlite, f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
    values = ", ".join(f"NULLIF('new ' || {column.name}, '')" for column in metadata.tables[table].columns)
    columns = ", ".join(metadata.tables[table].columns.keys())
    assert refuses(sqlite, f"REPLACE INTO {table} (rowid, {columns}) SELECT rowid, {values} FROM {table}")


def keys(table: str) -> str:
    return ", ".join(column.name for column in metadata.tables[table].primary_key)


def refuses(engine: sa.Engine, statement: str) -> bool:
    """Whether the statement fails because the table takes inserts only; nothing of it stays."""
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            return "takes inserts only" in str(error)
        finally:
            connection.rollback()
    return False
