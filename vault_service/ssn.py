"""The SSN value: parsing, validity, masking. The one type that carries a number through the service.

Text comes in; an `Ssn` or an `ItemError` goes out. Neither repr, str, format nor pickle of an `Ssn` shows
it. What is written down elsewhere about strings that may hide a number (`contains_ssn_shape`) is here too,
because this room alone knows what a number looks like.
"""

import html
import re
import unicodedata
from collections.abc import Collection
from typing import Final, NoReturn
from urllib.parse import unquote

from vault_service.errors import ItemCode, ItemError

# Published in advertising or as an example, and therefore never anybody's (SSA, "Social Security Cards Issued
# by Woolworth"; 457-55-5462 was used in an advertising campaign).
PUBLISHED: Final = frozenset({"078051120", "219099999", "457555462"})

# A domain's default `refuse_numbers`: one digit repeated, and the keyboard row.
REFUSED_BY_DEFAULT: Final = frozenset({digit * 9 for digit in "0123456789"} | {"123456789"})

# ASCII digits only: \d and str.isdigit accept other scripts' digits.
_FORM: Final = re.compile(r"([0-9]{3})([- ]?)([0-9]{2})\2([0-9]{4})")
_INVALID: Final = ItemError(ItemCode.INVALID_SSN, "not a valid Social Security number for this domain")


class Ssn:
    """A valid nine-digit number. `digits` is the only way to it; nothing else shows it."""

    __slots__ = ("_digits",)

    def __init__(self, digits: str) -> None:
        if len(digits) != 9:
            raise ValueError("an SSN has nine digits")
        self._digits = digits

    @property
    def digits(self) -> str:
        """Nine ASCII digits, in the clear."""
        return self._digits

    @property
    def last4(self) -> str:
        """The last four digits, in the clear."""
        return self._digits[5:]

    def __repr__(self) -> str:
        return "Ssn(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Ssn is not pickled")

    __getstate__ = __reduce__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ssn) and other._digits == self._digits

    def __hash__(self) -> int:
        return hash(self._digits)


def parse_ssn(
    text: str, *, accept_fictitious: bool = False, refuse: Collection[str] = REFUSED_BY_DEFAULT
) -> Ssn | ItemError:
    """The number in `text` (`900123456`, `900-12-3456` or `900 12 3456`), or why it is none.

    Valid as SSA POMS RM 10201.035 says: area not 000, 666, 900-999; group not 00; serial not 0000; and not
    published. `accept_fictitious` also takes areas 900-999 with groups 00-49, which are neither SSNs nor
    ITINs. `refuse` holds nine-digit texts that the domain does not take. The error never holds the text.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        return _INVALID
    area, _, group, serial = form.groups()
    digits = area + group + serial
    if digits in PUBLISHED or digits in refuse:
        return _INVALID
    if area >= "900":
        return Ssn(digits) if accept_fictitious and group < "50" else _INVALID
    if area in ("000", "666") or group == "00" or serial == "0000":
        return _INVALID
    return Ssn(digits)


# Strings that may hide a number

# A UUID, with or without hyphens, and the ids of traces and spans (W3C Trace Context): random hexadecimal.
_RANDOM_ID: Final = re.compile(
    r"(?i)(?<![0-9a-z])([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{16})(?![0-9a-z])"
)
_INVISIBLE: Final = frozenset({"Cf", "Mn", "Me"})  # a control character separates, as it does in ASCII
_SEPARATOR: Final = r"[^0-9A-Za-z]{1,20}"
_DECODED_TIMES: Final = 3  # layers of percent- and entity-encoding that are taken off
_SHAPES: Final = (
    re.compile(r"(?<![0-9])[0-9]{9}(?![0-9])"),
    re.compile(rf"(?<![0-9])[0-9]{{3}}{_SEPARATOR}[0-9]{{2}}{_SEPARATOR}[0-9]{{4}}(?![0-9])"),
)
# Nine digits in any grouping, with one and the same separator between the groups: 1-2-3-4-5-6-7-8-9.
_GROUPED: Final = re.compile(r"(?<![0-9])[0-9]{1,8}([^0-9A-Za-z]{1,20})(?:[0-9]{1,8}\1)*([0-9]{1,8})(?![0-9])")


def contains_ssn_shape(text: str) -> bool:
    """Whether `text` holds nine digits that look like a number, in any spelling, script or grouping.

    Any script's digits count as digits, invisible characters do not count at all, and what is percent-encoded (RFC
    3986) or written as HTML entities is read as it is meant. A UUID or a trace's id is not searched: its digits
    would be taken for a number by chance. Dates and ten-digit numbers pass.
    """
    if _holds_number(text):
        return True
    for _ in range(_DECODED_TIMES):
        if "%" not in text and "&" not in text:
            return False
        decoded = html.unescape(unquote(text))
        if decoded == text:
            return False
        if _holds_number(decoded):
            return True
        text = decoded
    return False


def _holds_number(text: str) -> bool:
    if text.isascii():
        if sum(map(text.count, "0123456789")) < 9:
            return False
        plain = text
    else:
        plain = "".join(
            str(digit) if (digit := unicodedata.digit(character, None)) is not None else character
            for character in unicodedata.normalize("NFKD", text)
            if unicodedata.category(character) not in _INVISIBLE
        )
    plain = _RANDOM_ID.sub(" id ", plain)
    if any(shape.search(plain) for shape in _SHAPES):
        return True
    return _holds_nine_grouped(plain)


def _holds_nine_grouped(plain: str) -> bool:
    at = 0
    while found := _GROUPED.search(plain, at):
        if sum(character.isdigit() for character in found.group()) == 9:
            return True
        at = found.start(2)  # the last group of one run may be the first of the next: "4 9-0-0-.."
    return False
