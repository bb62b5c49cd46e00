"""Failures of a whole call, as they come over the wire: one class a reason, with what the status holds."""

import pickle
import re
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2

import ssn_vault_client
from ssn_vault_client import (
    BudgetExceededError,
    Client,
    DeadlineError,
    FieldInvalidError,
    InvalidRequestError,
    KeysUnavailableError,
    Profile,
    SsnVaultError,
    UnavailableError,
)
from tests.unit.client.conftest import SmallVault, refusal

CONTRACT = Path(__file__).parents[3] / "protos" / "ssnvault" / "v1" / "ssn_vault.proto"
TABLE = CONTRACT.read_text().split("// What is never told")[0]
STATUSES = (
    "INVALID_ARGUMENT|UNAUTHENTICATED|PERMISSION_DENIED|FAILED_PRECONDITION|RESOURCE_EXHAUSTED|UNAVAILABLE|INTERNAL"
)
CANARY = "900-12-3456"


def reasons() -> list[tuple[str, str]]:
    """(status, reason) of the contract's own table."""
    found, status = [], ""
    for named, reason in re.findall(rf"^//   (?:({STATUSES})|\s+) +([A-Z_]+)  ", TABLE, re.MULTILINE):
        status = named or status
        found.append((status, reason))
    return found


def failure(profile: Profile) -> SsnVaultError:
    with Client(profile) as client, pytest.raises(SsnVaultError) as caught:
        client.tokenize("k12", [])
    assert caught.value.__context__ is None  # gRPC's own error holds texts that nobody vouches for
    return caught.value


def test_every_reason_of_the_contract_has_a_class_of_its_own(vault: SmallVault, profile: Profile) -> None:
    assert len(reasons()) == 15
    for status, reason in reasons():
        vault.faults = [refusal(code_pb2.Code.Value(status), reason)]
        error = failure(profile)
        expected = "".join(part.capitalize() for part in reason.split("_")) + "Error"
        assert type(error) is getattr(ssn_vault_client, expected)
        assert (error.reason, error.status) == (reason, status)
        assert error.retryable == (status == "UNAVAILABLE" or reason == "OVERLOADED")
        assert str(error) == f"{reason}: refused"


def test_wrong_fields_and_the_wait_are_told(vault: SmallVault, profile: Profile) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="items[3].reference")
    bad.field_violations.add(field="request_id")
    vault.faults = [refusal(code_pb2.INVALID_ARGUMENT, "FIELD_INVALID", "wrong form", bad)]
    error = failure(profile)
    assert isinstance(error, FieldInvalidError)
    assert error.fields == ("items[3].reference", "request_id")
    assert str(error) == "FIELD_INVALID: wrong form (items[3].reference, request_id)"
    assert (error.retry_after, error.retryable) == (None, False)

    wait = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3600, nanos=500_000_000))
    vault.faults = [refusal(code_pb2.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED", "spent", wait)]
    error = failure(profile)
    assert isinstance(error, BudgetExceededError)
    assert (error.retry_after, error.retryable) == (3600.5, True)


def test_an_error_survives_the_way_between_processes(vault: SmallVault, profile: Profile) -> None:
    vault.faults = [refusal(code_pb2.UNAVAILABLE, "KEYS_UNAVAILABLE")]
    copy = pickle.loads(pickle.dumps(failure(profile)))
    assert isinstance(copy, KeysUnavailableError)
    assert (copy.reason, copy.status, str(copy)) == ("KEYS_UNAVAILABLE", "UNAVAILABLE", "KEYS_UNAVAILABLE: refused")


def test_a_reason_newer_than_the_client_is_kept(vault: SmallVault, profile: Profile) -> None:
    vault.faults = [refusal(code_pb2.INVALID_ARGUMENT, "NEWER")]
    error = failure(profile)
    assert (type(error), error.reason) == (InvalidRequestError, "NEWER")


def test_texts_that_are_not_the_vaults_lose_their_numbers(vault: SmallVault, profile: Profile) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=CANARY)
    for text in (CANARY, "900123456", "900 12 3456", "\uff19\uff10\uff10\uff11\uff12\uff13\uff14\uff15\uff16"):
        vault.faults = [refusal(code_pb2.UNKNOWN, "X", f"<{text}>", bad, domain="else.where")]
        error = failure(profile)
        assert (type(error), error.reason, error.fields) == (SsnVaultError, "", ())
        assert str(error) == "UNKNOWN: <***>"


def test_details_that_cannot_be_read_leave_the_status(vault: SmallVault, profile: Profile) -> None:
    def spoil(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    vault.faults = [spoil]
    error = failure(profile)
    assert (type(error), error.reason, error.status) == (SsnVaultError, "", "NOT_FOUND")


def test_a_vault_that_cannot_be_reached_is_unavailable(certificates: Path) -> None:
    cert, key = certificates / "sis.pem", certificates / "sis.key"
    error = failure(Profile("127.0.0.1:1", certificates / "ca.pem", cert, key))
    assert (type(error), error.reason, error.retryable) == (UnavailableError, "", True)


def test_a_vault_that_does_not_answer_meets_the_deadline(vault: SmallVault, profile: Profile) -> None:
    def wait(context: grpc.ServicerContext) -> None:
        while context.is_active():
            pass

    vault.faults = [wait]
    short = Profile(profile.address, profile.ca, profile.cert, profile.key, timeout=0.2)
    error = failure(short)
    assert (type(error), error.status, error.retryable) == (DeadlineError, "DEADLINE_EXCEEDED", False)
