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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests
from hvac.adapters import RawAdapter

from vault_service.keys.answers import (
    VaultBadAnswer,
    VaultCircuitOpen,
    VaultDenied,
    VaultError,
    VaultLockedOut,
    VaultLoginRefused,
    VaultNotFound,
    VaultRateLimited,
    VaultRefused,
    VaultSealed,
    VaultStandby,
    VaultTimeout,
    VaultUnreachable,
    VaultWrappingRefused,
    bytes_of,
    data_of,
    refusal,
)
from vault_service.keys.circuit import Circuit, Entry, retried
from vault_service.keys.login import LoginKeeper
from vault_service.keys.methods import AppRole, Certificate, Jwt, Kubernetes, Login, TokenFile, TokenValue, token_of
from vault_service.wire import new_session, until

__all__ = [
    "AUDIT_KEY",
    "AppRole",
    "Certificate",
    "Jwt",
    "Kubernetes",
    "Login",
    "TokenFile",
    "TokenValue",
    "Vault",
    "VaultBadAnswer",
    "VaultCircuitOpen",
    "VaultDenied",
    "VaultError",
    "VaultLockedOut",
    "VaultLoginRefused",
    "VaultNotFound",
    "VaultRateLimited",
    "VaultRefused",
    "VaultSealed",
    "VaultStandby",
    "VaultTimeout",
    "VaultUnreachable",
    "VaultWrappingRefused",
    "person_key_name",
]

AUDIT_KEY: Final = "ssn-vault-audit"

_SHARE: Final = 0.4  # of a call's time, for one attempt that may be made again: a Vault that hangs is left for another
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

    `address` is a URL; `timeout`, in seconds, is for a call with its login and its retries, however slowly
    the answer drips; what is tried again gets two fifths of it for each attempt. `ca_file` is a PEM bundle
    trusted instead of the public ones. Nothing is sent before the first call. Every call can raise any
    VaultError; only those that change nothing are tried again, and after three attempts in a row without
    an answer all fail at once until Vault answers again (`circuit`).
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
        self._ca_file = ca_file
        self._certificate = (login.cert_file, login.key_file) if isinstance(login, Certificate) else None
        self._namespace = namespace
        self._timeout = timeout
        self._circuit = Circuit()
        self._own = threading.local()
        self._generation = 0  # of connections; those of an older one are made anew
        self._adapters: weakref.WeakSet[RawAdapter] = weakref.WeakSet()
        self._adapters_lock = threading.Lock()
        self._keeper = LoginKeeper(login, self._send, self._reconnect, timeout)

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
        """The Ed25519 signature of `message` under the latest version of `name`: version, 64 raw bytes.

        Tried again like a read: Vault keeps nothing of it, and signing twice gives the same signature
        (RFC 8032, section 5.1.6).
        """
        path = f"transit/sign/{name}"
        answer = self._call("POST", path, {"input": _b64(message)}, again=True)
        signature = data_of(answer, path).get("signature")
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

    @property
    def login_problem(self) -> str | None:
        """Why Vault refuses the login, or will refuse the next one, in words without a secret; None when all is well.

        Calls may still succeed: under a token that lives, or keys that are in memory.
        """
        return self._keeper.problem

    @property
    def credential_seconds_left(self) -> float:
        """Seconds until what the next login shows is no longer good; infinite without end, NaN when not known."""
        return self._keeper.credential_left

    def renew(self) -> None:
        """Make the login live on: renew the token or, where it cannot live longer, log in afresh.

        Every call does so by itself once somewhat more than half of the life is over; whoever is idle for
        longer than that calls this, or `keep_login_alive` once. One that cannot be renewed is used to its
        end; VaultDenied when it is over and nothing can make a new one.
        """
        self._keeper.renew(self._deadline())

    def keep_login_alive(self) -> None:
        """From the first call on, and until `close`, a thread renews the login in time."""
        self._keeper.start()

    def close(self) -> None:
        """Close every thread's connection. The object may be used again; it then connects anew."""
        self._keeper.stop()
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
                return self._send(method, path, body, token.value, deadline, query, whole=not again)
            except VaultDenied:  # nothing was done, so that any call may be sent once more
                other = self._keeper.replacement(token, deadline)
                if other is None:
                    raise
            return self._send(method, path, body, other.value, deadline, query, whole=not again)

        if again:
            return retried(attempt, deadline)
        retried(lambda: self._keeper.current(deadline), deadline)
        return attempt()

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        token: str | None,
        deadline: float,
        query: Mapping[str, str] | None = None,
        *,
        whole: bool = False,
    ) -> dict[str, Any]:
        """Send once and give the whole answer, {} for an empty one; any failure is a VaultError.

        It waits for its share of a call's time, or with `whole` until `deadline`.
        """
        what = f"{method} {path}"
        now = time.monotonic()
        if now >= deadline:
            raise VaultTimeout(f"{what}: no time left")
        limit = deadline if whole else min(deadline, now + self._timeout * _SHARE)
        entry = self._circuit.enter()
        if entry is Entry.REFUSED:
            raise VaultCircuitOpen(f"{what}: not sent, the last calls got no answer")
        try:
            adapter = self._adapter()
            adapter.token = token
            with until(limit):
                response = adapter.request(method, f"/v1/{path}", json=body, params=query, timeout=limit - now)
        except OSError as error:  # the exceptions of requests are, and those of a file that cannot be read
            self._circuit.failed(entry)
            if isinstance(error, requests.Timeout) or time.monotonic() >= limit:
                failure: VaultError = VaultTimeout(f"{what}: no answer within {limit - now:.2g} s")
            else:
                failure = VaultUnreachable(f"{what}: {type(error).__name__}")
        except BaseException:
            self._circuit.failed(entry)  # else nobody would ever probe again
            raise
        else:
            self._circuit.answered()
            answer = _json(response)
            if response.status_code not in (200, 204):
                failure = refusal(response.status_code, what, answer, response.headers.get("Retry-After"))
            elif answer is None:
                failure = VaultBadAnswer(f"{what}: the answer is no JSON object")
            else:
                return answer
        # Raised here, where no exception is being handled: the cause would carry the request along.
        raise failure

    def _reconnect(self) -> None:
        """Make every thread's next request use a new connection."""
        with self._adapters_lock:
            self._generation += 1

    def _adapter(self) -> RawAdapter:
        """This thread's connection: hvac's is not made for sharing.

        hvac.Client is passed by: it takes certificates and, without one, a token from the surroundings.
        """
        adapter: RawAdapter | None = getattr(self._own, "adapter", None)
        if adapter is not None and self._own.generation != self._generation:
            adapter.close()
            adapter = None
        if adapter is None:
            with self._adapters_lock:
                adapter = RawAdapter(
                    base_uri=self.address,
                    session=new_session(self._ca_file, self._certificate),  # whom to trust is taken from here
                    namespace=self._namespace,
                    ignore_exceptions=True,  # hvac's exceptions keep the text of the answer
                    allow_redirects=False,  # a redirect would carry the token to another host
                )
                self._own.adapter, self._own.generation = adapter, self._generation
                self._adapters.add(adapter)
        return adapter


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
