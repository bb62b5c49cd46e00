"""Promise 3: whatever a superuser does to what a checkpoint covers, `audit verify` finds it and says where."""

import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ssn_vault_client import Client, LinkageItem, NotPermittedError, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.commands import ssn_vault, succeeds
from tests.support.records import Mutations, Record, names
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack

MUTATIONS = int(os.environ.get("TEST_MUTATIONS", "1000"))  # on each database
QUICK = {"SSN_VAULT_AUDIT__CHECKPOINT_SECONDS": "0.2"}


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request), settings=QUICK) as running:
        yield running


def fill(stack: Stack, calls: int) -> list[str]:
    """A record of every kind of call, over several checkpoints; the tokens."""
    with stack.client("sis") as sis, stack.client("registrar") as registrar, stack.client("k12-research") as research:
        rows = sis.tokenize("k12", [TokenizeItem(Ssn(f"951-31-{n:04}")) for n in range(20)])
        registrar.tokenize("highered", [TokenizeItem(Ssn(f"951-31-{n:04}")) for n in range(10)])
        tokens = [row.token or "" for row in rows]
        for call in range(calls):
            wanted = tokens[call % 13 : call % 13 + 1 + call % 4]
            sis.detokenize("k12", wanted, purpose="transcript-verification", justification=JUSTIFICATION)
            if call % 20 == 0:
                research.linkage_match("college-outcomes", [LinkageItem(token) for token in wanted])
                with pytest.raises(NotPermittedError):
                    registrar.detokenize("k12", wanted, purpose="aid-verification", justification=JUSTIFICATION)
                time.sleep(0.15)
    return tokens


def sealed(stack: Stack) -> bool:
    """Whether every event stands under a checkpoint."""
    ((events,),) = stack.query("SELECT count(*) FROM event")
    return bool(stack.query("SELECT count(*) FROM log_checkpoint WHERE size = :events", events=events)[0][0])


def test_every_mutation_of_what_is_sealed_is_found_and_its_place_named(own: Stack) -> None:
    fill(own, 260)
    until(lambda: sealed(own))
    assert own.server.stop() == 0
    record = Record(own)
    record.load()
    assert record.covered == len(record.leaves) > 280
    assert len(record.checkpoints) > 8
    mutations = Mutations(record, seed=4711)
    done: Counter[str] = Counter()
    with own.superuser() as engine:
        with record.superuser(engine) as connection:
            assert record.verify(connection).findings == []
        kinds = itertools.cycle(mutations.all())
        while sum(done.values()) < MUTATIONS:
            kind = next(kinds)
            with record.superuser(engine) as connection:
                try:
                    place = getattr(mutations, kind)(connection)
                except sa.exc.IntegrityError:  # a place that is taken: the database itself refuses
                    continue
                report = record.verify(connection)
            assert report.count, (kind, place)
            said = [f"{finding.where}: {finding.what}" for finding in report.findings]
            found = names(report, place) if isinstance(place, int) else any(place in line for line in said)
            assert found, (kind, place, said[:5])
            done[kind] += 1
        with record.superuser(engine) as connection:
            assert record.verify(connection).findings == []
    assert done.keys() == set(mutations.all())
    assert min(done.values()) >= MUTATIONS // len(done) // 2


def test_the_command_says_what_is_wrong_and_ends_with_status_1(own: Stack) -> None:
    fill(own, 3)
    until(lambda: sealed(own))
    assert ssn_vault(own, "audit", "verify").exit_code == 0
    ((event_id, token),) = own.query("SELECT event_id, token FROM disclosure ORDER BY event_id, position LIMIT 1")
    ((position,),) = own.query("SELECT position FROM log_leaf WHERE event_id = :id", id=event_id)
    own.tamper("UPDATE disclosure SET token = 'k12_OTHER' WHERE token = :token", token=token)
    result = ssn_vault(own, "audit", "verify", "--public-key", own.home.directory / "audit.pub.pem")
    assert result.exit_code == 1
    assert f"WRONG  entry {position} (event {event_id})" in result.output
    report = json.loads(ssn_vault(own, "audit", "verify", "--json").output)
    assert (report["ok"], report["wrong"] > 0) == (False, True)


