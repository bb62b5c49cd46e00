"""The status on the wire is the design's table: name, ErrorInfo, fields, and when to try again."""

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vault_service.api.status import wire_status
from vault_service.errors import CallError, FieldProblem, Reason

TABLE = {
    "INVALID_ARGUMENT": ["FIELD_INVALID", "BATCH_TOO_LARGE", "BATCH_TOO_SMALL"],
    "UNAUTHENTICATED": ["PERSON_REQUIRED", "PERSON_INVALID"],
    "PERMISSION_DENIED": ["NOT_PERMITTED"],
    "FAILED_PRECONDITION": ["FROZEN", "APPROVAL_REQUIRED", "AGREEMENT_ENDED"],
    "RESOURCE_EXHAUSTED": ["BUDGET_EXCEEDED", "OVERLOADED"],
    "UNAVAILABLE": ["KEYS_UNAVAILABLE", "STORE_UNAVAILABLE", "AUDIT_UNAVAILABLE"],
    "INTERNAL": ["INTERNAL"],
}
ROWS = [(status, reason) for status, reasons in TABLE.items() for reason in reasons]


def _details(error: CallError) -> tuple[status_pb2.Status, dict[str, object]]:
    """The google.rpc.Status that travels, and its details by message name."""
    ((key, raw),) = wire_status(error).trailing_metadata
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(raw)
    found: dict[str, object] = {}
    for packed in status.details:
        name = packed.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        assert name not in found
        found[name] = message
    return status, found


def test_the_table_names_every_reason() -> None:
    assert {reason for _, reason in ROWS} == {reason.value for reason in Reason}


@pytest.mark.parametrize(("name", "reason"), ROWS)
def test_each_reason_has_the_tables_status_and_one_error_info(name: str, reason: str) -> None:
    error = CallError(Reason(reason))
    wire = wire_status(error)
    status, details = _details(error)
    assert wire.code is grpc.StatusCode[name]
    assert status.code == code_pb2.Code.Value(name)
    assert status.message == wire.details
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("ssnvault", reason)
    assert not info.metadata


@pytest.mark.parametrize("reason", list(Reason))
def test_a_retry_is_offered_exactly_where_trying_later_helps(reason: Reason) -> None:
    _, details = _details(CallError(reason))
    helps = reason in {
        Reason.BUDGET_EXCEEDED,
        Reason.OVERLOADED,
        Reason.KEYS_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
    }
    assert ("RetryInfo" in details) is helps
    if helps:
        retry = details["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() > 0


def test_wrong_fields_are_named_by_their_paths() -> None:
    problems = (FieldProblem("items[3].reference", "is too long"), FieldProblem("domain", "is required"))
    status, details = _details(CallError(Reason.FIELD_INVALID, *problems))
    bad = details["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [(p.path, p.problem) for p in problems]
    assert status.message == "items[3].reference is too long; domain is required"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.FIELD_INVALID])
def test_without_wrong_fields_there_is_no_bad_request(reason: Reason) -> None:
    assert "BadRequest" not in _details(CallError(reason))[1]


def test_an_internal_error_gives_a_fixed_text_and_its_id() -> None:
    status, details = _details(CallError(Reason.INTERNAL, error_id="4f2a"))
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"error_id": "4f2a"}
    assert status.message == "An internal error happened. Error id: 4f2a"


def test_all_that_is_not_permitted_has_one_and_the_same_text() -> None:
    assert wire_status(CallError(Reason.NOT_PERMITTED)) == wire_status(CallError(Reason.NOT_PERMITTED))
    assert wire_status(CallError(Reason.NOT_PERMITTED)).details == "Not permitted."
