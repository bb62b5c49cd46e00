"""What others put into the database's search path has no say in the server's statements (PostgreSQL)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
import sqlalchemy as sa

from ssn_vault_client import LinkageItem, Ssn, TokenizeItem, Traits
from tests.conftest import new_database_url
from tests.support.commands import succeeds
from tests.support.failover import until
from tests.support.postgres import PostgresServer, server_url
from tests.support.servers import serve, write_config
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.errors import StoreError
from vault_service.orders.order import Action
from vault_service.storage.engine import Store, open_store
from vault_service.storage.rights import check_rights
from vault_service.storage.schema import migrate

TYPES = (
    *("text", "varchar", "bpchar", "name", "smallint", "integer", "bigint", "numeric", "double precision", "bytea"),
    *("boolean", "text[]", "integer[]", "bigint[]", "bytea[]", "timestamptz", "oid"),
)
OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "||", "+", "-", "*", "/", "~~", "!~~")
FUNCTIONS = (
    *("count", "sum", "max", "min", "unnest", "length", "lower", "substr", "date_part", "clock_timestamp", "now"),
    *("pg_advisory_xact_lock", "pg_advisory_xact_lock_shared", "int8", "text"),
)


@pytest.fixture
def store(postgres: PostgresServer) -> Iterator[tuple[Store, Store]]:
    """A migrated database as its owner, and as the server."""
    url = postgres.new_database()
    owner = open_store(sa.make_url(url))
    migrate(owner)
    server = open_store(sa.make_url(server_url(url)))
    yield owner, server
    owner.close()
    server.close()


def better_fits() -> Iterator[str]:
    """Operators and functions for all types that PostgreSQL's own only fit after a conversion; each raises."""
    body = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not of PostgreSQL'; END $$"
    for number, (left, right) in enumerate(product(TYPES, TYPES)):
        yield f"CREATE FUNCTION public.better_{number}({left}, {right}) RETURNS boolean {body}"
        for operator in OPERATORS:
            yield (
                f"DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_operator WHERE oprname = '{operator}'"
                f" AND oprleft = '{left}'::regtype AND oprright = '{right}'::regtype) THEN"
                f" CREATE OPERATOR public.{operator}"
                f" (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.better_{number}); END IF; END $do$"
            )
    for name, kind in product(FUNCTIONS, TYPES):
        yield (
            f"DO $do$ BEGIN IF pg_catalog.to_regprocedure('pg_catalog.{name}({kind})') IS NULL THEN"
            f" CREATE FUNCTION public.{name}({kind}) RETURNS bigint {body.replace('$$', '$b$')}; END IF; END $do$"
        )


