"""Which texts are numbers, that a number never shows itself, and that texts which hide one are found."""

import copy
import logging
import pickle
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_service.errors import ItemCode, ItemError
from vault_service.ssn import PUBLISHED, REFUSED_BY_DEFAULT, Ssn, contains_ssn_shape, parse_ssn

CANARY = "900123456"  # an area that is nobody's
AREA, GROUP, SERIAL = CANARY[:3], CANARY[3:5], CANARY[5:]


def _refused(text: str, *, fictitious: bool = False, refuse: frozenset[str] = REFUSED_BY_DEFAULT) -> bool:
    found = parse_ssn(text, accept_fictitious=fictitious, refuse=refuse)
    if isinstance(found, ItemError):
        assert found.code is ItemCode.INVALID_SSN
        assert not any(character.isdigit() for character in found.message)
        return True
    return False


def _digits(area: int, group: int, serial: int) -> str:
    """Made when the test runs, so that no real number stands in a file."""
    return f"{area:03}{group:02}{serial:04}"


valid_numbers = st.builds(
    _digits,
    st.integers(1, 899).filter(lambda area: area != 666),
    st.integers(1, 99),
    st.integers(1, 9999),
).filter(lambda digits: digits not in PUBLISHED | REFUSED_BY_DEFAULT)
fictitious_numbers = st.builds(_digits, st.integers(900, 999), st.integers(0, 49), st.integers(0, 9999)).filter(
    lambda digits: digits not in REFUSED_BY_DEFAULT
)


# What is a number


@given(valid_numbers)
def test_a_valid_number_is_taken_in_each_of_the_three_forms(digits: str) -> None:
    for separator in ("", "-", " "):
        assert parse_ssn(separator.join((digits[:3], digits[3:5], digits[5:]))) == Ssn(digits)


_ENDS = ["", "", "", " ", "\n", "\t", "-", "0", "x", "\u200b"]
_SEPARATORS = ["", "-", " ", ".", "_", "--", "  ", "- ", "\n", "\t", "\u00a0", "\u2010", "\u2011", "\u2013", "\u200b"]


@given(
    fictitious_numbers,
    st.sampled_from(_SEPARATORS),
    st.sampled_from(_SEPARATORS),
    st.sampled_from(_ENDS),
    st.sampled_from(_ENDS),
)
def test_exactly_the_three_forms_are_taken(digits: str, first: str, second: str, before: str, after: str) -> None:
    text = before + digits[:3] + first + digits[3:5] + second + digits[5:] + after
    shape = "".join("d" if character in "0123456789" else character for character in text)
    expected = shape in ("ddddddddd", "ddd-dd-dddd", "ddd dd dddd")
    assert _refused(text, fictitious=True) is not expected


@given(st.text(alphabet="0123456789- \n.", max_size=13) | st.text(max_size=13))
def test_arbitrary_text_gives_a_number_only_when_it_has_a_form(text: str) -> None:
    shape = "".join("d" if character in "0123456789" else character for character in text)
    found = parse_ssn(text, accept_fictitious=True, refuse=())
    if isinstance(found, Ssn):
        assert shape in ("ddddddddd", "ddd-dd-dddd", "ddd dd dddd")
        assert found.digits == "".join(character for character in text if character in "0123456789")


@pytest.mark.parametrize("cut", [3, 5])
@pytest.mark.parametrize("separator", ["-", " "])
def test_one_separator_alone_is_no_form(cut: int, separator: str) -> None:
    assert _refused(CANARY[:cut] + separator + CANARY[cut:], fictitious=True)


def _zeros_of_all_scripts() -> list[str]:
    return [
        chr(code)
        for code in range(0x80, 0x110000)
        if unicodedata.category(chr(code)) == "Nd" and unicodedata.decimal(chr(code)) == 0
    ]


def _in_script(text: str, zero: str) -> str:
    return "".join(chr(ord(zero) + int(character)) if character.isdigit() else character for character in text)


def test_digits_of_any_other_script_are_refused() -> None:
    zeros = _zeros_of_all_scripts()
    assert {"\uff10", "\u0660", "\u06f0", "\u0966"} <= set(zeros)  # full-width, Arabic, Persian, Devanagari
    for zero in zeros:
        assert _refused(_in_script(CANARY, zero), fictitious=True)
        assert _refused(_in_script(CANARY[0], zero) + CANARY[1:], fictitious=True)


