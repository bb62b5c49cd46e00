"""From a signed token (JWT, RFC 7519) to the person's name: signature, algorithm, issuer, audience, life.

A token comes in, a `PersonClaim` goes out; whether that person may act through a client is the policy's to
say. Where issuers' keys come from is not known here.
"""

import asyncio
import threading
import time
from concurrent.futures import Future, wait
from hashlib import sha256
from typing import Any, Final

import jwt

from vault_service.config import IssuerSettings
from vault_service.errors import CallError, Reason
from vault_service.identity.caller import PersonClaim
from vault_service.identity.issuer_keys import FETCH_SECONDS, IssuerKeys

LONGEST_TOKEN: Final = 8192  # characters
_REMEMBERED: Final = 4096  # verified tokens
_INVALID: Final = PersonClaim(None)
# TypeError: a key that is not the algorithm's, or a time that is no number.
_MALFORMED: Final = (jwt.PyJWTError, KeyError, ValueError, TypeError, OverflowError)


class PersonVerifier:
    """Verifies tokens of the configured issuers. `known` is quick; `claim` may wait for an issuer's keys."""

    def __init__(self, issuers: tuple[IssuerSettings, ...]) -> None:
        self._issuers = {settings.issuer: (settings, IssuerKeys(settings)) for settings in issuers}
        self._verified: dict[bytes, tuple[PersonClaim, float]] = {}
        self._lock = threading.Lock()

    async def claim(self, token: str) -> PersonClaim:
        """`verify`, for an event loop. No thread waits meanwhile: a slow issuer must not use up those of others."""
        if (known := self.known(token)) is not None:
            return known
        if (fetch := self._fetch_for(token)) is not None:
            await asyncio.wait([asyncio.wrap_future(fetch)], timeout=FETCH_SECONDS)
        return await asyncio.to_thread(self.verify, token, wait_seconds=0.0)

    def known(self, token: str) -> PersonClaim | None:
        """The claim of a token that was verified before and still lives; None: it must be verified."""
        found = self._verified.get(sha256(token.encode()).digest())
        return found[0] if found and time.time() < found[1] else None

    def verify(self, token: str, wait_seconds: float = FETCH_SECONDS) -> PersonClaim:
        """The claim in `token`; its name is None for one that does not hold, for whatever reason.

        Waits for the issuer's keys up to `wait_seconds` where the token names one that is not known. CallError
        KEYS_UNAVAILABLE when they cannot be had by then, so that nothing can be said.
        """
        if len(token) > LONGEST_TOKEN:
            return _INVALID
        if wait_seconds and (fetch := self._fetch_for(token)) is not None:
            wait([fetch], timeout=wait_seconds)
        try:
            issuer, keys, key_id = self._named_in(token)
            key = keys.get(key_id)
            if key is None:
                if not keys.any or keys.fetching:
                    raise CallError(Reason.KEYS_UNAVAILABLE)
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
        except _MALFORMED:
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

    def _fetch_for(self, token: str) -> "Future[None] | None":
        """The fetch of the issuer's keys that `token` has to wait for, if any."""
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            _, keys, key_id = self._named_in(token)
        except _MALFORMED:
            return None
        return keys.fetch_for(key_id)

    def _named_in(self, token: str) -> tuple[IssuerSettings, IssuerKeys, str]:
        """The issuer and the key that an unverified token names; one of _MALFORMED where there are none such."""
        unverified = jwt.decode(token, options={"verify_signature": False})
        issuer, keys = self._issuers[str(unverified.get("iss"))]
        return issuer, keys, str(jwt.get_unverified_header(token).get("kid"))
