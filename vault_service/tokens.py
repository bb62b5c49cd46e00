"""Tokens: random names that stand for a number in one domain, with a check character against typing errors.

Random bytes come in, texts go out, and back: a text comes in, the canonical token or None goes out. Nothing
here is derived from a number. The token format is changed here and nowhere else.
"""

import re
from enum import StrEnum
from typing import Final, NewType

from vault_service.randomness import random_bytes

Token = NewType("Token", str)

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32 characters: no 0, 1, I, O
DOMAIN_NAME: Final = re.compile(r"[a-z][a-z0-9]{1,15}")

_VALUE: Final = {character: value for value, character in enumerate(ALPHABET)}
_BODY: Final = 26  # characters: 128 random bits, and two that are zero
_COLUMN: Final = 8  # characters before the check character of a column token
_LETTERS: Final = ALPHABET[8:]


class TokenFormat(StrEnum):
    """How a domain's tokens look."""

    STANDARD = "standard"
    SSN_COLUMN = "ssn_column"  # nine characters, about 38 bits: weaker, for columns that cannot be widened


def _powers() -> list[int]:
    """Powers of a primitive element of GF(32), modulo x^5 + x^2 + 1."""
    powers = [1]
    for _ in range(30):
        value = powers[-1] << 1
        powers.append(value ^ 0b100101 if value & 32 else value)
    return powers


_POWERS: Final = _powers()
_LOGARITHM: Final = {value: exponent for exponent, value in enumerate(_POWERS)}


def _times_power(value: int, exponent: int) -> int:
    return _POWERS[(_LOGARITHM[value] + exponent) % 31] if value else 0


# _CHECK[position][value]: what a character contributes to the check character.
_CHECK: Final = [[_times_power(value, position + 1) for value in range(32)] for position in range(_BODY)]


def _check_character(values: list[int]) -> str:
    """One character over GF(32): it changes with any single character and any swap of two different ones."""
    check = 0
    for row, value in zip(_CHECK, values, strict=False):
        check ^= row[value]
    return ALPHABET[check]


# Two characters at a time, with what both contribute to the check: drawing a token is on the hot path.
_PAIRS: Final = [ALPHABET[pair >> 5] + ALPHABET[pair & 31] for pair in range(1024)]
_PAIR_CHECKS: Final = [
    [_CHECK[2 * index][pair >> 5] ^ _CHECK[2 * index + 1][pair & 31] for pair in range(1024)]
    for index in range(_BODY // 2)
]
_STEPS: Final = [(120 - 10 * index, _PAIR_CHECKS[index]) for index in range(_BODY // 2)]


def draw_body() -> str:
    """128 random bits as 26 characters and their check character."""
    bits = int.from_bytes(random_bytes(16))
    check = 0
    body = []
    for shift, checks in _STEPS:
        pair = (bits >> shift) & 1023
        check ^= checks[pair]
        body.append(_PAIRS[pair])
    body.append(ALPHABET[check])
    return "".join(body)


def draw_token(domain: str, token_format: TokenFormat) -> Token:
    """A new random token for `domain`: `<domain>_<body>`, or nine characters for `ssn_column`."""
    if token_format is TokenFormat.STANDARD:
        return Token(f"{domain}_{draw_body()}")
    while True:
        values = [byte & 31 for byte in random_bytes(_COLUMN)]
        if values[0] >= 8:  # a letter first; drawn again rather than folded, so that each is as likely
            return Token("".join(ALPHABET[value] for value in values) + _check_character(values))


def parse_token(text: str, domain: str, token_format: TokenFormat) -> Token | None:
    """The canonical form of a token, or None for what cannot be one (wrong form or check character).

    A well-formed standard token of another domain is given back in canonical form too: whether it exists in
    `domain` is for the look-up to say.
    """
    if len(text) > 64 or not text.isascii():  # other scripts' letters can become ours in another case
        return None
    if token_format is TokenFormat.SSN_COLUMN:
        body = text.upper()
        well_formed = len(body) == _COLUMN + 1 and body[0] in _LETTERS and _checks(body)
        return Token(body) if well_formed else None
    prefix, found, body = text.partition("_")
    prefix, body = prefix.lower(), body.upper()
    well_formed = bool(found) and DOMAIN_NAME.fullmatch(prefix) is not None and _is_body(body)
    return Token(f"{prefix}_{body}") if well_formed else None


def is_token_shaped(text: str) -> bool:
    """Whether `text` is a well-formed token in either format, of any domain."""
    return any(parse_token(text, "", token_format) is not None for token_format in TokenFormat)


def _is_body(body: str) -> bool:
    return len(body) == _BODY + 1 and _checks(body) and _VALUE[body[0]] < 8


def _checks(body: str) -> bool:
    try:
        values = [_VALUE[character] for character in body]
    except KeyError:
        return False
    return _check_character(values[:-1]) == body[-1]
