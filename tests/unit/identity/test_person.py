"""A person's token holds only when everything about it holds."""

import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.identity.tokens import (
    AUDIENCE,
    HOLDS,
    INVALID,
    ISSUER,
    claims_of,
    jwks,
    segment,
    settings_of,
    signed_token,
    token_of,
)
from vault_service.config import IssuerSettings
from vault_service.identity import person as person_module
from vault_service.identity.caller import PersonClaim
from vault_service.identity.person import LONGEST_TOKEN, PersonVerifier

# What holds


def test_a_token_of_either_key_holds(verifier: PersonVerifier, rsa: RSAPrivateKey, ec: EllipticCurvePrivateKey) -> None:
    assert verifier.verify(token_of(rsa)) == HOLDS
    assert verifier.verify(token_of(ec, "two")) == HOLDS


def test_the_claim_that_names_the_person_is_a_setting(jwks_file: Path, rsa: RSAPrivateKey) -> None:
    verifier = PersonVerifier((settings_of(jwks_file, person_claim="email"),))
    assert verifier.verify(token_of(rsa, email="clerk")) == PersonClaim("clerk")
    assert verifier.verify(token_of(rsa)) == INVALID


def test_an_audience_may_be_one_of_several(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    assert verifier.verify(token_of(rsa, aud=["another", AUDIENCE])) == HOLDS


def test_each_issuer_has_its_own_keys_and_audience(
    tmp_path: Path, jwks_file: Path, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey
) -> None:
    second = tmp_path / "second.json"
    second.write_text(json.dumps(jwks(one=other_rsa)))
    verifier = PersonVerifier(
        (settings_of(jwks_file), IssuerSettings(issuer="https://b.example", audience="b", jwks_file=second))
    )
    assert verifier.verify(token_of(rsa)) == HOLDS
    assert verifier.verify(token_of(other_rsa, iss="https://b.example", aud="b")) == HOLDS
    assert verifier.verify(token_of(rsa, iss="https://b.example", aud="b")) == INVALID
    assert verifier.verify(token_of(other_rsa)) == INVALID
    assert verifier.verify(token_of(rsa, aud="b")) == INVALID


def test_clocks_may_differ_by_the_leeway(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    now = int(time.time())
    assert verifier.verify(token_of(rsa, iat=now - 60, exp=now - 2)) == HOLDS
    assert verifier.verify(token_of(rsa, iat=now + 3, exp=now + 60)) == HOLDS


def test_what_was_verified_is_known_until_it_expires(
    verifier: PersonVerifier, rsa: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_of(rsa)
    assert verifier.known(token) is None
    verifier.verify(token)
    assert verifier.known(token) == HOLDS
    assert verifier.known(token[:-2]) is None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 310)
    assert verifier.known(token) is None


def test_what_did_not_hold_is_not_known(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    token = token_of(rsa, aud="another")
    verifier.verify(token)
    assert verifier.known(token) is None


def test_the_memory_of_verified_tokens_is_bounded(
    verifier: PersonVerifier, ec: EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(person_module, "_REMEMBERED", 10)
    for number in range(35):
        assert verifier.verify(token_of(ec, "two", sub=f"person-{number}")).name == f"person-{number}"
    assert len(verifier._verified) <= 10


# What does not hold


_NOW = int(time.time())


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://another.example"},
        {"iss": ISSUER + "/"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"iss": {}},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": []},
        {"aud": None},
        {"sub": None},
        {"iat": None},
        {"exp": None},
        {"iat": _NOW - 3600, "exp": _NOW - 60},
        {"iat": _NOW + 3600, "exp": _NOW + 3700},
        {"nbf": _NOW + 3600},
        {"iat": _NOW - 5, "exp": _NOW + 596},
        {"iat": _NOW - 86_400, "exp": _NOW + 300},
        {"iat": _NOW, "exp": _NOW + 24 * 3600},
    ],
)
def test_a_claim_that_does_not_hold_makes_the_token_invalid(
    verifier: PersonVerifier, rsa: RSAPrivateKey, changes: dict[str, Any]
) -> None:
    assert verifier.verify(signed_token(rsa, claims_of(**changes))) == INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": 5},
        {"sub": ["tax-clerk"]},
        {"sub": {"name": "tax-clerk"}},
        {"exp": str(_NOW + 300)},
        {"iat": str(_NOW)},
        {"exp": "soon"},
        {"exp": [_NOW + 300]},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**400},
    ],
)
def test_a_claim_of_the_wrong_form_makes_the_token_invalid(
    verifier: PersonVerifier, rsa: RSAPrivateKey, changes: dict[str, Any]
) -> None:
    assert verifier.verify(signed_token(rsa, claims_of(**changes))) == INVALID


