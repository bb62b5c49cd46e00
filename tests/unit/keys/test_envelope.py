"""A record opens in its own place only, has one length, and is found by whoever holds the index key."""

import hmac
import os
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from vault_service.keys.envelope import (
    TRAITS_BYTES,
    DoesNotOpenError,
    Payload,
    Place,
    index_maker,
    open_list,
    open_sealed,
    request_digest,
    seal,
    seal_list,
)
from vault_service.linkage.traits import encode_traits
from vault_service.ssn import Ssn
from vault_service.tokens import Token, TokenFormat, draw_token

SSN = Ssn("900123456")
KEY = AESGCM(os.urandom(32))
TOKEN = draw_token("k12", TokenFormat.STANDARD)
PLACE = Place("k12", 1, TOKEN, os.urandom(32))


def _sealed(cipher: AESGCM = KEY, ssn: Ssn = SSN, traits: bytes | None = None, **place: Any) -> bytes:
    return seal(cipher, PLACE._replace(**place), ssn=ssn, traits=traits)


@given(st.integers(0, 10**9 - 1), st.none() | st.binary(min_size=TRAITS_BYTES, max_size=TRAITS_BYTES))
def test_a_record_opens_in_its_own_place(number: int, traits: bytes | None) -> None:
    ssn = Ssn(f"{number:09}")
    opened = open_sealed(KEY, _sealed(ssn=ssn, traits=traits), PLACE)
    assert opened == Payload(ssn, traits or bytes(TRAITS_BYTES))


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"domain": "highered"},
        {"blind_index": bytes(32)},
        {"domain": "k1"},
        {"domain": ""},
        {"version": 2},
        {"version": 11},
        {"token": draw_token("k12", TokenFormat.STANDARD)},
        {"token": Token(TOKEN.lower())},
        {"domain": "k12\x001", "version": 1},
    ],
)
def test_a_record_that_was_moved_does_not_open(elsewhere: dict[str, Any]) -> None:
    sealed = _sealed()
    with pytest.raises(DoesNotOpenError):
        open_sealed(KEY, sealed, PLACE._replace(**elsewhere))


def test_two_records_that_were_swapped_do_not_open() -> None:
    other = draw_token("k12", TokenFormat.STANDARD)
    mine, theirs = _sealed(), _sealed(ssn=Ssn("900123457"), token=other)
    with pytest.raises(DoesNotOpenError):
        open_sealed(KEY, theirs, PLACE)
    with pytest.raises(DoesNotOpenError):
        open_sealed(KEY, mine, PLACE._replace(token=other))


def test_a_record_does_not_open_under_another_key() -> None:
    with pytest.raises(DoesNotOpenError):
        open_sealed(AESGCM(os.urandom(32)), _sealed(), PLACE)


def test_any_flipped_bit_closes_a_record() -> None:
    sealed = _sealed()
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DoesNotOpenError):
            open_sealed(KEY, bytes(changed), PLACE)


def test_a_cut_or_lengthened_record_does_not_open() -> None:
    sealed = _sealed()
    for length in range(len(sealed)):
        with pytest.raises(DoesNotOpenError):
            open_sealed(KEY, sealed[:length], PLACE)
    with pytest.raises(DoesNotOpenError):
        open_sealed(KEY, sealed + b"\0", PLACE)


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01900123456", b"\x02900123456" + bytes(TRAITS_BYTES)])
def test_a_payload_of_another_form_does_not_open(payload: bytes) -> None:
    nonce = os.urandom(12)
    sealed = nonce + KEY.encrypt(nonce, payload, f"k12\0{1}\0{TOKEN}\0".encode() + PLACE.blind_index)
    with pytest.raises(DoesNotOpenError):
        open_sealed(KEY, sealed, PLACE)


def test_all_records_have_one_length() -> None:
    every = [
        None,
        encode_traits("A", "", ""),
        encode_traits("", "B", "2001-01-01"),
        encode_traits("Maximiliane" * 9, "Wolfeschlegelsteinhausen" * 4, "1999-12-31"),
    ]
    assert all(traits is None or isinstance(traits, bytes) for traits in every)
    lengths = {len(_sealed(traits=traits)) for traits in every if not hasattr(traits, "code")}
    assert lengths == {12 + 1 + 9 + TRAITS_BYTES + 16}


def test_no_two_records_share_a_nonce_or_a_ciphertext() -> None:
    sealed = [_sealed() for _ in range(5000)]
    assert len({one[:12] for one in sealed}) == len({one[12:] for one in sealed}) == 5000


def test_a_record_does_not_hold_the_number_in_the_clear() -> None:
    assert all(b"900123456" not in _sealed() for _ in range(100))


def test_a_payload_does_not_print() -> None:
    payload = Payload(SSN, b"traits")
    assert f"{payload!r} {payload} {[payload]}" == "Payload(***) Payload(***) [Payload(***)]"


# Blind index


def test_a_blind_index_is_the_same_each_time_and_another_under_another_key() -> None:
    keys = [os.urandom(32) for _ in range(50)]
    assert len({index_maker(key)(SSN) for key in keys}) == 50
    assert index_maker(keys[0])(SSN) == index_maker(keys[0])(Ssn("900123456"))
    assert index_maker(keys[0])(SSN) != index_maker(keys[0])(Ssn("900123457"))


def test_a_blind_index_is_computed_as_stored_ones_were() -> None:
    """HMAC-SHA-256 over a prefix and nine digits: another way would lose every stored row."""
    key = bytes(range(32))
    assert index_maker(key)(SSN) == hmac.new(key, b"ssn\x00900123456", "sha256").digest()


def test_a_request_digest_is_never_a_blind_index() -> None:
    key = os.urandom(32)
    for content in (b"900123456", b"ssn\x00900123456", b""):
        assert request_digest(key, content) != index_maker(key)(SSN)
    assert request_digest(key, b"a") == request_digest(key, b"a") != request_digest(key, b"b")
    assert request_digest(key, b"a") != request_digest(os.urandom(32), b"a")


# The list of a linkage event


@given(st.text(max_size=200))
def test_a_list_opens_in_its_own_place_only(lines: str) -> None:
    key = bytes(32)
    sealed = seal_list(key, "study", "event-1", lines)
    assert open_list(key, "study", "event-1", sealed) == lines
    for other_key, agreement, event in (
        (bytes(31) + b"\1", "study", "event-1"),
        (key, "another", "event-1"),
        (key, "study", "event-2"),
        (key, "study\0event", "1"),
    ):
        with pytest.raises(DoesNotOpenError):
            open_list(other_key, agreement, event, sealed)
    for changed in (sealed[:-1], sealed[:5], b"", sealed + b"\0", bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(DoesNotOpenError):
            open_list(key, "study", "event-1", changed)


def test_the_agreements_key_itself_encrypts_nothing() -> None:
    """It makes blind indexes; lists are under a key derived from it."""
    key = os.urandom(32)
    sealed = seal_list(key, "study", "event-1", "tokens")
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(sealed[:12], sealed[12:], b"study\0event-1")
