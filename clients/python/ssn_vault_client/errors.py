"""Owns the failures of a whole call: one class a reason of the contract, made from the status that came back.
Faults of single items are values, not exceptions. No text here repeats what the caller sent."""

import re
from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

ERROR_DOMAIN = "ssnvault"

_DETAILS_KEY = "grpc-status-details-bin"
_LONG_NUMBER = re.compile(r"\d(?:[ -]?\d){8,}")


class SsnVaultError(Exception):
    """A call that failed as a whole.

    `reason` is the contract's (empty where gRPC itself made the status), `status` the gRPC code's name,
    `fields` the paths of wrong fields, `retry_after` the seconds that the vault asks to wait, or None where
    it names none.
    """

    def __init__(
        self,
        message: str,
        reason: str = "",
        status: str = "UNKNOWN",
        fields: tuple[str, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.fields = fields
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later. Whether repeating it spends budget twice is another
        question.
        """
        return self.status == "UNAVAILABLE" or self.reason == "OVERLOADED" or self.retry_after is not None

    def __str__(self) -> str:
        where = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{self.reason or self.status}: {super().__str__()}{where}"


class InvalidRequestError(SsnVaultError):
    """The request itself is wrong; `fields` says where."""


class FieldInvalidError(InvalidRequestError):
    """A required field is missing, or a field has the wrong form."""


class BatchTooLargeError(InvalidRequestError):
    """More items than the method, purpose or agreement allows."""


class BatchTooSmallError(InvalidRequestError):
    """Fewer items than the agreement asks for."""


class PersonError(SsnVaultError):
    """Something about the person on whose behalf the call is made."""


class PersonRequiredError(PersonError):
    """The purpose asks for a person and no token came."""


class PersonInvalidError(PersonError):
    """The person's token does not hold, or not through this client."""


class NotPermittedError(SsnVaultError):
    """Unknown client, domain, purpose or agreement, or no grant; the vault does not say which."""


class FrozenError(SsnVaultError):
    """An incident freeze covers this call."""


class ApprovalRequiredError(SsnVaultError):
    """More than the purpose's threshold; a second person must agree."""


class AgreementEndedError(SsnVaultError):
    """The agreement is past its end."""


class BudgetExceededError(SsnVaultError):
    """The budget of the rolling day is spent."""


class OverloadedError(SsnVaultError):
    """Too much work is waiting at the vault; try later."""


class UnavailableError(SsnVaultError):
    """The vault, or something that it needs, is away; try later. Without a reason: it could not be
    reached.
    """


class KeysUnavailableError(UnavailableError):
    """The vault has lost its keys until Vault is back."""


class StoreUnavailableError(UnavailableError):
    """The vault's database is away, or the server was ending."""


class AuditUnavailableError(UnavailableError):
    """The disclosure record cannot be sealed, so nothing is disclosed."""


class InternalError(SsnVaultError):
    """A defect of the vault; the message has an error id that its operator can look up."""


class DeadlineError(SsnVaultError):
    """No answer within the deadline. What was asked may have happened."""


_BY_REASON: dict[str, type[SsnVaultError]] = {
    "FIELD_INVALID": FieldInvalidError,
    "BATCH_TOO_LARGE": BatchTooLargeError,
    "BATCH_TOO_SMALL": BatchTooSmallError,
    "PERSON_REQUIRED": PersonRequiredError,
    "PERSON_INVALID": PersonInvalidError,
    "NOT_PERMITTED": NotPermittedError,
    "FROZEN": FrozenError,
    "APPROVAL_REQUIRED": ApprovalRequiredError,
    "AGREEMENT_ENDED": AgreementEndedError,
    "BUDGET_EXCEEDED": BudgetExceededError,
    "OVERLOADED": OverloadedError,
    "KEYS_UNAVAILABLE": KeysUnavailableError,
    "STORE_UNAVAILABLE": StoreUnavailableError,
    "AUDIT_UNAVAILABLE": AuditUnavailableError,
    "INTERNAL": InternalError,
}

# For statuses that gRPC made, and for reasons newer than this client.
_BY_STATUS: dict[str, type[SsnVaultError]] = {
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "INVALID_ARGUMENT": InvalidRequestError,
}


def error_from(failure: grpc.RpcError) -> SsnVaultError:
    """What a failed call means. `failure` is what a stub raised, of the blocking or the asyncio kind."""
    status: str = failure.code().name
    message: str = failure.details() or ""
    reason, fields, retry_after = _read_details(failure)
    if not reason:  # nobody promises for gRPC's texts, as the contract does for the vault's, to repeat no value
        message, fields = _LONG_NUMBER.sub("***", message), ()
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status, SsnVaultError)
    return kind(message, reason, status, fields, retry_after)


def _read_details(failure: grpc.RpcError) -> tuple[str, tuple[str, ...], float | None]:
    """Reason, wrong fields and seconds to wait, as far as the status holds them."""
    reason, fields, retry_after = "", (), None
    # Both kinds of call give pairs here; the stubs know only the blocking kind's.
    metadata = cast("Iterable[tuple[str, bytes]]", failure.trailing_metadata() or ())
    packed = dict(metadata).get(_DETAILS_KEY, b"")
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                reason = info.reason if info.domain == ERROR_DOMAIN else ""
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                fields = tuple(violation.field for violation in bad.field_violations)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after = delay.seconds + delay.nanos / 1e9
    except DecodeError:  # details that cannot be read are no details; code and text are still there
        return "", (), None
    return reason, fields, retry_after
