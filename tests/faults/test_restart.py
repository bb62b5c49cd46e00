"""A server starts again after every kind of order, whoever signed it, and a new replica starts beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import Ssn, TokenizeItem
from tests.conftest import new_database_url
from tests.support.servers import another_server
from tests.support.stack import Stack
from vault_service.cli.key_work import KeyWork
from vault_service.dev.bootstrap import login_person, prepare_vault
from vault_service.dev.home import SIGNERS, vault_policies
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.order import Action, parse_order
from vault_service.policy.file import parse_policy

BULK = {"client": "sis", "purpose": "tax-reporting", "tokens": 150, "justification": "Tuition statements of the year"}
EVERYTHING = {"kind": "all", "name": "", "reason": "a test"}
NEWCOMER = "\n  newcomer:\n    roles: [key-admin]\n"


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request)) as running:
        yield running


def starts_again(own: Stack) -> None:
    """Everything that runs is restarted, and a replica that knows nothing reads the whole log."""
    own.server.stop()
    own.server.start()
    with another_server(own):
        pass


def with_newcomer(policy: str) -> str:
    return policy.replace("\npeople:\n", f"\npeople:{NEWCOMER}")


def welcome(own: Stack) -> None:
    """The newcomer gets a login and a signing key at Vault, then a place in the policy."""
    root = own.root()
    try:
        prepare_vault(root, vault_policies(parse_policy(with_newcomer(own.home.policy_file.read_text()))))
        token = own.home.directory / "people" / "newcomer.token"
        token.write_text(login_person(root, "newcomer"))
    finally:
        root.close()
    own.apply_policy(with_newcomer)


def test_a_server_starts_again_after_every_kind_of_order_by_whoever_may_give_it(own: Stack) -> None:
    with own.admin("key-admin-a") as one:
        work = KeyWork(one, own.where("key-admin-a"), "key-admin-b")
        work.rotate("k12", KeyKind.DATA)
        work.rotate_wrapping("highered")
        work.reencrypt("k12", 1000)
        first = KeyName("k12", KeyKind.DATA, 1)
        work.retire(first)
    with own.client("sis") as sis:
        token = sis.tokenize("k12", [TokenizeItem(Ssn("937-12-0001"))])[0].token
    own.tamper("UPDATE token_record SET ciphertext = :bytes WHERE token = :token", bytes=b"damaged", token=token)
    own.order(Action.SET_ASIDE, {"scope": "k12", "rows": [token]}, "key-admin-a", "key-admin-b")
    named = {"scope": "k12", "kind": "data", "version": 1}
    own.order(Action.DESTROY_KEY, named, "key-admin-a", "records-officer")
    frozen = own.order(Action.FREEZE, EVERYTHING, "records-officer")
    own.order(Action.THAW, {"freeze": frozen.id}, "records-officer", "key-admin-b")
    own.order(Action.DRILL, {"steps": 3, "seconds": 5, "passed": True}, "records-officer")
    bulk = own.order(Action.APPROVE_BULK, BULK, "tax-clerk", "records-officer")
    own.order(Action.DENY, {"order_id": bulk.id}, "records-officer")
    bodies = own.query("SELECT body FROM admin_order JOIN control_log ON order_id = id")
    orders = [parse_order(body) for (body,) in bodies]
    assert {order.action for order in orders} == set(Action) - {Action.ACCEPT_LOSS}  # see test_lost_leader
    assert {order.actor for order in orders} - set(SIGNERS) == {"key-admin-a", "records-officer", "tax-clerk"}
    starts_again(own)


def test_a_server_starts_again_when_a_person_came_gave_an_order_and_left(own: Stack) -> None:
    """A replica that reads all of it at once looks each signature up among the people of that moment."""
    welcome(own)
    frozen = own.order(Action.FREEZE, EVERYTHING, "newcomer")
    own.order(Action.THAW, {"freeze": frozen.id}, "key-admin-b", "newcomer")
    starts_again(own)
    own.apply_policy(lambda text: text.replace(NEWCOMER, "\n", 1))
    starts_again(own)
