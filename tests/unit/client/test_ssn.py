"""Numbers do not print: not the value itself, not what holds it, not the complaint about a wrong type."""

import copy
import json
import pickle
from dataclasses import asdict

import pytest

from ssn_vault_client import (
    Detokenized,
    Disclosure,
    ItemError,
    ItemErrorCode,
    LinkageItem,
    Linked,
    MatchStatus,
    Ssn,
    SsnRelation,
    Tokenized,
    TokenizeItem,
    Traits,
)

CANARY = "900-12-3456"


def test_a_number_shows_itself_only_when_asked() -> None:
    ssn = Ssn(CANARY)
    shown = [repr(ssn), str(ssn), f"{ssn}", f"{ssn!r}", f"{ssn:>20}", "%s %r" % (ssn, ssn), str([ssn]), str({ssn: 1})]  # noqa: UP031 - this form too
    assert not [text for text in shown if "900" in text or "3456" in text]
    assert f"{ssn:>12}" == "    Ssn(***)"
    assert ssn.reveal() == CANARY
    assert ssn.last4 == "3456"
    assert Ssn("12").last4 == "12"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_number_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps([Ssn(CANARY)], protocol)


def test_a_number_has_no_other_way_out() -> None:
    ssn = Ssn(CANARY)
    with pytest.raises(TypeError):
        json.dumps(ssn)
    with pytest.raises(TypeError):
        vars(ssn)
    with pytest.raises(TypeError):
        ssn.__getstate__()
    assert copy.copy(ssn) is copy.deepcopy(ssn) is ssn
    assert CANARY not in str(asdict(TokenizeItem(ssn)))


def test_numbers_are_equal_when_their_text_is() -> None:
    assert Ssn(CANARY) == Ssn(CANARY)
    assert hash(Ssn(CANARY)) == hash(Ssn(CANARY))
    assert Ssn(CANARY) != Ssn("900123456")
    assert Ssn(CANARY) != CANARY
    assert Ssn("\uff1900123456") == Ssn("\uff1900123456")


def test_nothing_that_holds_what_a_caller_sent_prints_it() -> None:
    ssn, error = Ssn(CANARY), ItemError(ItemErrorCode.INVALID_TOKEN, "not a token")
    values: list[object] = [
        Traits(CANARY, CANARY, CANARY),
        TokenizeItem(ssn, CANARY, Traits(CANARY)),
        LinkageItem(CANARY, CANARY),
        Tokenized(CANARY, "k12_A", None),
        Detokenized(CANARY, ssn, None),
        Disclosure("d-1", (Detokenized(CANARY, None, error), Detokenized("k12_A", ssn, None))),
        Linked(CANARY, MatchStatus.EXACT, "l-1", SsnRelation.SAME, 1.0, None),
    ]
    for value in values:
        assert "900" not in repr(value)
        assert "3456" not in f"{value}"


def test_a_value_of_a_wrong_type_is_refused_without_being_shown() -> None:
    for make in (
        lambda: Ssn(900123456),  # type: ignore[arg-type] # the mistake that is tested
        lambda: TokenizeItem(CANARY),  # type: ignore[arg-type] # the mistake that is tested
        lambda: TokenizeItem(Ssn(""), 900123456),  # type: ignore[arg-type] # the mistake that is tested
        lambda: LinkageItem(900123456),  # type: ignore[arg-type] # the mistake that is tested
        lambda: Traits(b"900123456"),  # type: ignore[arg-type] # the mistake that is tested
    ):
        with pytest.raises(TypeError, match=r"^\w+ must be \w+, not \w+$") as caught:
            make()
        assert "900" not in repr(caught.value)


def test_text_that_utf8_cannot_carry_is_refused_without_being_kept() -> None:
    with pytest.raises(ValueError, match=r"^ssn holds a character") as caught:
        Ssn(CANARY + "\ud800")
    assert caught.value.__context__ is None
