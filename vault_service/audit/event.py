"""Events of the disclosure record: canonical JSON, the Merkle root over their disclosure rows, hashes of their texts.

Facts about one call come in; rows for the database go out. Canonical as RFC 8785 has it, hashed as RFC 6962,
section 2.1, has it. Nothing here knows a number.
"""

import json
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from vault_service.audit.merkle import leaf_hash, root_of
from vault_service.randomness import random_bytes
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.events import DisclosureRow, EventRow
from vault_service.storage.texts import TextRow

EVENT_FORM: Final = 3  # of the event's body; told apart by verifiers
INVALID: Final = "invalid"  # stands for a name or token that is unknown or malformed

_Fact = str | int | Sequence[str]
Facts = Mapping[str, _Fact | None]
_NO_TEXTS: Final[Mapping[str, str]] = {}
_RANDOM: Final = frozenset({"certificate", "order", "of", "approvals"})  # long hexadecimal: digits by chance


class Disclosed(NamedTuple):
    """One token of an event. `outcome` is `found`, `missing` or `matched`."""

    domain: str
    token: str
    outcome: str


class Recorded(NamedTuple):
    """One event with its disclosure rows and texts, ready to be inserted."""

    event: EventRow
    disclosures: list[DisclosureRow]
    texts: list[TextRow]


def new_event_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits."""
    moment = f"{time.time_ns() // 1_000_000:012x}"
    chance = random_bytes(10).hex()
    variant = "89ab"[int(chance[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:19]}"


def record(
    event_id: str,
    kind: str,
    at_ms: int,
    facts: Facts,
    disclosed: Sequence[Disclosed] = (),
    texts: Mapping[str, str] = _NO_TEXTS,
) -> Recorded:
    """The event `kind` of time `at_ms` with its facts (None is left out), its disclosure rows and its texts.

    The body carries `disclosures`, their number, and `root`, the hash over them (of an empty tree when there
    are none), so that one row can be proven without showing the others; and of each text that a person wrote a
    salted hash, so that it can be removed without changing the record.

    Whatever is recorded is searched here for SSN shapes, wherever it came from: a fact with one becomes `invalid`.
    A text with one is a ValueError, which names it: the call must have been refused before.
    """
    kept = [text_row(event_id, name, text) for name, text in texts.items()]
    salts = random_bytes(16 * len(disclosed)).hex()
    rows = [
        DisclosureRow(event_id, position, *token, salts[32 * position : 32 * position + 32])
        for position, token in enumerate(disclosed)
    ]
    body = canonical(
        {
            **{name: _searched(name, value) for name, value in facts.items() if value is not None},
            **{hash_name(row.name): text_hash(row) for row in kept},
            "at": at_ms,
            "disclosures": len(rows),
            "form": EVENT_FORM,
            "id": event_id,
            "kind": kind,
            "root": root_of([disclosure_leaf(row) for row in rows]).hex(),
        }
    )
    return Recorded(EventRow(event_id, body, sha256(body.encode()).digest()), rows, kept)


def text_row(of: str, name: str, text: str) -> TextRow:
    """The row of a text, with a salt of its own. ValueError, which names the text, when it looks like a number."""
    if contains_ssn_shape(text):
        raise ValueError(f"{name} holds what looks like a Social Security number")
    return TextRow(of, name, random_bytes(16).hex(), text)


def text_hash(row: TextRow) -> str:
    """The salted hash of a text (hex) that an event or order carries: SHA-256 of the row as canonical JSON."""
    return sha256(canonical(row._asdict()).encode()).hexdigest()


def hash_name(name: str) -> str:
    """What the hash of the text `name` is called in a body."""
    return f"{name}_sha256"


def _searched(name: str, value: _Fact) -> _Fact:
    if name in _RANDOM or name.endswith("_sha256"):
        return value
    if isinstance(value, str):
        return INVALID if contains_ssn_shape(value) else value
    if isinstance(value, int):
        return value
    return [INVALID if contains_ssn_shape(one) else one for one in value]


def disclosure_leaf(row: DisclosureRow) -> bytes:
    """The row's leaf hash; the leaf's data is the row as canonical JSON."""
    return leaf_hash(canonical(row._asdict()).encode())


def canonical(value: Mapping[str, object]) -> str:
    """RFC 8785 for ASCII names, strings, integers below 2^53 and lists: a test holds it to the full library.

    The standard library's encoder, because the full one costs ten times as much and stands on the hot path.
    """
    return _ENCODER.encode(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)
