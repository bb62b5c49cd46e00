"""Events of the disclosure record: canonical JSON, and the Merkle root over their disclosure rows.

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
from vault_service.storage.events import DisclosureRow, EventRow

EVENT_FORM: Final = 2  # of the event's body; told apart by verifiers
INVALID: Final = "invalid"  # stands for a name or token that is unknown or malformed

Facts = Mapping[str, str | int | Sequence[str] | None]


class Disclosed(NamedTuple):
    """One token of an event. `outcome` is `found`, `missing` or `matched`."""

    domain: str
    token: str
    outcome: str


class Recorded(NamedTuple):
    """One event with its disclosure rows, ready to be inserted."""

    event: EventRow
    disclosures: list[DisclosureRow]


def new_event_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits."""
    moment = f"{time.time_ns() // 1_000_000:012x}"
    chance = random_bytes(10).hex()
    variant = "89ab"[int(chance[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:19]}"


def record(event_id: str, kind: str, at_ms: int, facts: Facts, disclosed: Sequence[Disclosed] = ()) -> Recorded:
    """The event `kind` of time `at_ms` with its facts (None is left out) and its disclosure rows.

    The body carries `disclosures`, their number, and `root`, the hash over them (of an empty tree when there
    are none), so that one row can be proven without showing the others.
    """
    salts = random_bytes(16 * len(disclosed)).hex()
    rows = [
        DisclosureRow(event_id, position, *token, salts[32 * position : 32 * position + 32])
        for position, token in enumerate(disclosed)
    ]
    body = canonical(
        {
            **{name: value for name, value in facts.items() if value is not None},
            "at": at_ms,
            "disclosures": len(rows),
            "form": EVENT_FORM,
            "id": event_id,
            "kind": kind,
            "root": root_of([disclosure_leaf(row) for row in rows]).hex(),
        }
    )
    return Recorded(EventRow(event_id, body, sha256(body.encode()).digest()), rows)


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
