"""Ways of the server to log in, at a real OpenBao: JWT, wrapped secret ids, namespaces; a short life under load."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ssn_vault_client import Ssn, TokenizeItem
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.dev.bootstrap import prepare_vault
from vault_service.dev.openbao import OpenBao
from vault_service.keys.answers import VaultWrappingRefused
from vault_service.keys.transit import AppRole, Jwt, Login, TokenFile, TokenValue, Vault, VaultDenied

KEY = "ssn-vault-k12-data-1"
ROLE = "auth/approle/role/ssn-vault-server"


@dataclass(frozen=True)
class World:
    """One prepared OpenBao, root's login, and a data key wrapped under KEY."""

    bao: OpenBao
    root: Vault
    wrapped: str

    def opens(self, login: Login, **more: str) -> bool:
        """Whether a server that logs in so can unwrap."""
        vault = Vault(self.bao.address, login, **more)  # type: ignore[arg-type]  # a namespace
        try:
            return len(vault.unwrap(KEY, self.wrapped)) == 32
        finally:
            vault.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with OpenBao(tmp_path_factory.mktemp("methods") / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {})
        root.create_wrapping_key(KEY)
        yield World(bao, root, root.new_wrapped_key(KEY))
        root.close()


# JWT


@pytest.fixture
def issuer(world: World) -> ec.EllipticCurvePrivateKey:
    """Somebody whose signed tokens this Vault trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    if "jwt/" not in (world.root.read("sys/auth") or {}):
        world.root.write("sys/auth/jwt", type="jwt")
    world.root.write("auth/jwt/config", jwt_validation_pubkeys=[public])
    world.root.write(
        "auth/jwt/role/server",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=["vault"],
        bound_subject="ssn-vault",
        token_policies=["ssn-vault-server"],
        token_ttl="1h",
    )
    return key


def signed(key: ec.EllipticCurvePrivateKey, **claims: object) -> str:
    now = int(time.time())
    return jwt.encode({"sub": "ssn-vault", "aud": "vault", "iat": now, "exp": now + 60, **claims}, key, "ES256")


def test_a_signed_token_logs_in_and_a_renewed_file_is_read(
    world: World, issuer: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(signed(issuer))
    login = Jwt("server", file)
    assert world.opens(login)
    vault = Vault(world.bao.address, login)
    vault.unwrap(KEY, world.wrapped)
    file.write_text(signed(ec.generate_private_key(ec.SECP256R1())))
    other = Vault(world.bao.address, login)
    with pytest.raises(VaultDenied):
        other.unwrap(KEY, world.wrapped)
    assert len(vault.unwrap(KEY, world.wrapped)) == 32  # the login it has goes on
    file.write_text(signed(issuer))
    assert len(other.unwrap(KEY, world.wrapped)) == 32
    vault.close()
    other.close()


@pytest.mark.parametrize("claims", [{"aud": "other"}, {"sub": "somebody"}, {"exp": 1}])
def test_a_token_for_something_else_is_denied(
    world: World, issuer: ec.EllipticCurvePrivateKey, tmp_path: Path, claims: dict[str, object]
) -> None:
    (tmp_path / "token").write_text(signed(issuer, **claims))
    with pytest.raises(VaultDenied):
        world.opens(Jwt("server", tmp_path / "token"))


# AppRole with a wrapped secret id


def wrapping_token(world: World) -> str:
    """A wrapping token of a fresh secret id, as whoever delivers it gets one: good for 5 minutes, once."""
    adapter = world.root._adapter()
    adapter.token = world.bao.root_token
    answer = adapter.request("POST", f"/v1/{ROLE}/secret-id", json={}, wrap_ttl="5m").json()
    return str(answer["wrap_info"]["token"])


@pytest.fixture
def wrapped_login(world: World, tmp_path: Path) -> AppRole:
    role_id = world.root.read(f"{ROLE}/role-id")
    assert role_id is not None
    (tmp_path / "role").write_text(role_id["role_id"])
    (tmp_path / "secret").write_text(wrapping_token(world))
    return AppRole(tmp_path / "role", tmp_path / "secret", secret_id_wrapped=True)


def test_a_wrapped_secret_id_logs_in_again_and_again_but_is_never_on_disk(
    world: World, wrapped_login: AppRole, tmp_path: Path
) -> None:
    vault = Vault(world.bao.address, wrapped_login)
    assert len(vault.unwrap(KEY, world.wrapped)) == 32
    before = wrapped_login.secret_id_file.read_text()
    token = vault._keeper._token
    assert token is not None
    world.root.write("auth/token/revoke", token=token.value)
    assert len(vault.unwrap(KEY, world.wrapped)) == 32  # another login with the same secret id, out of memory
    assert wrapped_login.secret_id_file.read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"role", "secret"}
    vault.close()


def test_a_wrapping_token_that_somebody_used_is_said_loudly(world: World, wrapped_login: AppRole) -> None:
    assert world.opens(wrapped_login)  # the thief
    with pytest.raises(VaultWrappingRefused, match="used already"):
        world.opens(wrapped_login)


def test_a_wrapping_token_of_another_making_is_refused(world: World, wrapped_login: AppRole) -> None:
    """Somebody who knows a secret id of their own could wrap it and put it in the place of the true one."""
    adapter = world.root._adapter()
    adapter.token = world.bao.root_token
    made = adapter.request("POST", "/v1/sys/wrapping/wrap", json={"secret_id": "theirs"}, wrap_ttl="5m").json()
    wrapped_login.secret_id_file.write_text(made["wrap_info"]["token"])
    with pytest.raises(VaultWrappingRefused, match="was not made by"):
        world.opens(wrapped_login)


# Namespaces


def test_a_namespace_holds_its_own_keys(world: World, tmp_path: Path) -> None:
    world.root.write("sys/namespaces/agency")
    inside = Vault(world.bao.address, TokenValue(world.bao.root_token), namespace="agency")
    inside.write("sys/mounts/transit", type="transit")
    inside.create_wrapping_key(KEY)
    theirs = inside.new_wrapped_key(KEY)
    assert len(inside.unwrap(KEY, theirs)) == 32
    inside.close()
    (tmp_path / "token").write_text(world.bao.root_token)
    mine = World(world.bao, world.root, theirs)
    assert mine.opens(TokenFile(tmp_path / "token"), namespace="agency")
    with pytest.raises(Exception, match="status 400"):
        mine.opens(TokenFile(tmp_path / "token"))  # the same name outside is another key


# A short life under load


def test_a_login_that_lives_20_seconds_fails_no_call(tmp_path: Path) -> None:
    """Renewed once or not at all, then a new login, for 45 seconds, with keys that are asked for every 2 seconds."""
    with Stack(tmp_path / "home", settings={"SSN_VAULT_KEYS__LEASE_SECONDS": "4"}) as stack:
        root = stack.root()
        root.write(ROLE, token_policies=["ssn-vault-server"], token_period="0", token_ttl="20s", token_max_ttl="20s")
        root.close()
        assert stack.server.stop() == 0
        stack.server.start()
        calls, until = 0, time.monotonic() + 45
        with stack.client("sis") as client:
            while time.monotonic() < until:
                (result,) = client.tokenize("k12", [TokenizeItem(Ssn("936-05-0001"))])
                answer = client.detokenize(
                    "k12",
                    [result.token or ""],
                    purpose="transcript-verification",
                    justification=JUSTIFICATION,
                )
                assert answer.results[0].ssn is not None
                calls += 1
        assert calls > 100
        assert "key lease ended" not in stack.log.read_text()