# Which numbers are valid


@given(st.sampled_from([0, 666, *range(900, 1000)]), st.integers(0, 99), st.integers(0, 9999))
def test_areas_that_are_never_given_out_are_refused(area: int, group: int, serial: int) -> None:
    assert _refused(_digits(area, group, serial), refuse=frozenset())


@given(st.integers(1, 899), st.integers(0, 9999))
def test_group_00_is_refused(area: int, serial: int) -> None:
    assert _refused(_digits(area, 0, serial))


@given(st.integers(1, 899), st.integers(0, 99))
def test_serial_0000_is_refused(area: int, group: int) -> None:
    assert _refused(_digits(area, group, 0))


@pytest.mark.parametrize("digits", sorted(PUBLISHED))
@pytest.mark.parametrize("fictitious", [True, False])
def test_published_numbers_are_refused_whatever_the_domain_says(digits: str, fictitious: bool) -> None:
    assert _refused(digits, fictitious=fictitious, refuse=frozenset())
    assert _refused(f"{digits[:3]}-{digits[3:5]}-{digits[5:]}", fictitious=fictitious, refuse=frozenset())


def test_the_published_numbers_are_those_of_the_design() -> None:
    assert {"078051120", "219099999", "457555462"} == PUBLISHED


def test_by_default_one_digit_repeated_and_the_keyboard_row_are_refused() -> None:
    row = "".join(map(str, range(1, 10)))
    assert {digit * 9 for digit in "0123456789"} | {row} == REFUSED_BY_DEFAULT
    for digits in REFUSED_BY_DEFAULT:
        assert _refused(digits, fictitious=True)
    assert parse_ssn(row, refuse=()) == Ssn(row)
    assert parse_ssn("1" * 9, refuse=()) == Ssn("1" * 9)


@given(fictitious_numbers)
def test_a_domain_can_refuse_numbers_of_its_own(digits: str) -> None:
    assert _refused(digits, fictitious=True, refuse=frozenset({digits}))
    assert _refused(f"{digits[:3]} {digits[3:5]} {digits[5:]}", fictitious=True, refuse=frozenset({digits}))


@given(st.integers(900, 999), st.integers(0, 49), st.integers(0, 9999))
def test_fictitious_numbers_with_any_serial_are_taken_where_the_domain_says_so(
    area: int, group: int, serial: int
) -> None:
    digits = _digits(area, group, serial)
    assert parse_ssn(digits, accept_fictitious=True, refuse=()) == Ssn(digits)
    assert _refused(digits, refuse=frozenset())


@given(st.integers(900, 999), st.integers(50, 99), st.integers(0, 9999))
def test_itins_and_atins_are_never_taken(area: int, group: int, serial: int) -> None:
    assert _refused(_digits(area, group, serial), fictitious=True, refuse=frozenset())


@given(valid_numbers)
def test_a_fictitious_domain_still_takes_valid_numbers(digits: str) -> None:
    assert parse_ssn(digits, accept_fictitious=True) == Ssn(digits)


# A number never shows itself


@dataclass
class _Holder:
    ssn: Ssn


class _HoldsError(Exception):
    pass


def _shows(text: str) -> bool:
    digits = "".join(character for character in text if character.isdigit())
    return any(part in digits for part in (CANARY, AREA + GROUP, SERIAL))


_VIEWS: list[Callable[[Ssn], str]] = [
    repr,
    str,
    lambda ssn: f"{ssn}",
    lambda ssn: f"{ssn!r:>20}",
    lambda ssn: f"{ssn:>20}",
    lambda ssn: format(ssn, "s"),
    lambda ssn: "%s %r" % (ssn, ssn),  # noqa: UP031 - this form too
    lambda ssn: str([ssn]),
    lambda ssn: str({ssn: ssn}),
    lambda ssn: repr(_Holder(ssn)),
    lambda ssn: str(_HoldsError("refused", ssn)),
    lambda ssn: repr(KeyError(ssn)),
    lambda ssn: repr(_HoldsError(_Holder(ssn)).args),
    lambda ssn: "".join(traceback.format_exception(_HoldsError(ssn))),
    lambda ssn: logging.LogRecord("x", 1, "p", 1, "%s", (ssn,), None).getMessage(),
    lambda ssn: str(ItemError(ItemCode.INVALID_SSN, f"{ssn}")),
]


