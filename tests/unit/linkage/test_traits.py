"""Traits are checked without being repeated, and encoded in one length, alike for like spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_service.errors import ItemCode, ItemError
from vault_service.linkage.traits import DATE_BYTES, LONGEST_NAME, NAME_BYTES, encode_traits


def _encoded(given_name: str = "", family_name: str = "", date_of_birth: str = "") -> bytes:
    found = encode_traits(given_name, family_name, date_of_birth)
    assert isinstance(found, bytes)
    assert len(found) == 160
    return found


def _alike(one: bytes, other: bytes) -> float:
    """The Dice coefficient of two encodings."""
    a, b = int.from_bytes(one), int.from_bytes(other)
    return 2 * (a & b).bit_count() / (a.bit_count() + b.bit_count())


def test_no_traits_are_none() -> None:
    assert encode_traits("", "", "") is None
    assert encode_traits(" ", "-'.", "") is None


def test_each_trait_has_a_place_of_its_own_and_is_zero_where_empty() -> None:
    given_name, family_name, date = _encoded("Ada"), _encoded("", "Ada"), _encoded("", "", "2005-02-28")
    assert NAME_BYTES + NAME_BYTES + DATE_BYTES == 160
    assert any(given_name[:64])
    assert not any(given_name[64:])
    assert any(family_name[64:128])
    assert not any(family_name[:64] + family_name[128:])
    assert any(date[128:])
    assert not any(date[:128])
    assert _encoded("Ada", "Ada", "2005-02-28") == given_name[:64] + family_name[64:128] + date[128:]


def test_a_given_name_is_not_encoded_as_a_family_name() -> None:
    both = _encoded("Ada", "Ada")
    assert both[:64] != both[64:128]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jose", "JOSE"),
        ("Jose", "Jos\u00e9"),
        ("Jos\u00e9", "Jose\u0301"),
        ("Mary Ann", "Maryann"),
        ("O'Neil", "ONeil"),
        ("Smith-Jones", "smith jones"),
        ("Strasse", "Stra\u00dfe"),
        (" Ada ", "Ada"),
    ],
)
def test_spellings_of_one_name_are_encoded_alike(one: str, other: str) -> None:
    assert _encoded(one) == _encoded(other)


def test_like_names_are_more_alike_than_unlike_ones() -> None:
    name = _encoded("Katherine")
    assert _alike(name, _encoded("Katharine")) > 0.6
    assert _alike(name, _encoded("Bob")) < 0.3
    assert _encoded("Ann") != _encoded("Nan")


def test_like_dates_are_more_alike_than_unlike_ones() -> None:
    date = _encoded(date_of_birth="2005-02-28")
    assert _alike(date, _encoded(date_of_birth="2005-02-27")) > 0.8
    assert _alike(date, _encoded(date_of_birth="1987-11-13")) < 0.5


@pytest.mark.parametrize(
    "name", ["Nguy\u1ec5n", "\u738b\u5c0f\u660e", "\u041e\u043b\u044c\u0433\u0430", "\u0645\u062d\u0645\u062f", "X"]
)
def test_names_in_any_script_are_encoded(name: str) -> None:
    assert any(_encoded(name)[:64])
    assert _encoded(name) != _encoded("Ada")


def test_an_encoding_is_the_same_in_every_release() -> None:
    """Stored encodings are compared with new ones: the parameters are part of the stored form."""
    assert _encoded("Ada").hex()[:32] == _encoded("ada").hex()[:32]
    assert int.from_bytes(_encoded("A")[:64]).bit_count() <= 2 * 10  # "_A" and "A_", ten bits each
    assert int.from_bytes(_encoded(date_of_birth="2005-02-28")).bit_count() <= 8 * 10


@pytest.mark.parametrize(
    "date",
    [
        "2005-02-29",
        "2005-13-01",
        "2005-00-10",
        "20050228",
        "2005-2-28",
        "28-02-2005",
        "02/28/2005",
        "2005-W09-1",
        "2005-059",
        "2005-02-28T",
        " 2005-02-28",
        "2005-02-28\n",
        "0000-01-01",
        "yesterday",
        "\uff12\uff10\uff10\uff15-02-28",
        "900-12-3456",
    ],
)
def test_a_date_that_does_not_exist_or_is_otherwise_written_is_refused(date: str) -> None:
    found = encode_traits("Ada", "", date)
    assert isinstance(found, ItemError)
    assert found.code is ItemCode.INVALID_TRAITS
    assert "date_of_birth" in found.message
    assert date.strip() not in found.message


@pytest.mark.parametrize("date", ["2004-02-29", "1900-01-01", "2026-12-31", "0001-01-01"])
def test_a_date_that_exists_is_taken(date: str) -> None:
    assert any(_encoded(date_of_birth=date)[128:])


@pytest.mark.parametrize("trait", ["given_name", "family_name"])
@pytest.mark.parametrize(
    "name", ["900-12-3456", "Ada 900123456", "\uff19\uff10\uff10\uff11\uff12\uff13456", "A" * (LONGEST_NAME + 1)]
)
def test_a_name_that_is_too_long_or_hides_a_number_is_refused_without_being_repeated(trait: str, name: str) -> None:
    found = encode_traits(name, "", "") if trait == "given_name" else encode_traits("", name, "")
    assert isinstance(found, ItemError)
    assert found.code is ItemCode.INVALID_TRAITS
    assert trait in found.message
    assert name not in found.message
    assert "900" not in found.message


def test_the_longest_name_is_taken() -> None:
    assert any(_encoded("A" * LONGEST_NAME))


@given(st.text(max_size=120), st.text(max_size=120), st.text(max_size=12))
def test_arbitrary_traits_give_160_bytes_none_or_an_error(given_name: str, family_name: str, date: str) -> None:
    found = encode_traits(given_name, family_name, date)
    assert found is None or isinstance(found, ItemError) or (len(found) == 160 and any(found))
