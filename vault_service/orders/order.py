"""An order: what a person asks the servers to do, as the canonical JSON that is signed.

Values come in and go out; signatures are checked against public keys that somebody else fetched.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NewType

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.audit.event import new_event_id
from vault_service.errors import OrderRefusedError
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.orders import SignatureRow

OrderId = NewType("OrderId", str)

FORM: Final = 1
LIFE_MS: Final = 24 * 3600 * 1000  # how long an order may wait for its second signature
CLOCK_SKEW_MS: Final = 60_000  # by which an order may seem to come from the future
_PREFIX: Final = b"ssn-vault order 1\n"  # so that no other signed text can pass for an order
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FIELDS: Final = frozenset({"form", "id", "action", "actor", "arguments", "issued", "expires"})


class Action(StrEnum):
    """What an order can ask for."""

    APPLY_POLICY = "policy.apply"
    CREATE_KEY = "keys.create"
    ACTIVATE_KEY = "keys.activate"
    REWRAP_KEY = "keys.rewrap"
    REENCRYPT = "keys.reencrypt"
    RETIRE_KEY = "keys.retire"
    DESTROY_KEY = "keys.destroy"
    FREEZE = "incident.freeze"
    THAW = "incident.thaw"
    DRILL = "incident.drill"
    APPROVE_BULK = "approvals.bulk"
    DENY = "approvals.deny"


@dataclass(frozen=True, slots=True)
class Order:
    """One order. `arguments` are the action's; times are milliseconds since 1970."""

    id: OrderId
    action: Action
    actor: str
    arguments: Mapping[str, Any]
    issued: int
    expires: int
    body: str  # canonical JSON: exactly what is signed

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return _PREFIX + self.body.encode()


def new_order(action: Action, actor: str, arguments: Mapping[str, Any], now_ms: int) -> Order:
    """An order of `actor`, valid for a day. OrderRefusedError when an argument looks like a number."""
    if contains_ssn_shape(rfc8785.dumps(_without_bulk_text(arguments)).decode()):
        raise OrderRefusedError("an argument looks like a Social Security number")
    fields: dict[str, Any] = {
        "form": FORM,
        "id": new_event_id(),
        "action": action.value,
        "actor": actor,
        "arguments": dict(arguments),
        "issued": now_ms,
        "expires": now_ms + LIFE_MS,
    }
    return parse_order(rfc8785.dumps(fields).decode())


def parse_order(body: str) -> Order:
    """The order in `body`; OrderRefusedError unless it is one, in canonical form."""
    try:
        fields: Any = json.loads(body)
        if not isinstance(fields, dict) or fields.keys() != _FIELDS or rfc8785.dumps(fields).decode() != body:
            raise ValueError
        action = Action(fields["action"])
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        raise OrderRefusedError("the order is not canonical JSON of the known form") from None
    well_formed = (
        type(fields["form"]) is int
        and fields["form"] == FORM
        and isinstance(fields["id"], str)
        and _UUID.fullmatch(fields["id"])
        and isinstance(fields["actor"], str)
        and isinstance(fields["arguments"], dict)
        and type(fields["issued"]) is int
        and type(fields["expires"]) is int
        and 0 < fields["expires"] - fields["issued"] <= LIFE_MS
    )
    if not well_formed:
        raise OrderRefusedError("the order has a field of the wrong form")
    return Order(
        OrderId(fields["id"]),
        action,
        fields["actor"],
        fields["arguments"],
        fields["issued"],
        fields["expires"],
        body,
    )


def signature_holds(order: Order, row: SignatureRow, public_keys: Mapping[int, bytes]) -> bool:
    """Whether `row` is its person's Ed25519 signature over `order` (RFC 8032)."""
    raw = public_keys.get(row.key_version)
    if raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(row.signature, order.message)
    except InvalidSignature:
        return False
    return True


def _without_bulk_text(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Wrapped keys are base64 and policies are reviewed files: digits stand in both by chance or by right."""
    return {name: value for name, value in arguments.items() if name not in ("wrapped", "policy")}