@pytest.mark.parametrize("key_id", [None, "three", "", "../one", "One"])
def test_an_unknown_key_id_is_invalid(verifier: PersonVerifier, rsa: RSAPrivateKey, key_id: str | None) -> None:
    assert verifier.verify(token_of(rsa, key_id)) == INVALID


def test_another_keys_signature_is_invalid(verifier: PersonVerifier, other_rsa: RSAPrivateKey) -> None:
    assert verifier.verify(token_of(other_rsa)) == INVALID
    assert verifier.verify(token_of(generate_private_key(SECP256R1()), "two")) == INVALID


def test_any_changed_part_makes_a_token_invalid(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    header, payload, signature = token_of(rsa).split(".")
    forged = segment(claims_of(sub="key-admin-a"))
    for token in (
        f"{header}.{forged}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature[:-4]}",
        f"{header}.{payload}.{signature[:10]}{'A' if signature[10] != 'A' else 'B'}{signature[11:]}",
    ):
        assert verifier.verify(token) == INVALID


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
def test_a_token_without_signature_is_invalid(verifier: PersonVerifier, algorithm: str) -> None:
    header = segment({"alg": algorithm, "typ": "JWT", "kid": "one"})
    assert verifier.verify(f"{header}.{segment(claims_of())}.") == INVALID


def test_the_public_key_as_a_shared_secret_is_invalid(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    """The old trick: HS256 with what everybody knows."""
    public = rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm, digest in (("HS256", "sha256"), ("HS512", "sha512")):
        signed = f"{segment({'alg': algorithm, 'typ': 'JWT', 'kid': 'one'})}.{segment(claims_of())}"
        forged = f"{signed}.{segment(hmac.digest(public, signed.encode(), digest))}"
        assert verifier.verify(forged) == INVALID


def test_an_algorithm_that_the_issuer_does_not_use_is_invalid(
    jwks_file: Path, rsa: RSAPrivateKey, ec: EllipticCurvePrivateKey
) -> None:
    verifier = PersonVerifier((settings_of(jwks_file),))  # RS256 only
    assert verifier.verify(token_of(rsa)) == HOLDS
    assert verifier.verify(token_of(rsa, algorithm="RS512")) == INVALID
    assert verifier.verify(token_of(rsa, algorithm="PS256")) == INVALID
    assert verifier.verify(token_of(ec, "two")) == INVALID


def test_one_keys_id_with_another_keys_algorithm_is_invalid(
    verifier: PersonVerifier, rsa: RSAPrivateKey, ec: EllipticCurvePrivateKey
) -> None:
    assert verifier.verify(token_of(ec, "one")) == INVALID
    assert verifier.verify(token_of(rsa, "two")) == INVALID


@pytest.mark.parametrize("names", [{"jwk": {}}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}])
def test_a_key_that_the_token_brings_along_is_not_used(
    verifier: PersonVerifier, other_rsa: RSAPrivateKey, names: dict[str, Any]
) -> None:
    if "jwk" in names:
        names = {"jwk": jwks(one=other_rsa)["keys"][0]}
    header = {"alg": "RS256", "typ": "JWT", "kid": "one", **names}
    assert verifier.verify(signed_token(other_rsa, claims_of(), header)) == INVALID


def test_an_oversized_token_is_not_even_read(verifier: PersonVerifier, rsa: RSAPrivateKey) -> None:
    token = token_of(rsa, padding="x" * LONGEST_TOKEN)
    assert len(token) > LONGEST_TOKEN
    assert verifier.verify(token) == INVALID


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\x00",
        "\u00e9.\u00e9.\u00e9",
        f"{segment({})}.{segment({})}.",
        f"{segment([])}.{segment([])}.{segment([])}",
        f"{segment({'alg': 'RS256', 'kid': 'one'})}.{segment('text')}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 7})}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': 7, 'kid': 'one'})}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': ['RS256'], 'kid': 'one'})}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 'one', 'crit': ['x']})}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 'one', 'b64': False})}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 'one'})}.{segment(b'[' * 6000)}.AAAA",
        f"{segment(b'[' * 6000)}.{segment(claims_of())}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 'one'})}.{segment(b'9' * 6000)}.AAAA",
        f"{segment({'alg': 'RS256', 'kid': 'one'})}.{segment(bytes([255, 254]))}.AAAA",
    ],
)
def test_junk_is_invalid_and_raises_nothing(verifier: PersonVerifier, token: str) -> None:
    assert verifier.verify(token) == INVALID