def test_operators_and_functions_that_fit_better_are_never_taken(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every statement of calls, orders, jobs, log and commands names or types what it uses as PostgreSQL has it."""
    with Stack(tmp_path / "home", database_url=new_database_url("postgresql", request)) as stack:
        with stack.superuser() as engine, engine.begin() as connection:
            for statement in better_fits():
                connection.exec_driver_sql(statement)
        exercise(stack)
        said = stack.log.read_text()
        assert "RaiseException" not in said
        assert "Undefined" not in said
        status, said = serve(stack.home.config_file)
        assert status == 5
        assert "no migration made" in said


def exercise(stack: Stack) -> None:
    """A little of everything that the server and its commands ask the database."""
    items = [TokenizeItem(Ssn(f"936-09-{n:04}"), traits=Traits(given_name="Ada")) for n in range(1, 4)]
    with stack.client("sis") as sis, stack.client("registrar") as registrar, stack.client("k12-research") as research:
        tokens = [result.token or "" for result in sis.tokenize("k12", items, request_id="first")]
        registrar.tokenize("highered", items[:2])
        answer = sis.detokenize(
            "k12", tokens, purpose="transcript-verification", justification=JUSTIFICATION, request_id="second"
        )
        assert all(result.ssn for result in answer.results)
        again = [LinkageItem(token) for token in tokens]
        for request_id in ("third", "third", "fourth"):
            research.linkage_match("college-outcomes", again, request_id=request_id)
    for kind in ("data", "index", "wrapping"):
        succeeds(stack, "keys", "rotate", "--kind", kind, "--all", "--yes")
    stack.order(Action.REENCRYPT, {"scope": "k12", "rows_per_second": 10_000}, "key-admin-a")
    until(lambda: not stack.query("SELECT 1 FROM job WHERE finished_at IS NULL"))
    succeeds(stack, "incident", "freeze", "--client", "registrar", "--reason", "a test", "--yes")
    for command in (
        ["status"],
        ["keys", "status"],
        ["policy", "show"],
        ["approvals", "list"],
        ["audit", "tail"],
        ["audit", "verify"],
        ["audit", "search", "--client", "sis"],
        ["audit", "report", "--month", f"{datetime.now(UTC):%Y-%m}"],
        ["audit", "disclosures", "--token", tokens[0]],
        ["incident", "report", "--client", "sis"],
    ):
        succeeds(stack, *command)
    assert stack.server.is_ready()


def test_whatever_database_and_role_say_a_sessions_search_path_is_ours(store: tuple[Store, Store]) -> None:
    owner, server = store
    with owner.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql(f"ALTER DATABASE {owner.engine.url.database} SET search_path = other, public")
        connection.exec_driver_sql(f"ALTER ROLE {server.engine.url.username} SET search_path = other, public")
    with server.reading() as connection:
        assert connection.exec_driver_sql("SHOW search_path").scalar_one() == "pg_catalog,public,pg_temp"


STRANGERS = {
    "function public.times(numeric,integer)": "CREATE FUNCTION public.times(numeric, integer) RETURNS numeric"
    " LANGUAGE sql AS 'SELECT 1::numeric'",
    "operator public.*(numeric,numeric)": "CREATE OPERATOR public.* (LEFTARG = numeric, RIGHTARG = numeric,"
    " FUNCTION = pg_catalog.numeric_mul)",
    "trigger ack on public.log_sink": "CREATE TRIGGER ack BEFORE INSERT ON public.log_sink FOR EACH ROW"
    " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
    "rule quiet on public.event": "CREATE RULE quiet AS ON DELETE TO public.event DO INSTEAD NOTHING",
    "row security policy few on public.event": "CREATE POLICY few ON public.event USING (false)",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_server_does_not_start_on_what_no_migration_made(store: tuple[Store, Store], name: str) -> None:
    owner, server = store
    check_rights(server)
    with owner.engine.begin() as connection:
        connection.exec_driver_sql(STRANGERS[name])
    with pytest.raises(StoreError) as caught:
        check_rights(server)
    assert name in str(caught.value)


def test_an_extension_may_live_in_the_schema(store: tuple[Store, Store]) -> None:
    owner, server = store
    with owner.engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION citext SCHEMA public")  # functions, operators and casts
    check_rights(server)


@pytest.mark.parametrize("who", ["PUBLIC", "ssn_vault_admin", "ssn_vault_server"])
def test_a_server_does_not_start_where_others_may_create_in_its_schema(
    store: tuple[Store, Store], tmp_path: Path, who: str
) -> None:
    owner, server = store
    with owner.engine.begin() as connection:
        connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {who}")
    with pytest.raises(StoreError, match=f"REVOKE CREATE ON SCHEMA public FROM {who}"):
        check_rights(server)
    status, said = serve(write_config(tmp_path, server.engine.url.render_as_string(hide_password=False)))
    assert status == 5
    assert f"FROM {who}" in said


def test_a_server_does_not_start_as_the_owner(store: tuple[Store, Store]) -> None:
    with pytest.raises(StoreError, match="a member of ssn_vault_server alone"):
        check_rights(store[0])


def test_the_migration_takes_from_everybody_what_older_releases_of_postgresql_gave(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    owner = open_store(sa.make_url(url))
    with owner.engine.begin() as connection:
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO PUBLIC")  # the default before PostgreSQL 15
    migrate(owner)
    owner.close()
    server = open_store(sa.make_url(server_url(url)))
    check_rights(server)
    server.close()


def test_a_temporary_table_hides_none_of_ours(store: tuple[Store, Store]) -> None:
    _, server = store
    with server.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE control (id integer, epoch bigint)")
        found = connection.exec_driver_sql("SELECT 'control'::regclass = 'public.control'::regclass").scalar_one()
        assert found is True
