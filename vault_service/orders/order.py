"""An order: what a person asks the servers to do, as the canonical JSON that is signed.

Values come in and go out; signatures are checked against public keys that somebody else fetched.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NewType

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.audit.event import hash_name, new_event_id, text_hash, text_row
from vault_service.errors import OrderRefusedError
from vault_service.ssn import contains_ssn_shape
from vault_service.storage.orders import SignatureRow
from vault_service.storage.texts import TextRow
from vault_service.text import LONGEST_JUSTIFICATION, SHORTEST_JUSTIFICATION, text_problem

OrderId = NewType("OrderId", str)

FORM: Final = 2  # of orders made now; a log also holds orders of form 1, whose texts are in their bodies
_FORMS: Final = (1, 2)
LIFE_MS: Final = 24 * 3600 * 1000  # how long an order may wait for its second signature
CLOCK_SKEW_MS: Final = 60_000  # by which an order may seem to come from the future
_PREFIX: Final = b"ssn-vault order 1\n"  # so that no other signed text can pass for an order
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Arguments that are text which a person wrote: at least and at most so many characters. A body has their hashes.
TEXTS: Final[Mapping[str, tuple[int, int]]] = {
    "reason": (1, LONGEST_JUSTIFICATION),
    "justification": (SHORTEST_JUSTIFICATION, LONGEST_JUSTIFICATION),
}
REMOVED: Final = "(removed, or not what was signed)"  # shown in the place of a text that is not there
_FIELDS: Final = frozenset({"form", "id", "action", "actor", "arguments", "issued", "expires"})


class Action(StrEnum):
    """What an order can ask for."""

    APPLY_POLICY = "policy.apply"
    CREATE_KEY = "keys.create"
    ACTIVATE_KEY = "keys.activate"
    REWRAP_KEY = "keys.rewrap"
    REENCRYPT = "keys.reencrypt"
    SET_ASIDE = "keys.set-aside"
    RETIRE_KEY = "keys.retire"
    DESTROY_KEY = "keys.destroy"
    FREEZE = "incident.freeze"
    THAW = "incident.thaw"
    DRILL = "incident.drill"
    APPROVE_BULK = "approvals.bulk"
    DENY = "approvals.deny"
    ACCEPT_LOSS = "audit.accept-loss"


@dataclass(frozen=True, slots=True)
class Order:
    """One order. `arguments` are the action's; times are milliseconds since 1970.

    `texts` are what its hashes are of, where the order was just made; they are kept beside it.
    """

    id: OrderId
    action: Action
    actor: str
    arguments: Mapping[str, Any]
    issued: int
    expires: int
    body: str  # canonical JSON: exactly what is signed
    form: int = FORM
    texts: tuple[TextRow, ...] = field(default=(), compare=False, repr=False)

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return _PREFIX + self.body.encode()


def new_order(action: Action, actor: str, arguments: Mapping[str, Any], now_ms: int) -> Order:
    """An order of `actor`, valid for a day, with its texts. OrderRefusedError when an argument is not as it must be."""
    _check_arguments(arguments)
    order_id = new_event_id()
    texts = []
    signed = dict(arguments)
    for name, bounds in TEXTS.items():
        if isinstance(text := arguments.get(name), str):
            if problem := text_problem(text, *bounds):
                raise OrderRefusedError(f"{name} {problem}")
            row = _text_row(order_id, name, text)
            texts.append(row)
            signed[hash_name(name)] = text_hash(row)
            del signed[name]
    fields: dict[str, Any] = {
        "form": FORM,
        "id": order_id,
        "action": action.value,
        "actor": actor,
        "arguments": signed,
        "issued": now_ms,
        "expires": now_ms + LIFE_MS,
    }
    return replace(parse_order(_canonical(fields)), texts=tuple(texts))


def text_of(order: Order, name: str, rows: Iterable[TextRow]) -> str | None:
    """The text `name` that the order was signed with, out of `rows`; None where it was removed or is another."""
    if order.form == 1:
        return str(order.arguments.get(name, "")) or None
    wanted = order.arguments.get(hash_name(name))
    return next((row.text for row in rows if (row.of, row.name, text_hash(row)) == (order.id, name, wanted)), None)


def check_new(order: Order, rows: Sequence[TextRow]) -> None:
    """OrderRefusedError unless the order has this release's form, and `rows` are the texts it was signed with.

    For orders that are still to be decided: what was decided stays so when a text is removed.
    """
    if order.form != FORM:
        raise OrderRefusedError("the order is of an older form: ask for it again with this release's command")
    _check_arguments(order.arguments)
    for name, bounds in TEXTS.items():
        if hash_name(name) not in order.arguments:
            continue
        text = text_of(order, name, rows)  # others' rows count for nothing
        if text is None or text_problem(text, *bounds) or contains_ssn_shape(text):
            raise OrderRefusedError(f"{name} is missing, is not what was signed, or is no text that may be recorded")


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
        and fields["form"] in _FORMS
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
        fields["form"],
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


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """OrderRefusedError when an argument looks like a number.

    Wrapped keys, tokens, ids and hashes are random, and policies are reviewed files: digits are in them by chance or
    by right.
    """
    random = {
        "wrapped",
        "policy",
        "rows",
        "root",
        "lost_root",
        "lost_note",
        *(name for name in arguments if name.endswith(hash_name(""))),
    }
    searched = {n: value for n, value in arguments.items() if n not in random and not isinstance(value, int)}
    if contains_ssn_shape(_canonical(searched)):
        raise OrderRefusedError("an argument looks like a Social Security number")


def _canonical(value: Mapping[str, Any]) -> str:
    """RFC 8785. OrderRefusedError for what it cannot write: an integer of 2^53 or more."""
    try:
        return rfc8785.dumps(dict(value)).decode()
    except rfc8785.CanonicalizationError:
        raise OrderRefusedError("an argument is too large, or is no text, number or list") from None


def _text_row(order_id: str, name: str, text: str) -> TextRow:
    try:
        return text_row(order_id, name, text)
    except ValueError as error:
        raise OrderRefusedError(str(error)) from None
