"""PostgreSQL fails over to a standby, or ends connections: calls and the work behind them return by themselves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ssn_vault_client import Ssn, TokenizeItem
from tests.conftest import new_database_url
from tests.support.failover import Pair, pair, until
from tests.support.inside import runner_inside
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.errors import StoreError
from vault_service.identity.caller import Caller
from vault_service.operations.call import TokenizeCall
from vault_service.orders.order import Action
from vault_service.storage.engine import NothingCommittedError, Store, Transaction, open_store
from vault_service.storage.schema import migrate

WRITE = "INSERT INTO replica (id, epoch, seen_at) VALUES ('writes', 0, 0)"


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    """Two servers before their failover."""
    with pair() as both:
        both.first.execute("CREATE DATABASE vault")
        both.follow()
        yield both


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    opened = open_store(sa.make_url(new_database_url("postgresql", request) or ""))
    migrate(opened)
    yield opened
    opened.close()


def backend(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def two_connections(store: Store) -> set[int]:
    """The server's processes behind two connections of the pool."""
    with store.reading() as first, store.reading() as second:
        return {backend(first), backend(second)}


def through_sqlalchemy(tx: Transaction) -> None:
    tx.connection.exec_driver_sql(WRITE)


def through_the_driver(tx: Transaction) -> None:
    tx.rows(WRITE, {})


def with_the_commit(tx: Transaction) -> None:
    tx.with_commit(WRITE, {})


def read_only(tx: Transaction) -> None:
    tx.connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def terminated(tx: Transaction) -> None:
    engine = sa.create_engine(tx.connection.engine.url, poolclass=sa.pool.NullPool)
    with engine.connect() as other:
        end = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
        assert other.execute(end, {"pid": backend(tx.connection)}).scalar_one()


@pytest.mark.parametrize(
    ("spoil", "write"),
    [
        (read_only, through_sqlalchemy),
        (read_only, through_the_driver),
        (read_only, with_the_commit),
        (terminated, through_sqlalchemy),
        (terminated, through_the_driver),
    ],
)
def test_a_connection_that_is_no_good_is_given_up_with_all_of_its_age_and_nothing_is_committed(
    store: Store, spoil: Callable[[Transaction], None], write: Callable[[Transaction], None]
) -> None:
    before = two_connections(store)

    def attempt() -> None:
        with store.transaction() as tx:
            spoil(tx)
            write(tx)

    with pytest.raises(NothingCommittedError):
        attempt()
    assert not before & two_connections(store)
    with store.transaction() as tx:
        assert tx.connection.exec_driver_sql("SELECT count(*) FROM replica").scalar_one() == 0
        write(tx)


def test_a_connection_that_ended_while_nobody_used_it_fails_nothing(store: Store) -> None:
    before = two_connections(store)
    engine = sa.create_engine(store.engine.url, poolclass=sa.pool.NullPool)
    with engine.connect() as other:
        for pid in before:
            assert other.execute(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid}).scalar_one()
    with store.reading() as connection:
        assert backend(connection) not in before
    with store.transaction() as tx:
        through_the_driver(tx)


def test_a_connection_lost_in_the_commit_is_not_said_to_have_committed_nothing(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON replica DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION ends()"
        )
    with pytest.raises(sa.exc.DBAPIError) as caught, store.transaction() as tx:
        with_the_commit(tx)
    assert caught.value.connection_invalidated


def test_a_standby_takes_no_server_but_answers_who_only_reads(servers: Pair) -> None:
    url = sa.URL.create("postgresql", "postgres", None, "127.0.0.1", servers.second.port, "vault")
    writer, reader = open_store(url), open_store(url, writes=False)
    try:
        said = rf"127\.0\.0\.1:{servers.second.port} is a standby.*target_session_attrs"
        with pytest.raises(StoreError, match=said), writer.reading():
            pass
        with reader.snapshot() as connection:
            assert connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one() is True
    finally:
        writer.close()
        reader.close()


def test_after_a_failover_no_call_is_refused_and_all_work_goes_on(servers: Pair, tmp_path: Path) -> None:
    """The old server's connections do not break: it only takes no writes any more."""
    shipped = tmp_path / "shipped"
    settings = {"SSN_VAULT_AUDIT__SHIP": f"file:{shipped}"}
    with (
        Stack(tmp_path / "home", database_url=servers.url("vault"), settings=settings) as stack,
        runner_inside(stack) as runner,
        stack.client("sis") as client,
    ):
        runner.execute([TokenizeCall(caller=Caller("nobody"), domain="k12", numbers=["936-08-0001"])])
        runner.tidy()
        token = client.tokenize("k12", [TokenizeItem(Ssn("936-08-0001"))])[0].token
        servers.fail_over()
        for number in range(1, 41):
            (result,) = client.tokenize("k12", [TokenizeItem(Ssn(f"936-08-{number:04}"))])
            assert result.token
            (answer,) = client.detokenize(
                "k12", [result.token], purpose="transcript-verification", justification=JUSTIFICATION
            ).results
            assert answer.ssn is not None
            assert number > 1 or result.token == token
        ((port,),) = stack.query("SELECT inet_server_port()")
        assert port == servers.second.port

        # Orders and jobs: one to re-encrypt is decided, and its job is done.
        stack.order(Action.REENCRYPT, {"scope": "k12", "rows_per_second": 10_000}, "key-admin-a")
        until(lambda: stack.query("SELECT count(*) FROM job WHERE finished_at IS NOT NULL") == [(1,)])
        # The log: it is sealed, and shipped, up to the job's end.
        ((done,),) = stack.query('SELECT id FROM event WHERE body LIKE \'%"kind":"job"%\'')
        until(lambda: shipped.exists() and done in shipped.read_text())
        # The timer's work: its first round may meet the old connection, and keeps what it has for the next.
        before = len(stack.query('SELECT 1 FROM event WHERE body LIKE \'%"kind":"refusals"%\''))
        for _ in range(61):  # above the meter's bound of a minute
            runner.execute([TokenizeCall(caller=Caller("nobody"), domain="k12", numbers=["936-08-0001"])])
        runner.tidy()
        runner.tidy()
        after = stack.query('SELECT body FROM event WHERE body LIKE \'%"kind":"refusals"%\'')
        assert len(after) == before + 1
        assert json.loads(after[-1][0])["count"] >= 1
        assert stack.server.is_ready()