@pytest.mark.parametrize("view", _VIEWS)
def test_a_number_does_not_print(view: Callable[[Ssn], str]) -> None:
    assert not _shows(view(Ssn(CANARY)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda ssn: ssn, lambda ssn: [ssn], _Holder, _HoldsError])
def test_a_number_is_not_pickled(protocol: int, wrap: Callable[[Ssn], object]) -> None:
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(wrap(Ssn(CANARY)), protocol)
    assert not _shows(str(caught.value))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copying_a_number_shows_nothing(duplicate: Callable[[Ssn], object]) -> None:
    with pytest.raises(TypeError) as caught:
        duplicate(Ssn(CANARY))
    assert not _shows("".join(traceback.format_exception(caught.value)))


def test_a_number_has_no_dictionary_and_gives_no_state() -> None:
    with pytest.raises(TypeError):
        vars(Ssn(CANARY))
    with pytest.raises(TypeError):
        Ssn(CANARY).__getstate__()


def test_only_digits_and_last4_give_the_number() -> None:
    ssn = Ssn(CANARY)
    assert ssn.digits == CANARY
    assert ssn.last4 == SERIAL
    public = {name for name in dir(ssn) if not name.startswith("_")}
    assert public == {"digits", "last4"}


def test_a_wrong_length_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="nine digits") as caught:
        Ssn(CANARY[:8])
    assert not _shows(str(caught.value))


def test_numbers_are_equal_when_their_digits_are() -> None:
    assert Ssn(CANARY) == Ssn(CANARY)
    assert len({Ssn(CANARY), Ssn(CANARY), Ssn("900123457")}) == 2
    assert Ssn(CANARY) != CANARY


# Texts that hide a number


def _category(*names: str) -> list[str]:
    return [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in names]


def test_every_dash_of_unicode_is_seen_through() -> None:
    dashes = _category("Pd")
    assert len(dashes) > 20
    for dash in [*dashes, "\u2212", "_", ".", "/", ",", ":", "\u00b7", "\u2022"]:
        assert contains_ssn_shape(dash.join((AREA, GROUP, SERIAL))), f"U+{ord(dash):04X}"
        assert contains_ssn_shape(f"about {AREA} {dash} {GROUP} {dash} {SERIAL}, please"), f"U+{ord(dash):04X}"


def test_every_space_of_unicode_is_seen_through() -> None:
    for space in [*_category("Zs", "Zl", "Zp"), "\t", "\n", "\r\n"]:
        assert contains_ssn_shape(space.join((AREA, GROUP, SERIAL))), ascii(space)
        assert len(space) > 1 or contains_ssn_shape(space.join(CANARY)), ascii(space)


def test_every_invisible_character_is_seen_through() -> None:
    invisible = _category("Cf")
    assert {"\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202e"} <= set(invisible)
    for character in [*invisible, "\u0301", "\u20e3", "\ufe0f\u20e3"]:
        assert contains_ssn_shape(character.join(CANARY)), ascii(character)
        assert contains_ssn_shape(f"{character}-".join((AREA, GROUP, SERIAL))), ascii(character)
        assert contains_ssn_shape(CANARY[:4] + character + CANARY[4:]), ascii(character)
        assert contains_ssn_shape(f"{AREA[0]}{character}{AREA[1:]}-{GROUP}-{SERIAL}"), ascii(character)


def test_digits_of_every_script_are_seen_through() -> None:
    for zero in _zeros_of_all_scripts():
        text = _in_script(CANARY, zero)
        assert contains_ssn_shape(text), ascii(text)
        assert contains_ssn_shape(f"{text[:3]}-{text[3:5]}-{text[5:]}"), ascii(text)


def test_circled_and_raised_digits_are_seen_through() -> None:
    for digits in (
        "\u24ea\u2460\u2461\u2462\u2463\u2464\u2465\u2466\u2467\u2468",
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079",
    ):
        assert contains_ssn_shape("".join(digits[int(digit)] for digit in CANARY))


