"""Promise 9 and the rows: what a superuser writes into the database grants nothing, and is said."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import (
    ApprovalRequiredError,
    ItemErrorCode,
    LinkageItem,
    NotPermittedError,
    Ssn,
    SsnVaultError,
    StoreUnavailableError,
    TokenizeItem,
    View,
)
from tests.conftest import new_database_url
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.dev.home import SIGNERS
from vault_service.errors import TamperedError
from vault_service.orders.order import Action, new_order


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request)) as running:
        yield running


def tokenize(stack: Stack, ssn: str, client: str = "sis", domain: str = "k12") -> str:
    with stack.client(client) as one:
        (result,) = one.tokenize(domain, [TokenizeItem(Ssn(ssn))])
    assert result.token is not None
    return result.token


def verify_transcript(stack: Stack, token: str) -> str | ItemErrorCode:
    with stack.client("sis") as client:
        disclosure = client.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
    (result,) = disclosure.results
    if result.error is not None:
        return result.error.code
    assert result.ssn is not None
    return result.ssn.reveal()


def forged_policy_order(stack: Stack, *, signed_by: tuple[str, ...]) -> tuple[str, str]:
    """Id and body of an order that lets the registrar read k12 numbers, in the signers' name."""
    text = stack.home.policy_file.read_text()
    assert "  registrar:\n    tokenize: [highered]\n" in text
    text = text.replace(
        "  registrar:\n    tokenize: [highered]\n",
        "  registrar:\n    tokenize: [highered]\n    detokenize: {k12: [transcript-verification]}\n",
    )
    order = new_order(Action.APPLY_POLICY, signed_by[0], {"base": 1, "policy": text}, time.time_ns() // 1_000_000)
    return order.id, order.body


def test_an_edited_policy_grants_nothing_to_a_running_server_and_stops_a_new_one(own: Stack) -> None:
    token = tokenize(own, "945-17-0001")
    own.tamper(
        "UPDATE admin_order SET body = replace(body, 'registrar:\\n    tokenize: [highered]',"
        " 'registrar:\\n    tokenize: [highered]\\n    detokenize: {k12: [transcript-verification]}')"
    )
    with own.client("registrar") as registrar, pytest.raises(NotPermittedError):
        registrar.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
    assert verify_transcript(own, token) == "0001"
    late = own.add_server(wait=False)
    deadline = time.monotonic() + 30
    while late.is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not late.is_running()
    until(lambda: "entry 1 of the log of orders is not valid" in own.log.read_text())


def test_an_inserted_order_is_refused_by_every_call_until_it_is_gone(own: Stack) -> None:
    token = tokenize(own, "945-17-0002")
    order_id, body = forged_policy_order(own, signed_by=SIGNERS)
    epoch = own.query("SELECT epoch FROM control")[0][0]
    insert = [
        "INSERT INTO admin_order (id, body) VALUES (:id, :body)",
        "INSERT INTO control_log (position, order_id, applied_at) VALUES (:position, :id, :at)",
        "UPDATE control SET epoch = :position",
    ]
    for person in SIGNERS:
        insert.append(
            "INSERT INTO order_signature (order_id, person, key_version, signature)"
            f" SELECT :id, '{person}', key_version, signature FROM order_signature WHERE person = '{person}' LIMIT 1"
        )
    now = time.time_ns() // 1_000_000
    own.tamper(*insert, id=order_id, body=body, position=epoch + 1, at=now)
    with own.client("registrar") as registrar, pytest.raises(StoreUnavailableError):
        registrar.detokenize("k12", [token], purpose="transcript-verification", justification=JUSTIFICATION)
    with pytest.raises(StoreUnavailableError):
        verify_transcript(own, token)
    until(lambda: "the database was tampered with" in own.log.read_text())
    deadline = time.monotonic() + 10
    while own.server.is_ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    own.tamper(
        "DELETE FROM order_outcome WHERE order_id = :id",
        "DELETE FROM order_signature WHERE order_id = :id",
        "DELETE FROM control_log WHERE order_id = :id",
        "DELETE FROM admin_order WHERE id = :id",
        "UPDATE control SET epoch = :position",
        id=order_id,
        position=epoch,
    )
    own.server.wait_ready()
    assert verify_transcript(own, token) == "0002"


def test_an_unsigned_order_is_refused_and_never_in_force(own: Stack) -> None:
    order_id, body = forged_policy_order(own, signed_by=SIGNERS)
    own.tamper("INSERT INTO admin_order (id, body) VALUES (:id, :body)", id=order_id, body=body)
    deadline = time.monotonic() + 10
    outcome: list[str] = []
    while not outcome and time.monotonic() < deadline:
        outcome = [row[0] for row in own.query("SELECT outcome FROM order_outcome WHERE order_id = :id", id=order_id)]
        time.sleep(0.1)
    assert outcome == ["refused"]


def test_a_rolled_back_policy_is_not_obeyed(own: Stack) -> None:
    """The superuser takes the second policy, which revoked a client, out of the database again."""
    token = tokenize(own, "945-17-0003")
    own.apply_policy(lambda text: text.replace("k12: [transcript-verification, tax-reporting]", "k12: [tax-reporting]"))
    with pytest.raises(NotPermittedError):
        verify_transcript(own, token)
    (last,) = own.query("SELECT position, order_id FROM control_log ORDER BY position DESC LIMIT 1")
    own.tamper(
        "DELETE FROM control_log WHERE position = :position",
        "UPDATE control SET epoch = :position - 1",
        position=last[0],
    )
    with pytest.raises(StoreUnavailableError):
        verify_transcript(own, token)
    until(lambda: "has been at" in own.log.read_text())


def test_a_rolled_back_approval_is_worth_nothing(own: Stack) -> None:
    with own.client("sis") as client:
        results = client.tokenize("k12", [TokenizeItem(Ssn(f"945-18-{n:04}")) for n in range(150)])
    tokens = [result.token or "" for result in results]
    arguments = {"client": "sis", "purpose": "tax-reporting", "tokens": 120, "justification": "statements of a school"}
    approval = own.order(Action.APPROVE_BULK, arguments, "tax-clerk", "records-officer")
    with own.client("sis", "tax-clerk") as client:

        def ask(count: int) -> None:
            client.detokenize(
                "k12", tokens[:count], purpose="tax-reporting", justification=JUSTIFICATION, view=View.FULL
            )

        ask(110)
        own.tamper("UPDATE approval_spend SET spent = 0 WHERE approval_id = :id", id=approval.id)
        with pytest.raises(ApprovalRequiredError):
            ask(110)
        until(lambda: "spending was rolled back" in own.log.read_text())
        own.tamper("DELETE FROM approval_spend")
        with pytest.raises(ApprovalRequiredError):
            ask(110)
        own.tamper("UPDATE admin_order SET body = replace(body, :old, :new)", old='"tokens":120', new='"tokens":9999')
        with pytest.raises(ApprovalRequiredError):
            ask(10)


MOVES = {
    "another row's ciphertext": [
        "UPDATE token_record SET ciphertext = (SELECT ciphertext FROM token_record WHERE token = :other)"
        " WHERE token = :token"
    ],
    "another domain's row": [
        "DELETE FROM token_record WHERE token = :token",
        "UPDATE token_record SET domain = 'k12', token = :token WHERE token = :foreign",
    ],
    "another number's blind index": [
        "UPDATE token_record SET blind_index = :aside WHERE token = :other",
        "UPDATE token_record SET blind_index = :index WHERE token = :token",
    ],
}


@pytest.mark.parametrize("move", MOVES)
def test_a_row_that_was_swapped_or_moved_does_not_open(stack: Stack, move: str) -> None:
    serial = list(MOVES).index(move)
    token, other = tokenize(stack, f"945-19-000{serial}"), tokenize(stack, f"945-19-001{serial}")
    foreign = tokenize(stack, f"945-19-002{serial}", "registrar", "highered")
    (index,) = stack.query("SELECT blind_index FROM token_record WHERE token = :token", token=other)
    values = {"token": token, "other": other, "foreign": foreign, "index": bytes(index[0]), "aside": bytes(32)}
    for statement in MOVES[move]:
        stack.tamper(statement, **{name: value for name, value in values.items() if f":{name}" in statement})
    assert verify_transcript(stack, token) is ItemErrorCode.DATA_LOSS
    (event,) = stack.query(
        "SELECT event.body FROM event JOIN disclosure ON event.id = disclosure.event_id"
        " WHERE disclosure.outcome = 'unopened' AND disclosure.token = :token",
        token=token,
    )
    assert '"outcome":"DATA_LOSS"' in event[0]
    with stack.client("k12-research") as research:
        answer = research.linkage_match("college-outcomes", [LinkageItem(token=token)])
    assert answer.results[0].error is not None
    assert answer.results[0].error.code is ItemErrorCode.DATA_LOSS
    stack.tamper("DELETE FROM token_record WHERE token IN (:token, :other)", token=token, other=other)


def test_an_outcome_that_the_database_invents_is_not_believed(own: Stack) -> None:
    """`incident freeze` must not report done because a row says so: servers obey the log of orders in force."""
    own.server.stop()
    with own.admin("key-admin-a") as one:
        order = one.ask(Action.FREEZE, {"kind": "client", "name": "sis", "reason": "test"})
        own.tamper("INSERT INTO order_outcome (order_id, outcome, detail, at) VALUES (:id, 'done', '', 1)", id=order.id)
        with pytest.raises(TamperedError):
            one.wait(order)


def test_the_index_is_unique_in_its_domain_whoever_inserts(stack: Stack) -> None:
    token = tokenize(stack, "945-19-0099")
    copy = (
        "INSERT INTO token_record SELECT 'k12_COPY', domain, index_version, blind_index, data_version, ciphertext,"
        " destroy_by, set_aside FROM token_record WHERE token = :token"
    )
    with pytest.raises(Exception, match=r"(?i)unique"):
        stack.tamper(copy, token=token)


def test_errors_of_a_tampered_store_repeat_nothing(own: Stack) -> None:
    own.tamper("UPDATE control SET epoch = 0")
    with own.client("sis") as client, pytest.raises(SsnVaultError) as caught:
        client.tokenize("k12", [TokenizeItem(Ssn("945-19-0100"))])
    assert "945" not in str(caught.value)
