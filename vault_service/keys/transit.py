"""The one door to Vault (HashiCorp Vault and OpenBao alike): logins, key wrapping, signatures, identity.

Names, wrapped keys and messages to sign come in; unwrapped keys, signatures, public keys and signed tokens
go out, and every failure is a typed error. It knows nothing of domains, leases or rows. Nothing is taken
from the surroundings of the process: no VAULT_* variable, no token in somebody's home directory, no proxy.
"""

import base64
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import requests
from hvac.adapters import RawAdapter

from vault_service.keys.answers import (
    VaultBadAnswer,
    VaultDenied,
    VaultError,
    VaultNotFound,
    VaultRateLimited,
    VaultRefused,
    VaultSealed,
    VaultTimeout,
    VaultUnreachable,
    bytes_of,
    data_of,
    refusal,
)
from vault_service.keys.login import AppRole, Login, LoginKeeper, TokenFile, TokenValue, token_of

__all__ = [
    "AUDIT_KEY",
    "AppRole",
    "Login",
    "TokenFile",
    "TokenValue",
    "Vault",
    "VaultBadAnswer",
    "VaultDenied",
    "VaultError",
    "VaultNotFound",
    "VaultRateLimited",
    "VaultRefused",
    "VaultSealed",
    "VaultTimeout",
    "VaultUnreachable",
    "person_key_name",
]

AUDIT_KEY: Final = "ssn-vault-audit"

_PAUSES: Final = (0.1, 0.3)  # seconds before the second and the third attempt of a read
_DATA_KEY_BYTES: Final = 32
_PUBLIC_KEY_BYTES: Final = 32  # RFC 8032, section 5.1.5
_SIGNATURE_BYTES: Final = 64  # RFC 8032, section 5.1.6
_WRAPPED: Final = re.compile(r"vault:v[1-9][0-9]{0,9}:[A-Za-z0-9+/]+={0,2}")
_PERSON: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


def person_key_name(person: str) -> str:
    """The transit key that only `person`'s login may sign with; ValueError for what cannot be a name."""
    if not _PERSON.fullmatch(person):
        raise ValueError("a person's name is a letter, then letters, digits, hyphens: lower case, at most 63")
    return f"ssn-vault-person-{person}"


