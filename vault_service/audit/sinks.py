"""Sinks: where checkpoints go outside the database. A file of our own, and a witness on another host.

Signed notes go in; a file answers by having them on its disk, a witness by its cosignature, which is checked
here against its key. Every failure is a SinkError: the sink has not acknowledged, and the log goes on.
"""

import base64
import http.client
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.audit.checkpoint import COSIGNATURE, Checkpoint, key_id, signature_line
from vault_service.errors import ConfigurationError, SsnVaultError

FILE: Final = "file"
WITNESS: Final = "witness"
_LARGEST_ANSWER: Final = 65_536  # bytes
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_FORK: Final = 422
_SIZE: Final = re.compile(rb"[0-9]{1,18}\s*")


class SinkError(SsnVaultError):
    """A sink did not acknowledge a checkpoint."""


class AheadError(SinkError):
    """The witness says that it has seen a longer log than this one."""


class ForkError(SinkError):
    """The witness says that the log does not continue what it has cosigned."""


class _NothingError(SinkError):
    """The witness has nothing of this log."""


class VerifierKey(NamedTuple):
    """Whose cosignatures count: a name and an Ed25519 public key (32 bytes)."""

    name: str
    public_key: bytes

    @classmethod
    def read(cls, file: Path) -> Self:
        """The key in a file as the witness prints it (signed-note's vkey). ConfigurationError for anything else."""
        try:
            name, identifier, encoded = file.read_text("ascii").strip().split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
        except (OSError, ValueError):
            raise ConfigurationError(f"{file} holds no witness key") from None
        if raw[:1] != COSIGNATURE or len(raw) != 33 or key_id(name, COSIGNATURE, raw[1:]).hex() != identifier:
            raise ConfigurationError(f"{file} holds no witness key")
        return cls(name, raw[1:])


class Witness:
    """A witness that is asked over HTTP (C2SP tlog-witness) to cosign."""

    def __init__(self, url: str, key: VerifierKey, ca_file: Path | None, seconds: float) -> None:
        """`url` is the submission prefix; `seconds` bound each request."""
        self._prefix = url.rstrip("/")
        self._key = key
        self._seconds = seconds
        self._size: int | None = None  # what the witness has seen last, as far as known
        self._asked: threading.Thread | None = None  # the request that is under way
        context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if context:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def cosign(self, checkpoint: Checkpoint, note: str, consistency: Callable[[int, int], Sequence[bytes]]) -> str:
        """The witness's signature line under `note`; `consistency(old, size)` makes the proof that it asks for.

        AheadError when it says that it knows a longer log, ForkError when it says that this one does not continue
        what it knows, SinkError when it does not cosign or is away.
        """
        for _ in range(2):  # once more when it tells which size it knows
            old = self._size or 0
            if old > checkpoint.size:
                self._size = None  # asked for anew the next time
                raise AheadError(f"the witness has cosigned {old} entries, the log has {checkpoint.size}")
            proof = "".join(base64.b64encode(part).decode() + "\n" for part in consistency(old, checkpoint.size))
            try:
                line = self._line(
                    self._send(f"{self._prefix}/add-checkpoint", f"old {old}\n{proof}\n{note}"), checkpoint
                )
            except _ConflictError as conflict:
                self._size = conflict.size
                continue
            self._size = checkpoint.size
            return line
        raise SinkError("the witness does not agree on the log's size")

    def latest(self, origin: str) -> str | None:
        """The last checkpoint of log `origin` that the witness cosigned, as it tells anybody; None for none.

        It is worth what the log's own signature under it is worth: the caller checks that.
        """
        try:
            return self._send(f"{self._prefix}/{sha256(origin.encode()).hexdigest()}/checkpoint", None)
        except _NothingError:
            return None

    def _send(self, url: str, body: str | None) -> str:
        """One request, ended after its seconds however slowly an answer drips in."""
        if self._asked is not None and self._asked.is_alive():
            raise SinkError("the witness is away (it still holds the last request)")
        outcome: list[str | Exception] = []

        def ask() -> None:
            try:
                outcome.append(self._request(url, body))
            except Exception as error:  # noqa: BLE001 - raised again by whoever waits
                outcome.append(error)

        self._asked = threading.Thread(target=ask, name="witness-request", daemon=True)
        self._asked.start()
        self._asked.join(self._seconds)
        if not outcome:
            raise SinkError("the witness is away (TimeoutError)")
        answer = outcome[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _request(self, url: str, body: str | None) -> str:
        data = None if body is None else body.encode()
        request = urllib.request.Request(url, data, {"Content-Type": "text/plain"})  # noqa: S310 - https, or loopback
        try:
            with self._opener.open(request, timeout=self._seconds) as answer:
                text: bytes = answer.read(_LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == _CONFLICT:
                    raise _ConflictError(error.read(_LARGEST_ANSWER)) from None
                if error.code == _FORK:
                    raise ForkError("the witness says that the log does not continue what it has cosigned") from None
                if error.code == _NOT_FOUND:
                    raise _NothingError("the witness does not know this log") from None
                raise SinkError(f"the witness answers {error.code}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise SinkError(f"the witness is away ({type(error).__name__})") from None
        return text.decode(errors="replace")

    def _line(self, answer: str, checkpoint: Checkpoint) -> str:
        for line in answer.splitlines():
            mark, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            if mark != "—" or name != self._key.name:
                continue
            try:
                raw = base64.b64decode(encoded, validate=True)
                if raw[:4] != key_id(name, COSIGNATURE, self._key.public_key):
                    continue
                message = f"cosignature/v1\ntime {int.from_bytes(raw[4:12])}\n{checkpoint.text}"
                Ed25519PublicKey.from_public_bytes(self._key.public_key).verify(raw[12:], message.encode())
            except (ValueError, InvalidSignature):
                break
            return signature_line(name, COSIGNATURE, self._key.public_key, raw[4:])  # spelled as verifiers ask for
        raise SinkError("the witness's answer is not signed by its key")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A witness stands where it was said to stand."""

    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        """Nowhere else."""


class _ConflictError(Exception):
    def __init__(self, body: bytes) -> None:
        super().__init__("conflict")
        if not _SIZE.fullmatch(body):
            raise SinkError("the witness's answer is not understood")
        self.size = int(body)
