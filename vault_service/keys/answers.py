"""What Vault may answer: the typed errors of this room, and the checks that an answer has its shape.

A status or the parsed answer of one call comes in; the part that was asked for, or a VaultError, goes out.
Nothing here knows how the answer travelled.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any


class VaultError(Exception):
    """Vault did not do what it was asked. `transient` says whether the same call may succeed later.

    The text names the call and the status, never what Vault answered: an answer can repeat what was sent.
    """

    transient: bool = False


class VaultSealed(VaultError):
    """Vault runs, but is sealed or not yet initialised (501, 503)."""

    transient = True


class VaultDenied(VaultError):
    """The login is refused, or its policies do not allow the call (401, 403)."""


class VaultRefused(VaultError):
    """The request itself is wrong (400, 405): among others, a wrapped key that this name does not open."""


class VaultRateLimited(VaultError):
    """A quota of Vault is used up (429)."""

    transient = True


class VaultTimeout(VaultError):
    """No answer in time; whether the call took effect is not known."""

    transient = True


class VaultUnreachable(VaultError):
    """No connection, or no active server behind it (500, 502, 504)."""

    transient = True


class VaultBadAnswer(VaultError):
    """An answer that does not have the shape the call promises, a redirect among them."""


class VaultNotFound(VaultError):
    """Nothing stands at the path, or no engine is mounted there (404)."""


def refusal(status: int, what: str) -> VaultError:
    """The error for an HTTP status other than success; `what` names the call."""
    kind: type[VaultError] = {
        400: VaultRefused,
        401: VaultDenied,
        403: VaultDenied,
        404: VaultNotFound,
        405: VaultRefused,
        429: VaultRateLimited,
        500: VaultUnreachable,
        501: VaultSealed,
        502: VaultUnreachable,
        503: VaultSealed,
        504: VaultUnreachable,
    }.get(status, VaultBadAnswer)
    return kind(f"{what}: status {status}")


def data_of(answer: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The `data` of an answer."""
    data = answer.get("data")
    if not isinstance(data, dict):
        raise VaultBadAnswer(f"{path} gave no data")
    return data


def auth_of(answer: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The `auth` of an answer to a login or a renewal."""
    auth = answer.get("auth")
    if not isinstance(auth, dict):
        raise VaultBadAnswer(f"{path} gave no login")
    return auth


def seconds_of(value: object, path: str) -> float:
    """A lifetime in seconds; 0 means without end."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise VaultBadAnswer(f"{path} gave no lifetime")
    return float(value)


def bytes_of(value: object, length: int, path: str) -> bytes:
    """The `length` bytes that the base64 text `value` stands for (RFC 4648, section 4)."""
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        raw = b""
    if len(raw) != length:
        raise VaultBadAnswer(f"{path} gave something other than {length} bytes")
    return raw
