"""Traits: names and birth date, checked, and encoded as Bloom filters with public parameters.

Texts come in, 160 bytes or an ItemError go out. The encoding alone protects nothing: whoever knows its
parameters can test names against it. It lives only inside the encrypted payload, which does.
(Schnell, Bachteler, Reiher: Privacy-preserving record linkage using Bloom filters, 2009.)
"""

import unicodedata
from datetime import date
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from vault_service.errors import ItemCode, ItemError
from vault_service.ssn import contains_ssn_shape

NAME_BYTES: Final = 64  # 512 bits a name
DATE_BYTES: Final = 32  # 256 bits for the date of birth
LONGEST_NAME: Final = 100  # characters
_HASHES: Final = 10  # bits set for each pair of letters or digit in its place


def encode_traits(given_name: str, family_name: str, date_of_birth: str) -> bytes | ItemError | None:
    """64 bytes given name, 64 bytes family name, 32 bytes date of birth; all zero where a trait is empty.

    None when all are empty. INVALID_TRAITS, naming the trait and never its value, for a date that is not
    `YYYY-MM-DD` or does not exist, and for a name that is too long or holds what looks like an SSN.
    """
    for trait, name in (("given_name", given_name), ("family_name", family_name)):
        if len(name) > LONGEST_NAME or contains_ssn_shape(name):
            return ItemError(ItemCode.INVALID_TRAITS, f"traits.{trait} is too long or holds a number")
    if date_of_birth and not _is_date(date_of_birth):
        return ItemError(ItemCode.INVALID_TRAITS, "traits.date_of_birth must be an existing day, YYYY-MM-DD")
    encoded = _encode_name("g", given_name) + _encode_name("f", family_name) + _encode_date(date_of_birth)
    return encoded if any(encoded) else None


def _is_date(text: str) -> bool:
    if len(text) != 10 or not text.isascii():
        return False
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@lru_cache(maxsize=4096)  # names repeat; the cache holds encodings of names alone, never beside a number
def _encode_name(kind: str, name: str) -> bytes:
    """Pairs of letters of the name in capitals, without accents, spaces and punctuation."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name).upper() if c.isalpha())
    if not letters:
        return bytes(NAME_BYTES)
    padded = f"_{letters}_"
    return _bloom([kind + padded[at : at + 2] for at in range(len(padded) - 1)], NAME_BYTES)


def _encode_date(text: str) -> bytes:
    """Each digit in its place: one wrong digit changes one eighth of the bits."""
    digits = text.replace("-", "")
    return (
        _bloom([f"d{place}{digit}" for place, digit in enumerate(digits)], DATE_BYTES) if digits else bytes(DATE_BYTES)
    )


def _bloom(features: list[str], size: int) -> bytes:
    bits = 0
    for feature in features:
        digest = blake2b(feature.encode(), digest_size=2 * _HASHES, person=b"ssn-vault-bloom1").digest()
        for at in range(0, len(digest), 2):
            bits |= 1 << (int.from_bytes(digest[at : at + 2]) % (8 * size))
    return bits.to_bytes(size)
