"""From a signed token (JWT, RFC 7519) to the person's name: signature, algorithm, issuer, audience, life.

A token comes in, a `PersonClaim` goes out; whether that person may act through a client is the policy's to
say. Keys of issuers are fetched, kept, and fetched again for an unknown key id or after an hour.
"""

import threading
import time
from hashlib import sha256
from typing import Any, Final

import jwt
import requests
import structlog

from vault_service.config import IssuerSettings
from vault_service.errors import CallError, Reason
from vault_service.identity.caller import PersonClaim

LONGEST_TOKEN: Final = 8192  # characters
_KEYS_LIVE: Final = 3600.0  # seconds
_FETCH_PAUSE: Final = 2.0  # seconds between two fetches, whatever key ids strangers invent
_FETCH_TIMEOUT: Final = 3.0
_REMEMBERED: Final = 4096  # verified tokens
_INVALID: Final = PersonClaim(None)
_log: Final = structlog.stdlib.get_logger("ssn_vault.identity")


class PersonVerifier:
    """Verifies tokens of the configured issuers. `known` is quick; `verify` may wait for an issuer's keys."""

    def __init__(self, issuers: tuple[IssuerSettings, ...]) -> None:
        self._issuers = {settings.issuer: (settings, _IssuerKeys(settings)) for settings in issuers}
        self._verified: dict[bytes, tuple[PersonClaim, float]] = {}
        self._lock = threading.Lock()

    def known(self, token: str) -> PersonClaim | None:
        """The claim of a token that was verified before and still lives; None: it must be verified."""
        found = self._verified.get(sha256(token.encode()).digest())
        return found[0] if found and time.time() < found[1] else None

    def verify(self, token: str) -> PersonClaim:
        """The claim in `token`; its name is None for one that does not hold, for whatever reason.

        CallError KEYS_UNAVAILABLE when the issuer's keys cannot be had, so that nothing can be said.
        """
        if len(token) > LONGEST_TOKEN:
            return _INVALID
        try:
            unverified = jwt.decode(token, options={"verify_signature": False})
            issuer, keys = self._issuers[str(unverified.get("iss"))]
            key = keys.find(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                return _INVALID
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway,
                options={"require": ["exp", "iat", "aud", "iss", issuer.person_claim]},
            )
            lives = claims["exp"] - claims["iat"]
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OverflowError):
            # TypeError: a key that is not the algorithm's, or a time that is no number
            return _INVALID
        name = claims[issuer.person_claim]
        if not isinstance(name, str) or not 0 < lives <= issuer.longest_life:
            return _INVALID
        claim = PersonClaim(name)
        with self._lock:
            if len(self._verified) >= _REMEMBERED:
                self._verified.clear()
            self._verified[sha256(token.encode()).digest()] = (claim, float(claims["exp"]) + issuer.leeway)
        return claim


class _IssuerKeys:
    """The public keys of one issuer, by key id."""

    def __init__(self, settings: IssuerSettings) -> None:
        self._settings = settings
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = 0.0
        self._tried = 0.0
        self._lock = threading.Lock()

    def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id; None when the issuer has none such. CallError when there are no keys at all."""
        with self._lock:
            now = time.monotonic()
            old = not self._fetched or now - self._fetched > _KEYS_LIVE
            if (old or key_id not in self._keys) and (not self._tried or now - self._tried > _FETCH_PAUSE):
                self._tried = now
                self._fetch()
            if not self._keys:
                raise CallError(Reason.KEYS_UNAVAILABLE)
            return self._keys.get(key_id)

    def _fetch(self) -> None:
        """Replace the keys; keep the old ones when that fails."""
        settings = self._settings
        try:
            if settings.jwks_file is not None:
                found = jwt.PyJWKSet.from_json(settings.jwks_file.read_text("utf-8"))
            else:
                with requests.Session() as session:
                    session.trust_env = False
                    answer = session.get(
                        settings.jwks_url or "",
                        timeout=_FETCH_TIMEOUT,
                        verify=str(settings.ca_file) if settings.ca_file else True,
                        allow_redirects=False,
                    )
                    answer.raise_for_status()
                    found = jwt.PyJWKSet.from_dict(answer.json())
        except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            # requests' errors are OSErrors; PyJWT takes apart what is no mapping with the other two
            _log.warning("an issuer's keys cannot be had", error=type(error).__name__)
            return
        self._keys = {key.key_id: key for key in found.keys if key.key_id}
        self._fetched = time.monotonic()
