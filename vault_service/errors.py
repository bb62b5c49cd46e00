"""Every way a call can fail, and the one table that maps each reason to a gRPC status.

Reasons and fixed texts live here; nothing that a caller sent may enter a text. The api room turns a
`CallError` into a `google.rpc.Status`; all other rooms only raise it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The `reason` of the ErrorInfo that a failed call carries (contract)."""

    FIELD_INVALID = "FIELD_INVALID"
    BATCH_TOO_LARGE = "BATCH_TOO_LARGE"
    BATCH_TOO_SMALL = "BATCH_TOO_SMALL"
    PERSON_REQUIRED = "PERSON_REQUIRED"
    PERSON_INVALID = "PERSON_INVALID"
    NOT_PERMITTED = "NOT_PERMITTED"
    FROZEN = "FROZEN"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    AGREEMENT_ENDED = "AGREEMENT_ENDED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    KEYS_UNAVAILABLE = "KEYS_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a reason becomes on the wire: the gRPC status name, the fixed text, seconds to wait (RetryInfo)."""

    status: str
    text: str
    retry_after: float | None = None


ANSWERS: Final[dict[Reason, _Answer]] = {
    Reason.FIELD_INVALID: _Answer("INVALID_ARGUMENT", "A field is missing or has the wrong form."),
    Reason.BATCH_TOO_LARGE: _Answer("INVALID_ARGUMENT", "More items than one call may carry."),
    Reason.BATCH_TOO_SMALL: _Answer(
        "INVALID_ARGUMENT", "Fewer different tokens that exist than the agreement asks for."
    ),
    Reason.PERSON_REQUIRED: _Answer("UNAUTHENTICATED", "The purpose needs a person's token."),
    Reason.PERSON_INVALID: _Answer("UNAUTHENTICATED", "The person's token is not valid for this client."),
    Reason.NOT_PERMITTED: _Answer("PERMISSION_DENIED", "Not permitted."),
    Reason.FROZEN: _Answer("FAILED_PRECONDITION", "An incident freeze covers this call."),
    Reason.APPROVAL_REQUIRED: _Answer("FAILED_PRECONDITION", "A second person must approve this many tokens."),
    Reason.AGREEMENT_ENDED: _Answer("FAILED_PRECONDITION", "The agreement has ended."),
    Reason.BUDGET_EXCEEDED: _Answer("RESOURCE_EXHAUSTED", "The budget of the rolling day is spent.", 3600.0),
    Reason.OVERLOADED: _Answer("RESOURCE_EXHAUSTED", "Too much work is waiting; try again later.", 1.0),
    Reason.KEYS_UNAVAILABLE: _Answer("UNAVAILABLE", "The keys are not available; try again later.", 2.0),
    Reason.STORE_UNAVAILABLE: _Answer("UNAVAILABLE", "The store is not available; try again later.", 2.0),
    Reason.AUDIT_UNAVAILABLE: _Answer("UNAVAILABLE", "The record cannot be kept; try again later.", 2.0),
    Reason.INTERNAL: _Answer("INTERNAL", "An internal error happened."),
}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong field: its path in the request (`items[3].reference`) and what is wrong, never its value."""

    path: str
    problem: str


class CallError(Exception):
    """A call fails as a whole, for one reason. Its text is fixed; `fields` says which fields are wrong."""

    def __init__(self, reason: Reason, *fields: FieldProblem, error_id: str | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.fields = fields
        self.error_id = error_id


class NotBegunError(CallError):
    """A call that was refused before it came to a transaction: it has no event, and is only counted."""


def field_invalid(path: str, problem: str) -> CallError:
    """The error for one wrong field."""
    return CallError(Reason.FIELD_INVALID, FieldProblem(path, problem))


class ItemCode(StrEnum):
    """Why one item of a batch has no result (contract: ItemError.Code)."""

    INVALID_SSN = "INVALID_SSN"
    NOT_FOUND = "NOT_FOUND"
    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 - a code of the contract, not a password
    DATA_LOSS = "DATA_LOSS"
    INVALID_TRAITS = "INVALID_TRAITS"


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item of a batch failed; the rest of the batch goes on."""

    code: ItemCode
    message: str


class SsnVaultError(Exception):
    """Base of what the command line and the start report in words: what is wrong and what mends it."""


class ConfigurationError(SsnVaultError):
    """A setting is missing, unknown or wrong; names the setting, never a secret."""


class StoreError(SsnVaultError):
    """The database is away, unsafe, of an unknown schema version, or has been rolled back."""


class TamperedError(StoreError):
    """What the database says about policy, orders or approvals is not what people signed."""


class LogDamagedError(SsnVaultError):
    """The stored log of events is not what was signed, or does not hold together: nothing more is signed over it."""


class NotFoundError(SsnVaultError):
    """What was asked for does not stand in the record."""


class NotSealedError(SsnVaultError):
    """No checkpoint covers it yet."""


class SigningError(SsnVaultError):
    """Vault gave no signature for a checkpoint; worth another attempt."""


class OrderRefusedError(SsnVaultError):
    """A signed order is not valid, not fresh, or not allowed."""


class MoreSignaturesNeededError(OrderRefusedError):
    """Too few of those who signed have the right to: the order may still be signed by another person."""


class PolicyInvalidError(SsnVaultError):
    """The policy file has mistakes; one line each, with line number and field."""
