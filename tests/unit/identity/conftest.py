"""Keys of issuers, made once a file, and a verifier that knows two of them."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa

from tests.unit.identity.tokens import jwks, settings_of
from vault_service.identity.person import PersonVerifier


@pytest.fixture(scope="module")
def rsa() -> RSAPrivateKey:
    return generate_rsa(65537, 2048)


@pytest.fixture(scope="module")
def other_rsa() -> RSAPrivateKey:
    return generate_rsa(65537, 2048)


@pytest.fixture(scope="module")
def ec() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


@pytest.fixture
def jwks_file(tmp_path: Path, rsa: RSAPrivateKey, ec: EllipticCurvePrivateKey) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(jwks(one=rsa, two=ec)))
    return path


@pytest.fixture
def verifier(jwks_file: Path) -> PersonVerifier:
    return PersonVerifier((settings_of(jwks_file, algorithms=("RS256", "ES256")),))