@given(fictitious_numbers, st.sets(st.integers(1, 8), min_size=1), st.sampled_from(list("-. /_:,;|~+=#")))
def test_nine_digits_are_found_in_any_grouping(digits: str, cuts: set[int], separator: str) -> None:
    edges = [0, *sorted(cuts), 9]
    text = separator.join(digits[edges[i] : edges[i + 1]] for i in range(len(edges) - 1))
    assert contains_ssn_shape(text)
    assert contains_ssn_shape(f"The student said {text}.")
    assert contains_ssn_shape(f"Jos\u00e9 said {text}!")


@pytest.mark.parametrize("before", ["4 ", "Room 12 ", "in 2026, ", "2026-11-24 ", "1) ", "3: "])
@pytest.mark.parametrize("text", ["-".join(CANARY), "900-123456", "90.01.23.45.6", "900-12-3456"])
def test_another_number_before_it_hides_none(before: str, text: str) -> None:
    assert contains_ssn_shape(before + text)


@pytest.mark.parametrize("after", ["\n2 students", "\t1", " 2", ", 3 of 4"])
@pytest.mark.parametrize("name", ["Jose", "Jos\u00e9"])
def test_another_number_after_it_hides_none(name: str, after: str) -> None:
    assert contains_ssn_shape(f"{name} {CANARY}{after}")


@pytest.mark.parametrize(
    "text",
    [
        f"ssn{CANARY}",
        f"{CANARY}abc",
        f"SSN#{AREA}-{GROUP}-{SERIAL}x",
        f"a{AREA}-{GROUP}-{SERIAL}b",
        f"case_{CANARY}_closed",
        f'{{"note":"{CANARY}"}}',
        f"({AREA}) {GROUP}-{SERIAL}",
        f"{AREA} - {GROUP} - {SERIAL}",
        f"{AREA}. {GROUP}-{SERIAL}",
        f"{AREA}\x00{GROUP}\x00{SERIAL}",
        f"1-{AREA}-{GROUP}-{SERIAL}",
        f"01890a5d-ac96-774b-bcce-b302099a8057 and {CANARY}",
        f"{AREA} --- {GROUP} --- {SERIAL}",
        f"{AREA} . . . . {GROUP} . . {SERIAL}",
        "  -  ".join(CANARY),
        f"{AREA}%2D{GROUP}%2D{SERIAL}",
        f"{AREA}%252d{GROUP}%252d{SERIAL}",
        "".join(f"%3{digit}" for digit in CANARY),
        f"{AREA}&#45;{GROUP}&#x2D;{SERIAL}",
        f"{AREA}&nbsp;{GROUP}&ndash;{SERIAL}",
        "".join(f"&#{ord(digit)};" for digit in CANARY),
        f"{AREA}%26%2345%3B{GROUP}-{SERIAL}",
        f"Jos\u00e9 {AREA}%E2%80%93{GROUP}%E2%80%93{SERIAL}",
    ],
)
def test_a_number_embedded_in_other_text_is_found(text: str) -> None:
    assert contains_ssn_shape(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Registrar confirms a transcript request",
        "2026-11-24",
        "11/24/2026",
        "20261124",
        "born 2005-02-28, enrolled 2023-08-15",
        "from 2024-07-01 to 2034-06-30",
        "2026-11-24T01:48:14Z",
        "2026-11-24 01:48:14",
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "12345678-1234-7234-8234-123456789012",
        "573-555-0100",
        "(573) 555-0100",
        "573.555.0100",
        "5735550100",
        "+1 573 555 0100",
        "call 573-555-0100 or 573-555-0199",
        "$1,234,567.89",
        "$12,000.00",
        "USD 2500.00 of 5000.00",
        "12345678",
        "room 12, floor 3, seat 456",
        "34 CFR 99.31(a)(6)",
        "100% of 2,345 records & 12 of 400",
        "https://forms.example.org/?case=4711%2F2026&step=3",
        "Stra\u00dfe 12, 65101 M\u00fcnchen",
        "\u0661\u0662\u0663",
    ],
)
def test_what_is_no_number_passes(text: str) -> None:
    assert not contains_ssn_shape(text)


@given(st.text())
def test_searching_never_raises(text: str) -> None:
    contains_ssn_shape(text)
