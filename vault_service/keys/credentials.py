"""What a login shows to Vault: which files it is, whether they have changed, and how long they say that they are good.

A login comes in; a fingerprint of its files, or the life that a signed token or a certificate claims for itself, goes
out. Nothing is sent anywhere, and nothing that is secret is kept.
"""

import math
import os
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509

from vault_service.keys.methods import AppRole, Certificate, Jwt, Kubernetes, Login, TokenFile, TokenValue


@dataclass(frozen=True)
class Shown:
    """Files at one moment: `content` is a digest of what they hold, `touched` changes when one is written."""

    content: bytes
    touched: tuple[int, ...]


@dataclass(frozen=True)
class Life:
    """When something ends (Unix seconds, infinite for never), and how long it lives in all, in seconds."""

    ends: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds until the end, 0 when it is over."""
        return max(0.0, self.ends - time.time())


ENDLESS: Final = Life(math.inf, math.inf)
GONE: Final = Life(0.0, math.inf)  # not good any more, whatever its life was


def files_of(login: Login) -> tuple[Path, ...]:
    """The files that a login reads; none for a token in memory."""
    match login:
        case TokenFile(path):
            return (path,)
        case TokenValue():
            return ()
        case AppRole(role_id_file, secret_id_file):
            return role_id_file, secret_id_file
        case Kubernetes(_, token_file) | Jwt(_, token_file):
            return (token_file,)
        case Certificate(cert_file, key_file):
            return cert_file, key_file


def shown_by(login: Login) -> Shown:
    """What the login would show now. A file that cannot be read counts as one state of its own."""
    content = sha256()
    touched: list[int] = []
    for path in files_of(login):
        try:
            status, text = os.stat(path), path.read_bytes()
        except OSError:
            content.update(b"-")
            touched.append(0)
        else:
            content.update(b"+" + sha256(text).digest())
            touched += [status.st_mtime_ns, status.st_ino]
    return Shown(content.digest(), tuple(touched))


def own_life(login: Login) -> Life | None:
    """The life that a signed token (`exp`) or a certificate claims for itself; None where it claims none."""
    try:
        match login:
            case Kubernetes(_, token_file) | Jwt(_, token_file):
                return _of_token(token_file.read_text(encoding="ascii").strip())
            case Certificate(cert_file):
                certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
                ends = certificate.not_valid_after_utc.timestamp()
                return Life(ends, ends - certificate.not_valid_before_utc.timestamp())
    except (OSError, ValueError, jwt.PyJWTError):
        return GONE  # the login itself says what is wrong with the file
    return None


def _of_token(token: str) -> Life | None:
    """RFC 7519, section 4.1.4. Vault verifies the token; here it only tells when somebody must renew it."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    ends, begins = claims.get("exp"), claims.get("iat", claims.get("nbf"))
    if not isinstance(ends, (int, float)):
        return None
    return Life(ends, ends - begins if isinstance(begins, (int, float)) else max(0.0, ends - time.time()))
