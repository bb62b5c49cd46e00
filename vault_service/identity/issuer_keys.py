"""The public keys of one issuer of persons' tokens, fetched aside: nobody waits long for a slow issuer.

A key id comes in; its key goes out, or that it is not known, or a fetch to wait for. Keys that are known serve while
newer ones are fetched. One fetch runs at a time, as a whole within its deadline, and key ids that strangers invent
cause one now and then, not one each.
"""

import threading
import time
from concurrent.futures import Future
from typing import Final

import jwt
import requests
import structlog

from vault_service.config import IssuerSettings
from vault_service.wire import new_session, until

FETCH_SECONDS: Final = 3.0  # for a fetch as a whole, however slowly the issuer sends; nobody waits longer
_KEYS_LIVE: Final = 3600.0  # seconds, then newer ones are fetched
_KEYS_COUNT: Final = 2 * _KEYS_LIVE  # seconds, then the old ones no longer count: one may have been withdrawn
_PAUSES: Final = (2.0, 10.0)  # seconds from one fetch to the next, twice as long each time while nothing new comes
_LONGEST_ANSWER: Final = 1024 * 1024  # bytes
_log: Final = structlog.stdlib.get_logger("ssn_vault.identity")


class IssuerKeys:
    """By key id. Any thread may ask; nothing here waits."""

    def __init__(self, settings: IssuerSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()  # held for moments only, never while something is fetched
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._next_at = float("-inf")  # monotonic; no fetch begins before
        self._pause = _PAUSES[0]
        self._fetch: Future[None] | None = None  # the one that runs

    @property
    def any(self) -> bool:
        """Whether any key is known."""
        return bool(self._keys)

    @property
    def fetching(self) -> bool:
        """Whether a fetch runs, so that a key that is not known may still come."""
        return self._fetch is not None

    def get(self, key_id: str) -> jwt.PyJWK | None:
        """The key, when it is known and what is known is not too old."""
        return self._keys.get(key_id) if time.monotonic() - self._fetched_at <= _KEYS_COUNT else None

    def fetch_for(self, key_id: str) -> Future[None] | None:
        """The fetch that may bring the key, begun when it is time; None when there is nothing to wait for.

        For a key that is known there never is, until it is too old to count: the fetch that this begins runs aside.
        """
        with self._lock:
            now = time.monotonic()
            known = self.get(key_id) is not None
            old = now - self._fetched_at > _KEYS_LIVE
            if self._fetch is None and (old or not known) and now >= self._next_at:
                self._fetch = Future()
                threading.Thread(target=self._run, args=(self._fetch,), name="issuer-keys", daemon=True).start()
            return None if known else self._fetch

    def _run(self, fetch: "Future[None]") -> None:
        keys: dict[str, jwt.PyJWK] | None = None
        try:
            keys = {key.key_id: key for key in self._asked().keys if key.key_id}
        except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            # requests' errors are OSErrors; PyJWT takes apart what is no mapping with TypeError and AttributeError
            _log.warning("an issuer's keys cannot be had", error=type(error).__name__)
        finally:
            with self._lock:
                now = time.monotonic()
                new = keys is not None and keys.keys() != self._keys.keys()
                if keys is not None:
                    self._keys, self._fetched_at = keys, now
                self._pause = _PAUSES[0] if new else min(self._pause * 2, _PAUSES[1])
                self._next_at = now + self._pause
                self._fetch = None
            fetch.set_result(None)

    def _asked(self) -> jwt.PyJWKSet:
        settings = self._settings
        if settings.jwks_file is not None:
            return jwt.PyJWKSet.from_json(settings.jwks_file.read_text("utf-8"))
        with (
            new_session(settings.ca_file, None) as session,
            until(time.monotonic() + FETCH_SECONDS),
            session.get(settings.jwks_url or "", timeout=FETCH_SECONDS, allow_redirects=False, stream=True) as answer,
        ):
            answer.raise_for_status()
            if answer.status_code != requests.codes.ok:
                raise ValueError
            text = b""
            for part in answer.iter_content(65536):
                text += part
                if len(text) > _LONGEST_ANSWER:
                    raise ValueError
        return jwt.PyJWKSet.from_json(text.decode("utf-8"))
