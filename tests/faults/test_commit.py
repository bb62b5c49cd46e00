"""Promise 2: no plaintext without a durable record. COMMIT is made to fail at its last moment, for real."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from ssn_vault_client import Ssn, StoreUnavailableError, TokenizeItem
from tests.support.inside import runner_inside
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.audit.seal import Seal
from vault_service.errors import CallError, ItemCode, ItemError, Reason
from vault_service.identity.caller import Caller
from vault_service.keys.envelope import Payload, open_sealed
from vault_service.operations import detokenize
from vault_service.operations.call import DetokenizeCall
from vault_service.policy.model import View

_FAIL_POSTGRESQL = (
    "CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no commit'; END $$",
    "CREATE CONSTRAINT TRIGGER fail_at_commit AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION fail_at_commit()",
)
_MEND_POSTGRESQL = ("DROP TRIGGER fail_at_commit ON event", "DROP FUNCTION fail_at_commit()")
_FAIL_SQLITE = (
    "CREATE TABLE impossible (parent TEXT REFERENCES control_log (order_id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER fail_at_commit AFTER INSERT ON event BEGIN INSERT INTO impossible VALUES ('nothing'); END",
)
_MEND_SQLITE = ("DROP TRIGGER fail_at_commit", "DROP TABLE impossible")


@contextmanager
def commits_fail(stack: Stack) -> Iterator[None]:
    """Every transaction that records an event fails when it commits, and not a statement earlier."""
    with stack.superuser() as engine:
        postgresql = engine.dialect.name == "postgresql"

        def run(statements: tuple[str, ...]) -> None:
            with engine.begin() as connection:
                for statement in statements:
                    connection.execute(sa.text(statement))

        run(_FAIL_POSTGRESQL if postgresql else _FAIL_SQLITE)
        try:
            yield
        finally:
            run(_MEND_POSTGRESQL if postgresql else _MEND_SQLITE)


def token_of(stack: Stack, ssn: str) -> str:
    with stack.client("sis") as client:
        (result,) = client.tokenize("k12", [TokenizeItem(Ssn(ssn))])
    assert result.token is not None
    return result.token


def detokenization(token: str) -> DetokenizeCall:
    return DetokenizeCall(
        caller=Caller("sis"),
        domain="k12",
        tokens=[token],
        purpose="transcript-verification",
        justification=JUSTIFICATION,
        view=View.LAST4,
    )


def test_when_the_commit_fails_nothing_was_decrypted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    token = token_of(stack, "944-16-0001")
    opened: list[str] = []

    def watched(*args: object, **kwargs: object) -> Payload:
        opened.append("opened")
        return open_sealed(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(detokenize, "open_sealed", watched)

    with runner_inside(stack) as runner:
        with commits_fail(stack):
            failed = [detokenization(token), detokenization(token)]
            runner.execute(failed)
        assert opened == []
        for one in failed:
            assert isinstance(one.failure, CallError)
            assert one.failure.reason is Reason.STORE_UNAVAILABLE
            assert one.results == []
        good = detokenization(token)
        runner.execute([good])
    assert good.failure is None
    assert good.results == ["0001"]
    assert opened == ["opened"]


def test_when_the_seal_runs_out_during_the_commit_nothing_is_decrypted(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held when the call was decided and does not when its record is committed."""
    token = token_of(stack, "944-16-0003")
    monkeypatch.setattr(Seal, "require", lambda _: None)
    monkeypatch.setattr(Seal, "holds", property(lambda _: False))
    with runner_inside(stack) as runner:
        late = detokenization(token)
        runner.execute([late])
    assert isinstance(late.failure, CallError)
    assert late.failure.reason is Reason.AUDIT_UNAVAILABLE
    assert late.results == []
    assert stack.query("SELECT 1 FROM event WHERE id = :id", id=late.event_id)  # the record stands all the same


def test_a_client_gets_no_number_and_the_service_returns_by_itself(stack: Stack) -> None:
    token = token_of(stack, "944-16-0002")
    with stack.client("sis") as client:

        def ask() -> str:
            disclosure = client.detokenize(
                "k12", [token], purpose="transcript-verification", justification=JUSTIFICATION
            )
            assert disclosure.results[0].ssn is not None
            return disclosure.results[0].ssn.reveal()

        with commits_fail(stack), pytest.raises(StoreUnavailableError):
            ask()
        assert ask() == "0002"


def test_a_poisoned_call_does_not_fail_its_neighbours(stack: Stack) -> None:
    """One row's data key version does not exist: that item is lost, the others of the batch are answered."""
    tokens = [token_of(stack, f"944-16-1{n:03}") for n in range(3)]
    ((version,),) = stack.query("SELECT data_version FROM token_record WHERE token = :token", token=tokens[1])
    change = "UPDATE token_record SET data_version = :version WHERE token = :token"
    stack.tamper(change, version=77, token=tokens[1])
    calls = [detokenization(token) for token in tokens]
    try:
        with runner_inside(stack) as runner:
            runner.execute(calls)
    finally:
        stack.tamper(change, version=version, token=tokens[1])  # `keys status` would say that something is wrong
    assert [call.failure for call in calls] == [None, None, None]
    assert [call.results[0] for call in calls[::2]] == ["1000", "1002"]
    (lost,) = calls[1].results
    assert isinstance(lost, ItemError)
    assert lost.code is ItemCode.DATA_LOSS
