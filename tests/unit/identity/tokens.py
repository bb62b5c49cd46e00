"""Persons' tokens and key sets, made when the test runs."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from vault_service.config import IssuerSettings
from vault_service.identity.caller import PersonClaim

ISSUER, AUDIENCE = "https://issuer.example", "ssn-vault"
HOLDS, INVALID = PersonClaim("tax-clerk"), PersonClaim(None)
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey


def jwks(**keys: PrivateKey) -> dict[str, Any]:
    """A key set (RFC 7517) of public keys, by key id."""
    found = []
    for key_id, key in keys.items():
        algorithm: Any = jwt.get_algorithm_by_name("RS256" if isinstance(key, RSAPrivateKey) else "ES256")
        found.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"})
    return {"keys": found}


def claims_of(**changes: Any) -> dict[str, Any]:
    """The claims of a token that holds, but for `changes`; None leaves a claim out."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "tax-clerk", "iat": now - 5, "exp": now + 300, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def token_of(key: PrivateKey, key_id: str | None = "one", algorithm: str = "", **changes: Any) -> str:
    """A signed token."""
    algorithm = algorithm or ("RS256" if isinstance(key, RSAPrivateKey) else "ES256")
    headers = {"kid": key_id} if key_id is not None else None
    return jwt.encode(claims_of(**changes), key, algorithm=algorithm, headers=headers)


def segment(value: Any) -> str:
    """One part of a token: base64url without padding (RFC 7515)."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_token(key: RSAPrivateKey, claims: Any, header: dict[str, Any] | None = None) -> str:
    """An RS256 token of any claims, also such as a library would not encode."""
    signed = f"{segment(header or {'alg': 'RS256', 'typ': 'JWT', 'kid': 'one'})}.{segment(claims)}"
    return f"{signed}.{segment(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def settings_of(path: Path, **changes: Any) -> IssuerSettings:
    """An issuer whose keys stand in the file `path`."""
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": path, **changes}
    return IssuerSettings(**settings)
