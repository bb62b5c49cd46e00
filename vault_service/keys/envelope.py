"""The envelope around one record: payload, encryption, blind index. Pure functions over key bytes.

A number with its encoded traits comes in, a ciphertext that opens only in its own place goes out, and back.
AES-256-GCM with random 96-bit nonces (NIST SP 800-38D), HMAC-SHA-256 (FIPS 198-1).
"""

import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault_service.randomness import random_bytes
from vault_service.ssn import Ssn
from vault_service.tokens import Token

TRAITS_BYTES: Final = 160  # every payload has room for traits, so that its length says nothing
_FORM: Final = b"\x01"
_NONCE_BYTES: Final = 12
_NO_TRAITS: Final = bytes(TRAITS_BYTES)
_PAYLOAD_BYTES: Final = len(_FORM) + 9 + TRAITS_BYTES


class DoesNotOpenError(Exception):
    """A ciphertext is damaged, or does not belong where it stands."""


class Payload(NamedTuple):
    """What a record keeps: the number, and its encoded traits (all zero when it has none)."""

    ssn: Ssn
    traits: bytes

    def __repr__(self) -> str:
        return "Payload(***)"


def index_maker(key: bytes) -> Callable[[Ssn], bytes]:
    """Makes the 32 bytes under which a number is found again, by whoever holds the index key.

    HMAC-SHA-256 over "ssn", a zero byte and the nine digits. Set up once for many numbers: that costs more
    than a number does.
    """
    keyed = HMAC(key, SHA256())
    keyed.update(b"ssn\0")

    def blind_index(ssn: Ssn) -> bytes:
        mac = keyed.copy()
        mac.update(ssn.digits.encode())
        return mac.finalize()

    return blind_index


def request_digest(key: bytes, content: bytes) -> bytes:
    """A keyed digest of what a request asked for; another use of the index key, kept apart by its prefix."""
    return hmac.digest(key, b"request\0" + content, "sha256")


class Place(NamedTuple):
    """Where a record stands. All of it is associated data: a payload opens nowhere else."""

    domain: str
    version: int  # of the data key
    token: Token
    blind_index: bytes


def seal(cipher: AESGCM, place: Place, *, ssn: Ssn, traits: bytes | None) -> bytes:
    """Nonce, ciphertext and tag of a payload that opens only in its place."""
    payload = _FORM + ssn.digits.encode() + (traits or _NO_TRAITS)
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, payload, _associated(place))


def open_sealed(cipher: AESGCM, ciphertext: bytes, place: Place) -> Payload:
    """The payload of a record. DoesNotOpenError when it was changed, moved or swapped."""
    try:
        payload = cipher.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], _associated(place))
    except (InvalidTag, ValueError, TypeError):  # TypeError: somebody changed the column's type
        raise DoesNotOpenError from None
    if len(payload) != _PAYLOAD_BYTES or payload[:1] != _FORM:
        raise DoesNotOpenError
    return Payload(Ssn(payload[1:10].decode("ascii")), payload[10:])


def seal_list(key: bytes, agreement: str, event_id: str, lines: str) -> bytes:
    """The encrypted list of tokens of one linkage event, under a key derived from the agreement's key."""
    nonce = random_bytes(_NONCE_BYTES)
    associated = f"{agreement}\0{event_id}".encode()
    return nonce + _list_cipher(key).encrypt(nonce, lines.encode(), associated)


def open_list(key: bytes, agreement: str, event_id: str, ciphertext: bytes) -> str:
    """What `seal_list` sealed. DoesNotOpenError when it was changed or moved."""
    associated = f"{agreement}\0{event_id}".encode()
    try:
        opened = _list_cipher(key).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise DoesNotOpenError from None
    return opened.decode()


def _associated(place: Place) -> bytes:
    return f"{place.domain}\0{place.version}\0{place.token}\0".encode() + place.blind_index


def _list_cipher(key: bytes) -> AESGCM:
    # HKDF (RFC 5869): the agreement's key itself only ever makes blind indexes.
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=b"ssn-vault linkage record 1").derive(key))
