"""From a reason to the status on the wire: `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo."""

from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vault_service.errors import ANSWERS, CallError

DOMAIN = "ssnvault"
_DETAILS = "grpc-status-details-bin"  # where gRPC carries a google.rpc.Status


class WireStatus(NamedTuple):
    """What `context.abort` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def wire_status(error: CallError) -> WireStatus:
    """The status of a failed call. Its texts are fixed: nothing in it was sent by the caller."""
    answer = ANSWERS[error.reason]
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    if error.error_id:
        info.metadata["error_id"] = error.error_id
    details: list[AnyMessage] = [_packed(info)]
    if error.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=problem.path, description=problem.problem)
            for problem in error.fields
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if answer.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(answer.retry_after * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    text = answer.text
    if error.fields:
        text = "; ".join(f"{problem.path} {problem.problem}" for problem in error.fields)
    if error.error_id:
        text = f"{answer.text} Error id: {error.error_id}"
    status = status_pb2.Status(code=code_pb2.Code.Value(answer.status), message=text, details=details)
    return WireStatus(grpc.StatusCode[answer.status], text, ((_DETAILS, status.SerializeToString()),))


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