def test_the_stream_finds_an_event_that_was_deleted_before_any_checkpoint(own: Stack) -> None:
    until(lambda: sealed(own))
    assert own.server.stop() == 0
    unsealing = own.add_server(settings={"SSN_VAULT_AUDIT__SEQUENCE": "false"})
    with own.client("sis", server=unsealing) as sis:
        token = sis.tokenize("k12", [TokenizeItem(Ssn("951-32-0001"))])[0].token or ""
        disclosed = sis.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
    gone = disclosed.disclosure_id
    assert ssn_vault(own, "audit", "verify", "--stream", own.log).exit_code == 0
    own.tamper(
        "DELETE FROM log_pending WHERE event_id = :id",
        "DELETE FROM disclosure WHERE event_id = :id",
        "DELETE FROM event WHERE id = :id",
        id=gone,
    )
    assert ssn_vault(own, "audit", "verify").exit_code == 0  # nothing covered it: only the stream remembers
    result = ssn_vault(own, "audit", "verify", "--stream", own.log)
    assert result.exit_code == 1
    assert f"event {gone}: the log stream announced it, but it is not in the record" in result.output


def test_a_restored_backup_is_found_not_sealed_and_gives_nothing_out(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The database goes back to yesterday, checkpoints and all; the checkpoint file does not."""
    settings = {**QUICK, "SSN_VAULT_AUDIT__MAX_UNSEALED": "4"}
    with Stack(tmp_path / "home", database_url=new_database_url(database, request), settings=settings) as own:
        tokens = fill(own, 3)
        until(lambda: sealed(own))
        own.server.stop()
        kept = keep(own)
        checkpoints = own.query("SELECT count(*) FROM log_checkpoint")[0][0]
        own.server.start()
        # Stopped for longer than it may be unsealed, it seals first.
        until(lambda: own.query("SELECT count(*) FROM log_checkpoint")[0][0] > checkpoints + 1)
        with own.client("sis") as sis:
            until(lambda: refusal(sis, tokens[0]) == "")
        fill(own, 3)
        until(lambda: sealed(own))
        own.server.stop()
        put_back(own, kept)
        result = ssn_vault(own, "audit", "verify")
        assert result.exit_code == 1
        assert "were signed at" in result.output
        own.server.start(wait=False)  # it never is ready
        own.server.wait_listening()
        until(lambda: "the log is not sealed: it is not what was signed" in own.log.read_text())
        with own.client("sis") as sis:
            until(lambda: refusal(sis, tokens[0]) == "AUDIT_UNAVAILABLE")
        ((newest,),) = own.query("SELECT max(size) FROM log_checkpoint")
        ((entries,),) = own.query("SELECT count(*) FROM event")
        assert newest < entries


def refusal(client: Client, token: str) -> str:
    try:
        client.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
    except SsnVaultError as error:
        return error.reason
    return ""


def keep(stack: Stack) -> dict[str, list[dict[str, object]]] | Path:
    """A backup of the whole database."""
    if stack.database_url is None:
        copy = stack.home.directory.parent / "backup.db"
        with stack.superuser() as engine, engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(stack.home.directory / "ssn-vault.db", copy)
        return copy
    tables = [row[0] for row in stack.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return {table: [dict(row._mapping) for row in stack.query(f"SELECT * FROM {table}")] for table in tables}


def put_back(stack: Stack, kept: dict[str, list[dict[str, object]]] | Path) -> None:
    """Restore it over what is there."""
    if isinstance(kept, Path):
        for name in ("ssn-vault.db", "ssn-vault.db-wal", "ssn-vault.db-shm"):
            (stack.home.directory / name).unlink(missing_ok=True)
        shutil.copy(kept, stack.home.directory / "ssn-vault.db")
        return
    with stack.superuser() as engine, engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, rows in kept.items():
            connection.exec_driver_sql(f"DELETE FROM {table}")
            if rows:
                columns = ", ".join(rows[0])
                values = ", ".join(f":{name}" for name in rows[0])
                connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), rows)


def test_a_rotated_key_leaves_older_checkpoints_verifiable(own: Stack) -> None:
    fill(own, 2)
    until(lambda: sealed(own))
    root = own.root()
    root.write("transit/keys/ssn-vault-audit/rotate")
    fill(own, 2)
    until(lambda: sealed(own))
    old_key = own.home.directory / "audit.pub.pem"
    assert ssn_vault(own, "audit", "verify").exit_code == 1  # the kept file does not know the new key
    new_key = own.home.directory / "both.pub.pem"
    new_key.write_text(succeeds(own, "audit", "key"))
    assert new_key.read_text().count("BEGIN PUBLIC KEY") == 2
    assert old_key.read_text() in new_key.read_text()
    assert ssn_vault(own, "audit", "verify", "--public-key", new_key).exit_code == 0
    # A server that is new learns both, and goes on.
    own.server.stop()
    own.server.start()
    fill(own, 1)
    until(lambda: sealed(own))
    assert ssn_vault(own, "audit", "verify", "--public-key", new_key).exit_code == 0
