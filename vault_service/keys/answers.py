"""What Vault may answer: the typed errors of this room, and the checks that an answer has its shape.

A status or the parsed answer of one call comes in; the part that was asked for, or a VaultError, goes out.
Nothing here knows how the answer travelled.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

# How a node says that it stands by and knows of no active one; OpenBao and HashiCorp Vault give it status 500.
_NO_ACTIVE_NODE: Final = "local node not active but active cluster node not found"


class VaultError(Exception):
    """Vault did not do what it was asked. `transient` says whether the same call may succeed later.

    `retry_after` is how many seconds Vault asks to wait; None when it does not say. The text names the call
    and the status, never what Vault answered: an answer can repeat what was sent.
    """

    transient: bool = False
    retry_after: float | None = None


class VaultSealed(VaultError):
    """Vault runs, but is sealed or not yet initialised (501, 503)."""

    transient = True


class VaultStandby(VaultError):
    """The node stands by and does not pass the call on (307; 500 while there is no active node), or is behind (412).

    A redirect is never followed: it would carry the login to a host that no setting names.
    """

    transient = True


class VaultDenied(VaultError):
    """The login is refused, or its policies do not allow the call (401, 403)."""


class VaultLoginRefused(VaultDenied):
    """What the login shows is not accepted: wrong, ended, or not allowed. The same will be refused again."""


class VaultLockedOut(VaultLoginRefused):
    """The login is refused before it is looked at: a good one as well, until Vault's lockout ends."""


class VaultLoginFile(VaultDenied):
    """A file of the login cannot be read or is empty; nothing was sent."""


class VaultWrappingRefused(VaultLoginRefused):
    """A response-wrapped secret id cannot be had: used already, ended, or not made by an AppRole.

    Somebody else may hold the secret id. A person must look at it, and give out another.
    """


class VaultRefused(VaultError):
    """The request itself is wrong (400, 405): among others, a wrapped key that this name does not open."""


class VaultRateLimited(VaultError):
    """A quota of Vault is used up (429)."""

    transient = True


class VaultTimeout(VaultError):
    """No answer in time; whether the call took effect is not known."""

    transient = True


class VaultUnreachable(VaultError):
    """No connection, or no server behind it that works (500, 502, 504)."""

    transient = True


class VaultCircuitOpen(VaultUnreachable):
    """Not sent: the last calls got no answer. The next one that may be sent finds out whether Vault is back."""


class VaultBadAnswer(VaultError):
    """An answer that does not have the shape the call promises, or a status that no Vault gives."""


class VaultNotFound(VaultError):
    """Nothing stands at the path, or no engine is mounted there (404)."""


_KINDS: Final[Mapping[int, type[VaultError]]] = {
    307: VaultStandby,
    400: VaultRefused,
    401: VaultDenied,
    403: VaultDenied,
    404: VaultNotFound,
    405: VaultRefused,
    412: VaultStandby,
    429: VaultRateLimited,
    500: VaultUnreachable,
    501: VaultSealed,
    502: VaultUnreachable,
    503: VaultSealed,
    504: VaultUnreachable,
}


def refusal(
    status: int, what: str, answer: Mapping[str, Any] | None = None, retry_after: str | None = None
) -> VaultError:
    """The error for an HTTP status other than success; `what` names the call.

    `answer` is the parsed body, of which nothing is kept; `retry_after` the header of that name, which counts
    where it gives seconds (RFC 9110, section 10.2.3; a date is passed over).
    """
    kind = _KINDS.get(status, VaultBadAnswer)
    if status == 500 and answer is not None and answer.get("errors") == [_NO_ACTIVE_NODE]:
        kind = VaultStandby
    error = kind(f"{what}: status {status}")
    if retry_after is not None and retry_after.isascii() and retry_after.isdecimal():
        error.retry_after = float(retry_after[:9])  # more digits are as good as for ever
    return error


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