class Vault:
    """One login at one Vault; any number of threads may use it, each over a connection of its own.

    `address` is a URL; `timeout`, in seconds, is for a call with its retries (it bounds connecting and each
    wait for bytes, so an answer that drips can take longer). `ca_file` is a PEM bundle trusted instead of
    the public ones. Nothing is sent before the first call. Every call can raise any VaultError; only those
    that change nothing are tried again.
    """

    def __init__(
        self,
        address: str,
        login: Login,
        *,
        ca_file: Path | None = None,
        namespace: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.address = address.rstrip("/")
        self._verify: bool | str = str(ca_file) if ca_file else True
        self._namespace = namespace
        self._timeout = timeout
        self._own = threading.local()
        self._adapters: weakref.WeakSet[RawAdapter] = weakref.WeakSet()
        self._adapters_lock = threading.Lock()
        self._keeper = LoginKeeper(login, self._send)

    # Keys

    def unwrap(self, name: str, wrapped: str) -> bytes:
        """The 32-byte key in `wrapped`; VaultRefused when `name` did not wrap it or is no longer there."""
        path = f"transit/decrypt/{name}"
        answer = self._call("POST", path, {"ciphertext": wrapped, "context": _b64(name.encode())}, again=True)
        return bytes_of(data_of(answer, path).get("plaintext"), _DATA_KEY_BYTES, path)

    def create_wrapping_key(self, name: str) -> None:
        """Make the transit key `name` that wraps one key version; one that is there is checked and kept.

        VaultBadAnswer when a key of that name exists and is not derived AES-256-GCM that never leaves Vault.
        """
        path = f"transit/keys/{name}"
        wanted = {
            "type": "aes256-gcm96",
            "derived": True,
            "exportable": False,
            "allow_plaintext_backup": False,
        }
        self.write(path, **wanted)
        found = self.read(path)
        # Asked for again, Vault keeps a key as it is and does not say when it differs.
        if found is None or any(found.get(option) != value for option, value in wanted.items()):
            raise VaultBadAnswer(f"{path} is not a derived aes256-gcm96 key that stays in Vault")

    def new_wrapped_key(self, name: str) -> str:
        """A fresh 32-byte key that nobody has seen, wrapped under `name`: "vault:v1:..."."""
        path = f"transit/datakey/wrapped/{name}"
        wrapped = self.write(path, context=_b64(name.encode()), bits=_DATA_KEY_BYTES * 8).get("ciphertext")
        if not isinstance(wrapped, str) or not _WRAPPED.fullmatch(wrapped):
            raise VaultBadAnswer(f"{path} gave no wrapped key")
        return wrapped

    def public_keys(self, name: str) -> dict[int, bytes]:
        """Every version of the Ed25519 transit key `name`: version to 32 raw bytes (RFC 8032)."""
        path = f"transit/keys/{name}"
        data = self.read(path)
        if data is None:
            raise VaultNotFound(f"{path} does not exist")
        keys = data.get("keys")
        if data.get("type") != "ed25519" or not isinstance(keys, dict) or not keys:
            raise VaultBadAnswer(f"{path} is not an ed25519 key")
        found: dict[int, bytes] = {}
        for version, key in keys.items():
            if not isinstance(key, dict) or not version.isdecimal():
                raise VaultBadAnswer(f"{path} gave a malformed key version")
            found[int(version)] = bytes_of(key.get("public_key"), _PUBLIC_KEY_BYTES, path)
        return found

    def sign(self, name: str, message: bytes) -> tuple[int, bytes]:
        """The Ed25519 signature of `message` under the latest version of `name`: version, 64 raw bytes."""
        path = f"transit/sign/{name}"
        signature = self.write(path, input=_b64(message)).get("signature")
        if not isinstance(signature, str) or not _WRAPPED.fullmatch(signature):
            raise VaultBadAnswer(f"{path} gave no signature")
        _, version, raw = signature.split(":")
        return int(version[1:]), bytes_of(raw, _SIGNATURE_BYTES, path)

    # Identity

    def person_name(self) -> str | None:
        """The name of the entity behind this login; None for a token of no entity (root among them)."""
        path = "auth/token/lookup-self"
        entity = data_of(self._call("GET", path, again=True), path).get("entity_id")
        if not isinstance(entity, str):
            raise VaultBadAnswer(f"{path} gave no entity_id")
        if not entity:
            return None
        path = f"identity/entity/id/{entity}"
        name = data_of(self._call("GET", path, again=True), path).get("name")
        if not isinstance(name, str) or not name:
            raise VaultBadAnswer(f"{path} gave no name")
        return name

    def person_token(self, role: str) -> str:
        """A signed identity token (JWT) of this login's entity, by the rules of the OIDC role `role`."""
        path = f"identity/oidc/token/{role}"
        token = data_of(self._call("GET", path, again=True), path).get("token")
        if not isinstance(token, str) or token.count(".") != 2:
            raise VaultBadAnswer(f"{path} gave no token")
        return token

    # Preparing Vault

    def read(self, path: str, **query: str) -> dict[str, Any] | None:
        """The answer's `data` at `path`; None where nothing stands."""
        try:
            answer = self._call("GET", path, query=query, again=True)
        except VaultNotFound:
            return None
        return data_of(answer, path)

    def write(self, path: str, **data: object) -> dict[str, Any]:
        """Write `data` to `path`, never twice by itself; the answer's `data`, empty when it has none."""
        answer = self._call("POST", path, data)
        return data_of(answer, path) if answer.get("data") is not None else {}

    def delete(self, path: str) -> None:
        """Remove what stands at `path`; nothing standing there is no error."""
        try:
            self._call("DELETE", path)
        except VaultNotFound:
            return

    def put_policy(self, name: str, hcl: str) -> None:
        """Make or replace the policy `name`."""
        self.write(f"sys/policies/acl/{name}", policy=hcl)

    def login_at(self, path: str, **data: object) -> str:
        """The token of another login at `path`, say "auth/userpass/login/NAME"; our own stays as it is."""
        return token_of(self._send("POST", path, data, None, self._deadline()), path).value

    # The login

    @property
    def seconds_left(self) -> float:
        """Seconds until the login ends, infinite for one without end; 0 when there is none yet."""
        return self._keeper.seconds_left

    def renew(self) -> None:
        """Make the login live on: renew the token or, where it cannot live longer, log in afresh.

        Every call does so by itself once a third of the life is left; whoever is idle for longer than that
        calls this. VaultDenied when the login is over and nothing can make a new one.
        """
        self._keeper.renew(self._deadline())

    def close(self) -> None:
        """Close every thread's connection. The object may be used again; it then connects anew."""
        with self._adapters_lock:
            adapters, self._adapters = self._adapters, weakref.WeakSet()
            self._own = threading.local()
        for adapter in adapters:
            adapter.close()

    # The wire

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> dict[str, Any]:
        """One call under this login; `again` where trying twice does no harm."""
        deadline = self._deadline()

        def attempt() -> dict[str, Any]:
            token = self._keeper.current(deadline)
            try:
                return self._send(method, path, body, token.value, deadline, query)
            except VaultDenied:  # nothing was done, so that any call may be sent once more
                other = self._keeper.replacement(token, deadline)
                if other is None:
                    raise
            return self._send(method, path, body, other.value, deadline, query)

        return _retried(attempt, deadline) if again else attempt()

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        token: str | None,
        deadline: float,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send once and give the whole answer, {} for an empty one; any failure is a VaultError."""
        what = f"{method} {path}"
        left = deadline - time.monotonic()
        if left <= 0:
            raise VaultTimeout(f"{what}: no time left")
        adapter = self._adapter()
        adapter.token = token
        try:
            response = adapter.request(method, f"/v1/{path}", json=body, params=query, timeout=left)
            status, answer = response.status_code, _json(response)
        except requests.Timeout:
            failure: VaultError = VaultTimeout(f"{what}: no answer within {self._timeout:g} s")
        except requests.RequestException as error:
            failure = VaultUnreachable(f"{what}: {type(error).__name__}")
        else:
            if status not in (200, 204):
                failure = refusal(status, what)
            elif answer is None:
                failure = VaultBadAnswer(f"{what}: the answer is no JSON object")
            else:
                return answer
        # Raised here, where no exception is being handled: the cause would carry the request along.
        raise failure

    def _adapter(self) -> RawAdapter:
        """This thread's connection: hvac's is not made for sharing.

        hvac.Client is passed by: it takes certificates and, without one, a token from the surroundings.
        """
        adapter: RawAdapter | None = getattr(self._own, "adapter", None)
        if adapter is None:
            session = requests.Session()
            session.trust_env = False  # else proxies, CA bundles and ~/.netrc of the surroundings are used
            session.verify = self._verify  # the adapter takes it from here
            adapter = RawAdapter(
                base_uri=self.address,
                session=session,
                namespace=self._namespace,
                ignore_exceptions=True,  # hvac's exceptions keep the text of the answer
                allow_redirects=False,  # a redirect would carry the token to another host
            )
            with self._adapters_lock:
                self._own.adapter = adapter
                self._adapters.add(adapter)
        return adapter


def _retried(attempt: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    for pause in _PAUSES:
        try:
            return attempt()
        except VaultError as error:
            if not error.transient or time.monotonic() + pause >= deadline:
                raise
        time.sleep(pause)
    return attempt()


def _json(response: requests.Response) -> dict[str, Any] | None:
    if response.status_code == 204 or not response.content:
        return {}
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
