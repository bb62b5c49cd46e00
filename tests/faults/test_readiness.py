"""/readyz, gRPC health and `status` say what works, in both directions and with reasons, even if the database hangs."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
import sqlalchemy as sa

from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.conftest import new_database_url
from tests.integration.test_edge import ONE, health_of
from tests.support.commands import DONE, ssn_vault
from tests.support.path import path_to_postgres
from tests.support.servers import another_server, http, until
from tests.support.stack import ServerProcess, Stack
from tests.support.wire import SECONDS, channel_of, refused, stub_of
from vault_service.cli.common import Exit
from vault_service.config import load_settings
from vault_service.keys.names import KeyKind, KeyName


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that tests break; the last one for good."""
    with Stack(tmp_path_factory.mktemp("ready"), database_url=new_database_url("postgresql", request)) as stack:
        yield stack


def becomes(stack: Stack, server: ServerProcess, ready: bool, line: str = "") -> None:
    """Wait until both doors say so, and /readyz says why."""
    health = "SERVING" if ready else "NOT_SERVING"
    with channel_of(stack.profile("sis", server)) as channel:
        until(lambda: health_of(channel) == health_of(channel, "") == health)
    until(lambda: http(server, "/readyz")[0] == (200 if ready else 503) and line in http(server, "/readyz")[1])
    assert http(server, "/livez")[0] == 200


def tokenize(stack: Stack, server: ServerProcess, domain: str) -> str:
    client = {"k12": "sis", "highered": "registrar"}[domain]
    request = pb.TokenizeRequest(domain=domain, items=[pb.TokenizeItem(ssn="938-01-0001")])
    with stub_of(stack.profile(client, server)) as stub:
        return stub.Tokenize(request, timeout=SECONDS).results[0].token


def test_a_database_that_hangs_is_noticed_though_the_look_at_it_hangs_too(own: Stack) -> None:
    url = load_settings(own.home.config_file).database.full_url().render_as_string(hide_password=False)
    with path_to_postgres(url) as (path, through), another_server(own, DATABASE__URL=through) as server:
        becomes(own, server, ready=True, line="store: ok")
        path.swallow(later=True)
        becomes(own, server, ready=False, line=" answer")
        path.pass_on()
        becomes(own, server, ready=True)
        assert tokenize(own, server, "k12")


def test_a_database_that_takes_no_writes_is_not_ready(own: Stack) -> None:
    name = sa.make_url(str(own.database_url)).database

    def read_only(change: str) -> None:
        engine = sa.create_engine(str(own.database_url))  # the product's own would not connect any more
        with engine.connect() as connection:
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            connection.commit()
            connection.exec_driver_sql(f"ALTER DATABASE {name} {change}")
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.commit()
        engine.dispose()

    before = len(own.log.read_text().splitlines())
    read_only("SET default_transaction_read_only = on")
    becomes(own, own.server, ready=False, line="read-only")
    with stub_of(own.profile("sis")) as stub:
        for _ in range(50):
            assert refused(lambda: stub.Tokenize(ONE, timeout=SECONDS)).reason == "STORE_UNAVAILABLE"
    time.sleep(5)  # twenty-five looks for orders, five for jobs, as many attempts to seal
    read_only("RESET default_transaction_read_only")
    becomes(own, own.server, ready=True)
    told = Counter[str]()
    for line in own.log.read_text().splitlines()[before:]:
        said = json.loads(line)
        if said.get("level") in ("warning", "error"):
            said.pop("timestamp")
            told[json.dumps(said)] += 1
    assert told
    assert max(told.values()) <= 2, told  # not a line an attempt


def test_the_reasons_stand_in_the_log_once(own: Stack) -> None:
    lines = [json.loads(line) for line in own.log.read_text().splitlines() if '"not serving"' in line]
    reasons = [line["reasons"] for line in lines]
    assert reasons[0]["control"].startswith("no policy is in force")
    assert all(one != other for one, other in pairwise(reasons))


def test_status_says_that_no_server_runs_and_ends_with_unavailable(own: Stack) -> None:
    until(lambda: ssn_vault(own, "status").exit_code == DONE)
    assert " running, last heard of " in ssn_vault(own, "status").output
    assert own.server.stop() == 0
    until(lambda: ssn_vault(own, "status").exit_code == Exit.AWAY)  # those that earlier tests killed fall silent
    assert "no server is running" in ssn_vault(own, "status").output
    assert "no server is running" in json.loads(ssn_vault(own, "status", "--json").output)["works"]["servers"]
    own.server.start()


def test_a_domain_whose_key_is_gone_takes_nothing_from_the_others(own: Stack) -> None:
    name = KeyName("highered", KeyKind.DATA, 1).transit
    root = own.root()
    root.write(f"transit/keys/{name}/config", deletion_allowed=True)
    root.delete(f"transit/keys/{name}")
    root.close()
    with another_server(own) as server:  # the first one has the key in memory still
        becomes(own, server, ready=True, line=f"domain highered: keys are not in memory: {name}\n")
        until(lambda: 'ssn_vault_domain_ready{domain="highered"} 0.0' in http(server, "/metrics")[1])
        assert 'ssn_vault_domain_ready{domain="k12"} 1.0' in http(server, "/metrics")[1]
        assert tokenize(own, server, "k12")
        assert refused(lambda: tokenize(own, server, "highered")).reason == "KEYS_UNAVAILABLE"
