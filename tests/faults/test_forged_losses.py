"""A declared loss is no key for the database's owner, and what lost its rows' version does not get it back unseen."""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from ssn_vault_client import Ssn, SsnVaultError, TokenizeItem, Traits
from tests.support.commands import CHECK_FAILED, REFUSED, ssn_vault, succeeds
from tests.support.postgres import PostgresServer
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.dev.home import SIGNERS
from vault_service.orders.order import Action

NUMBER = "937-13-0001"


@pytest.fixture
def own(postgres: PostgresServer, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=postgres.new_database()) as running:
        yield running


def tokenize(stack: Stack, number: str = NUMBER, traits: Traits | None = None) -> str:
    with stack.client("sis") as sis:
        return sis.tokenize("k12", [TokenizeItem(Ssn(number), traits=traits)])[0].token or ""


def disclose(stack: Stack, token: str) -> str:
    with stack.client("sis") as sis:
        try:
            answer = sis.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
        except SsnVaultError as error:
            return error.reason or error.status
    result = answer.results[0]
    return result.ssn.last4 if result.ssn else "no number"


def declared(stack: Stack, **changes: object) -> dict[str, object]:
    """What two signers might sign about a log that lost nothing: its own newest checkpoint, and one from elsewhere."""
    note, size = stack.query("SELECT note, size FROM log_checkpoint ORDER BY number DESC LIMIT 1")[0]
    lines = note.split("\n")
    now = int(time.time() * 1000)
    made = {
        "entries": size - 1,
        "root": "0a" * 32,
        "lost_entries": size,
        "lost_root": "0b" * 32,
        "lost_at": int(lines[3].removeprefix("time ")),
        "lost_note": note,
        "until": now,
        "epoch": stack.query("SELECT epoch FROM control")[0][0],
        "reason": "nothing was lost",
    }
    return {**made, **changes}


def refused(stack: Stack, arguments: dict[str, object]) -> str:
    """Why servers refuse what both signers signed, and the order's id."""
    with stack.admin(SIGNERS[0]) as one, stack.admin(SIGNERS[1]) as other:
        order = one.ask(Action.ACCEPT_LOSS, arguments)
        other.sign(order.id)
        outcome = one.wait(order)
    assert outcome is not None
    assert outcome.outcome == "refused"
    return f"{order.id} {outcome.detail}"


def test_what_was_never_signed_or_is_still_there_is_no_loss(own: Stack) -> None:
    tokenize(own)
    until(lambda: own.query("SELECT max(size) FROM log_checkpoint")[0][0] > 6)
    note = declared(own)["lost_note"]
    forged = str(note).replace("\n", "\n9", 1)
    assert "never signed by the log's key" in refused(own, declared(own, lost_note=forged))
    assert "not the one that the order names" in refused(own, declared(own))
    later = int(time.time() * 1000) + 10**9
    assert refused(own, declared(own, until=later, lost_at=later))
    assert disclose(own, tokenize(own)) == "0001"


def test_a_refused_loss_that_the_owner_puts_in_force_is_not_obeyed(own: Stack) -> None:
    """The owner cuts the log of orders and puts the signed order behind it: a freeze must not be lifted so."""
    token = tokenize(own)
    epoch = own.query("SELECT epoch FROM control")[0][0]
    order = refused(own, declared(own)).split(" ")[0]
    own.order(Action.FREEZE, {"kind": "client", "name": "sis", "reason": "stolen laptop"}, "key-admin-a")
    assert disclose(own, token) == "FROZEN"
    own.tamper(
        "DELETE FROM control_log WHERE position > :epoch",
        "INSERT INTO control_log (position, order_id, applied_at) VALUES (:epoch + 1, :id, :at)",
        "UPDATE control SET epoch = :epoch + 1",
        epoch=epoch,
        id=order,
        at=int(time.time() * 1000),
    )
    until(lambda: "the database was tampered with" in own.log.read_text())
    seen = {disclose(own, token) for _ in range(20)}
    assert "0001" not in seen


def test_a_row_that_came_back_to_a_version_keeps_it_from_being_retired(own: Stack) -> None:
    """Traits make a row whole that was set aside, while its index version is being retired."""
    token = tokenize(own)
    tokenize(own, "937-13-0002")
    own.tamper("UPDATE token_record SET ciphertext = :bytes WHERE token = :token", bytes=b"damaged", token=token)
    for kind in ("data", "index"):
        succeeds(own, "keys", "rotate", "--domain", "k12", "--kind", kind, "--yes")
    assert ssn_vault(own, "keys", "reencrypt", "--domain", "k12", "--yes").exit_code == CHECK_FAILED
    succeeds(own, "keys", "set-aside", "--domain", "k12", "--yes", "--second", "key-admin-b")
    made: dict[str, object] = {}

    def whole_again() -> None:
        made["token"] = tokenize(own, traits=Traits("Ann", "Lee", "2001-02-03"))

    def retire() -> None:
        made["retired"] = ssn_vault(
            own, "keys", "retire", "--domain", "k12", "--kind", "index", "--version", "1", "--yes"
        ).exit_code

    with own.superuser() as engine, engine.connect() as holder:
        holder.execute(sa.text("SELECT 1 FROM token_record WHERE token = :token FOR UPDATE"), {"token": token}).all()
        threads = [threading.Thread(target=whole_again), threading.Thread(target=retire)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        for number, thread in enumerate(threads, 1):
            thread.start()  # the call waits for the row; then the order for the call
            until(partial(lambda least: own.query(waiting)[0][0] >= least, number), 60)
        holder.rollback()
    for thread in threads:
        thread.join(60)
    assert made == {"token": token, "retired": REFUSED}
    assert tokenize(own) == token


def test_rows_that_others_put_beside_an_order_count_for_nothing(own: Stack) -> None:
    """Who has the admins' database login and no signing key has no order refused, and no record called wrong."""
    with own.admin("key-admin-a") as one:
        order = one.ask(Action.DRILL, {"steps": 1, "seconds": 1, "passed": True})
        with one.store.engine.begin() as connection:
            junk = sa.text("INSERT INTO order_text VALUES (:id, 'reason', '', 'junk')")
            connection.execute(junk, {"id": order.id})
        outcome = one.wait(order)
    assert outcome is not None
    assert outcome.outcome == "done"
    verified = ssn_vault(own, "audit", "verify", "--json")
    assert json.loads(verified.output)["findings"] == []
