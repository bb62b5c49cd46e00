"""Every reason has one answer; no error carries more than it is meant to."""

import inspect
import re

import grpc
import pytest

from vault_service import errors
from vault_service.errors import ANSWERS, CallError, FieldProblem, ItemCode, Reason, field_invalid


def test_every_reason_has_an_answer() -> None:
    assert ANSWERS.keys() == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_an_answer_is_a_grpc_status_and_a_fixed_sentence(reason: Reason) -> None:
    answer = ANSWERS[reason]
    assert answer.status in grpc.StatusCode.__members__
    assert re.fullmatch(r"[A-Z][^{}%]*\.", answer.text)


def test_reasons_and_item_codes_are_spelled_as_they_are_named() -> None:
    assert all(reason.value == reason.name for reason in Reason)
    assert {code.value for code in ItemCode} == {
        "INVALID_SSN",
        "NOT_FOUND",
        "INVALID_TOKEN",
        "DATA_LOSS",
        "INVALID_TRAITS",
    }


def test_only_where_trying_later_helps_a_wait_is_named() -> None:
    waits = {reason for reason in Reason if ANSWERS[reason].retry_after is not None}
    assert waits == {
        Reason.BUDGET_EXCEEDED,
        Reason.OVERLOADED,
        Reason.KEYS_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
    }


def test_a_call_error_says_its_reason_and_nothing_else() -> None:
    error = CallError(Reason.FIELD_INVALID, FieldProblem("items[3].reference", "is too long"), error_id="e")
    assert str(error) == "FIELD_INVALID"
    assert error.args == ("FIELD_INVALID",)
    assert error.fields == (FieldProblem("items[3].reference", "is too long"),)
    assert error.error_id == "e"


def test_one_wrong_field_makes_a_field_invalid() -> None:
    error = field_invalid("purpose", "is required")
    assert error.reason is Reason.FIELD_INVALID
    assert error.fields == (FieldProblem("purpose", "is required"),)


def test_every_exception_of_ours_ends_in_error() -> None:
    exceptions = [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, Exception) and found.__module__ == errors.__name__
    ]
    assert exceptions
    assert all(found.__name__.endswith("Error") for found in exceptions)


def test_what_the_command_line_reports_has_one_base() -> None:
    for kind in (
        errors.ConfigurationError,
        errors.StoreError,
        errors.TamperedError,
        errors.OrderRefusedError,
        errors.PolicyInvalidError,
    ):
        assert issubclass(kind, errors.SsnVaultError)
    assert not issubclass(CallError, errors.SsnVaultError)
