"""Owns what the blocking and the asyncio client have in common: credentials, channel options, the person's
token, and when a failed call is tried again. It opens no channel."""

import random
import re
from collections.abc import Callable
from typing import TypeAlias

import grpc

from ssn_vault_client.errors import OverloadedError, SsnVaultError, UnavailableError
from ssn_vault_client.profile import Profile, ProfileError

PersonToken: TypeAlias = str | Callable[[], str] | None
Metadata: TypeAlias = tuple[tuple[str, str], ...]

CHANNEL_OPTIONS = (
    # Off, because a proxy named by some environment variable should not learn who calls the vault.
    ("grpc.enable_http_proxy", 0),
    # A firewall can forget a connection without telling anybody: every call would then run into its deadline, for as
    # long as the client lives. So it asks, also when idle, and connects again when nothing comes back.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 5_000),  # what ends the wait (grpcio 1.85); the one above is for the kernel
    ("grpc.http2.max_pings_without_data", 0),
)

_PERSON_KEY = "ssn-vault-person"
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


def credentials(profile: Profile) -> grpc.ChannelCredentials:
    """Mutual TLS as `profile` says. Raises ProfileError. Renewed files need a new client."""
    ca, key, cert = profile.read_credentials()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def person_metadata(source: PersonToken, profile: Profile) -> Metadata:
    """The metadata that names the person: `source`, else the profile's file, else none.

    Raises ProfileError for a file that cannot be read, ValueError for what is no JWT: gRPC would print it.
    """
    if source is None and profile.person_token_file is not None:
        try:
            token = profile.person_token_file.read_text(encoding="ascii", errors="replace")
        except OSError as failure:
            problem = f"{profile.person_token_file} cannot be read: {failure.strerror}"
            raise ProfileError("person_token_file", problem) from None
    elif source is None:
        return ()
    else:
        token = source() if callable(source) else source
    token = token.strip()
    if not _JWT.fullmatch(token):
        raise ValueError("the person's token is not a signed token (JWT)")
    return ((_PERSON_KEY, token),)


def pause_before_retry(error: SsnVaultError, attempt: int, retries: int, left: float) -> float | None:
    """Seconds to wait before trying again after attempt number `attempt` (from 0), or None to give up.

    Only UNAVAILABLE and OVERLOADED are tried again, and only if the wait fits in the `left` seconds of the
    deadline. The caller passes `retries` 0 for a call whose repetition would not be free.
    """
    if attempt >= retries or not isinstance(error, UnavailableError | OverloadedError):
        return None
    pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers
    pause = max(pause, error.retry_after or 0.0)
    return pause if pause < left else None
