"""The server's PostgreSQL login made by Vault: short lives under load, and nothing lost when one is replaced."""

import tomllib
from pathlib import Path
from time import monotonic

import pytest
import sqlalchemy as sa

from ssn_vault_client import Ssn, TokenizeItem
from tests.conftest import new_database_url
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.keys.resources import carry_out, plan
from vault_service.keys.setup import SERVER, DatabaseEngine, _database

LIFE, LONGEST, SECONDS = 10, 20, 30


def with_vault_logins(stack: Stack) -> None:
    """Let Vault make the server's logins from now on, of LIFE seconds, at most LONGEST."""
    url = sa.make_url(stack.database_url or "")
    where = f"host={url.query['host']} dbname={url.database} user={{{{username}}}} password={{{{password}}}}"
    engine = DatabaseEngine(where, url.username or "", lambda: "unused", life=LIFE, longest=LONGEST)
    root = stack.root()
    carry_out(root, plan(root, _database(engine)))
    policies = ["ssn-vault-server", "ssn-vault-server-database"]
    root.write("auth/approle/role/ssn-vault-server", token_policies=policies, token_period="1h")
    root.close()
    text = stack.home.config_file.read_text()
    database = tomllib.loads(text)["database"]
    plain = sa.make_url(database["url"])
    plain = sa.URL.create(plain.drivername, database=plain.database, query=plain.query)
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith(f'password_file = "{database["password_file"]}"'):
            lines[at] = f'vault_role = "{SERVER}"'
        elif line == f'url = "{database["url"]}"' and lines[at - 1] == "[database]":
            lines[at] = f'url = "{plain.render_as_string()}"'
    stack.home.config_file.write_text("\n".join(lines) + "\n")


def test_logins_of_a_short_life_fail_no_call(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = new_database_url("postgresql", request)
    with Stack(tmp_path / "home", database_url=url) as stack:
        with_vault_logins(stack)
        assert stack.server.stop() == 0
        stack.server.start()
        users: set[str] = set()
        until = monotonic() + SECONDS
        calls = 0
        with stack.client("sis") as client:
            while monotonic() < until:
                (result,) = client.tokenize("k12", [TokenizeItem(Ssn("936-06-0001"))])
                answer = client.detokenize(
                    "k12",
                    [result.token or ""],
                    purpose="transcript-verification",
                    justification=JUSTIFICATION,
                )
                assert answer.results[0].ssn is not None
                calls += 1
                if calls % 50 == 0:
                    rows = stack.query("SELECT usename FROM pg_stat_activity WHERE datname = current_database()")
                    users |= {row[0] for row in rows if row[0].startswith("v-")}
        assert calls > 100
        assert len(users) >= 2  # each lived at most LONGEST seconds
        rights = stack.query(
            "SELECT DISTINCT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
            " JOIN pg_roles u ON u.oid = m.member WHERE u.rolname LIKE 'v-%'"
        )
        assert [row[0] for row in rights] == ["ssn_vault_server"]
        assert stack.server.stop() == 0


def test_a_password_file_and_vault_logins_exclude_each_other(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = new_database_url("postgresql", request)
    with Stack(tmp_path / "home", database_url=url, settings={}) as stack:
        assert stack.server.stop() == 0
        text = stack.home.config_file.read_text().replace("[database]\n", f'[database]\nvault_role = "{SERVER}"\n', 1)
        stack.home.config_file.write_text(text)
        with pytest.raises(AssertionError, match="exclude each other"):
            stack.server.start()
