"""Checkpoints as text: the tree's head, signed (C2SP signed-note, tlog-checkpoint, tlog-witness).

    example.org/audit                                 origin: which log
    20852163                                          entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      root, base64
    time 1764018000123                                when it was signed, ms since 1970 (extension line)

    — example.org/audit Az3grl...                     the log's signature, then a witness's cosignature

Values come in and text goes out, and back. The verifier reads them with code of its own.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.errors import LogDamagedError

ED25519: Final = b"\x01"  # signature types of signed-note
COSIGNATURE: Final = b"\x04"
CLOCK_MS: Final = 60_000  # by which the clocks of servers and the database may differ
_MARK: Final = "— "
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its origin, entries, root (32 bytes), and when that was signed (ms since 1970)."""

    origin: str
    size: int
    root: bytes
    at_ms: int

    @property
    def seen(self) -> tuple[int, bytes, int]:
        """Size, root and time."""
        return self.size, self.root, self.at_ms

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {self.at_ms}\n"

    def note(self, lines: Iterable[str]) -> str:
        """The text with its signature lines."""
        return self.text + "\n" + "".join(lines)


class _Signature(Protocol):
    @property
    def public_key(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...


class Signer(Protocol):
    """The log's key. Both raise SigningError."""

    def sign(self, text: bytes) -> _Signature:
        """An Ed25519 signature, and the public key that proves it."""
        ...

    def public_keys(self, *, anew: bool = False) -> Sequence[bytes]:
        """The public keys of all versions that are known, or asked for anew."""
        ...


def key_id(name: str, kind: bytes, public_key: bytes) -> bytes:
    """The four bytes that name a key in a signature line; `public_key` is 32 raw bytes (RFC 8032)."""
    return sha256(name.encode() + b"\n" + kind + public_key).digest()[:4]


def signature_line(name: str, kind: bytes, public_key: bytes, signature: bytes) -> str:
    """One signature under a note, with its line end."""
    return f"{_MARK}{name} {base64.b64encode(key_id(name, kind, public_key) + signature).decode()}\n"


def verifier_key(name: str, kind: bytes, public_key: bytes) -> str:
    """A key as others are told it (signed-note's vkey): NAME+ID+KEY."""
    return f"{name}+{key_id(name, kind, public_key).hex()}+{base64.b64encode(kind + public_key).decode()}"


def parse_signed(note: str, public_keys: Iterable[bytes]) -> Checkpoint:
    """The checkpoint in `note`, which one of the log's `public_keys` has signed; LogDamagedError otherwise."""
    checkpoint, lines = parse_unverified(note)
    for key in public_keys:
        if any(_signs(line, checkpoint, key) for line in lines):
            return checkpoint
    raise LogDamagedError("a checkpoint is not signed by the log's key")


def parse_unverified(note: str) -> tuple[Checkpoint, frozenset[str]]:
    """What a note says, whoever wrote it, and its signature lines. LogDamagedError for another form."""
    text, separator, signatures = note.rpartition("\n\n")
    try:
        origin, size, root, time = text.split("\n")
        checkpoint = Checkpoint(
            origin, int(size), base64.b64decode(root, validate=True), int(time.removeprefix("time "))
        )
    except ValueError:
        raise LogDamagedError("a checkpoint is not of the known form") from None
    if not separator or checkpoint.text != text + "\n" or len(checkpoint.root) != _HASH_BYTES:
        raise LogDamagedError("a checkpoint is not of the known form")
    return checkpoint, frozenset(signatures.split("\n"))


def signed_checkpoint(note: str, signer: Signer) -> Checkpoint:
    """The checkpoint in `note` by the log's own keys. LogDamagedError unless one of them has signed it."""
    try:
        return parse_signed(note, signer.public_keys())
    except LogDamagedError:  # perhaps signed under a version that is new to this server
        return parse_signed(note, signer.public_keys(anew=True))


def _signs(line: str, checkpoint: Checkpoint, public_key: bytes) -> bool:
    name, _, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or name != checkpoint.origin:
        return False
    try:
        raw = base64.b64decode(encoded, validate=True)
        if raw[:4] != key_id(name, ED25519, public_key):
            return False
        Ed25519PublicKey.from_public_bytes(public_key).verify(raw[4:], checkpoint.text.encode())
    except (ValueError, InvalidSignature):
        return False
    return True
