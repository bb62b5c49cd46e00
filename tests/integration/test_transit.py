"""Vault access on a real OpenBao: what each login can do, and what a Vault that is away does.

Nothing is imitated. What no login may do stands in test_vault_policies. The server is this file's own.
"""

import base64
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.dev.bootstrap import (
    AUDIENCE,
    DESTROY_ALLOW_POLICY,
    KEY_ADMIN_POLICY,
    OIDC_ROLE,
    VaultSetup,
    login_person,
    prepare_vault,
    server_approle,
)
from vault_service.dev.openbao import OpenBao
from vault_service.keys.transit import (
    AUDIT_KEY,
    AppRole,
    TokenValue,
    Vault,
    VaultBadAnswer,
    VaultCircuitOpen,
    VaultError,
    VaultNotFound,
    VaultRefused,
    VaultSealed,
    VaultUnreachable,
    person_key_name,
)

PEOPLE = {
    "records-officer": [],
    "key-admin-a": [KEY_ADMIN_POLICY],
    "key-admin-b": [KEY_ADMIN_POLICY, DESTROY_ALLOW_POLICY],
}
KEY = "ssn-vault-k12-data-1"
OTHER_KEY = "ssn-vault-k12-index-1"


@dataclass(frozen=True)
class World:
    """One prepared OpenBao and a login of each kind."""

    bao: OpenBao
    setup: VaultSetup
    root: Vault
    server: Vault
    admin: Vault
    officer: Vault
    wrapped: str  # a data key under KEY


def _prepared(bao: OpenBao, home: Path) -> World:
    root = Vault(bao.address, TokenValue(bao.root_token))
    setup = prepare_vault(root, PEOPLE)
    files = AppRole(home / "role_id", home / "secret_id")
    for path, secret in zip((files.role_id_file, files.secret_id_file), server_approle(root), strict=True):
        path.write_text(secret)
    admin = Vault(bao.address, TokenValue(login_person(root, "key-admin-a")))
    officer = Vault(bao.address, TokenValue(login_person(root, "records-officer")))
    admin.create_wrapping_key(KEY)
    admin.create_wrapping_key(OTHER_KEY)
    wrapped = admin.new_wrapped_key(KEY)
    return World(bao, setup, root, Vault(bao.address, files), admin, officer, wrapped)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("vault")
    with OpenBao(home / "openbao") as bao:
        prepared = _prepared(bao, home)
        yield prepared
        for vault in (prepared.root, prepared.server, prepared.admin, prepared.officer):
            vault.close()


# Keys


def test_the_server_opens_what_an_admin_made_without_seeing_it(world: World) -> None:
    key = world.server.unwrap(KEY, world.wrapped)
    assert len(key) == 32
    assert world.server.unwrap(KEY, world.wrapped) == key
    assert world.server.unwrap(KEY, world.admin.new_wrapped_key(KEY)) != key


def test_another_name_does_not_open_a_wrapped_key(world: World) -> None:
    with pytest.raises(VaultRefused):
        world.server.unwrap(OTHER_KEY, world.wrapped)
    with pytest.raises(VaultRefused):
        world.server.unwrap("ssn-vault-k12-data-9", world.wrapped)
    with pytest.raises(VaultRefused):
        world.server.unwrap(KEY, world.wrapped[:-8] + "AAAAAAA=")
    path, context = f"transit/decrypt/{KEY}", base64.b64encode(OTHER_KEY.encode()).decode()
    with pytest.raises(VaultRefused):
        world.server.write(path, ciphertext=world.wrapped, context=context)


def test_making_a_wrapping_key_twice_keeps_it(world: World) -> None:
    before = world.server.unwrap(KEY, world.wrapped)
    world.admin.create_wrapping_key(KEY)
    assert world.server.unwrap(KEY, world.wrapped) == before


def test_a_key_of_another_kind_is_not_taken_for_a_wrapping_key(world: World) -> None:
    world.root.write("transit/keys/ssn-vault-k12-data-7", type="aes256-gcm96", derived=True, exportable=True)
    with pytest.raises(VaultBadAnswer):
        world.admin.create_wrapping_key("ssn-vault-k12-data-7")
    with pytest.raises(VaultBadAnswer):
        world.root.public_keys("ssn-vault-k12-data-7")
    with pytest.raises(VaultNotFound):
        world.root.public_keys("ssn-vault-nothing")


def test_a_rotated_wrapping_key_still_opens_older_wraps(world: World) -> None:
    before = world.server.unwrap(KEY, world.wrapped)
    world.admin.write(f"transit/keys/{KEY}/rotate")
    assert world.admin.new_wrapped_key(KEY).startswith("vault:v2:")
    assert world.server.unwrap(KEY, world.wrapped) == before


def test_the_server_signs_checkpoints_that_its_public_key_verifies(world: World) -> None:
    version, signature = world.server.sign(AUDIT_KEY, b"checkpoint")
    public = world.server.public_keys(AUDIT_KEY)
    assert set(public) == {1}
    Ed25519PublicKey.from_public_bytes(public[version]).verify(signature, b"checkpoint")


# People


def test_a_login_knows_its_person_and_root_is_nobody(world: World) -> None:
    assert world.officer.person_name() == "records-officer"
    assert world.root.person_name() is None


def test_a_persons_token_verifies_and_names_the_person(world: World) -> None:
    token = world.officer.person_token(OIDC_ROLE)
    keys = requests.get(world.setup.jwks_url, timeout=5).json()
    header = jwt.get_unverified_header(token)
    key = next(key for key in jwt.PyJWKSet.from_dict(keys).keys if key.key_id == header["kid"])
    claims = jwt.decode(
        token,
        key.key,
        algorithms=["RS256"],
        audience=AUDIENCE,
        issuer=world.setup.issuer,
        options={"require": ["exp", "iat", "sub", "iss", "aud"]},
    )
    assert claims["person"] == "records-officer"
    assert claims["sub"] == world.setup.entities["records-officer"]
    assert 0 < claims["exp"] - claims["iat"] <= 600


def test_preparing_again_changes_no_key_and_no_person(world: World) -> None:
    names = [AUDIT_KEY, *map(person_key_name, PEOPLE)]
    before = [world.root.public_keys(name) for name in names]
    assert prepare_vault(world.root, PEOPLE).entities == world.setup.entities
    assert [world.root.public_keys(name) for name in names] == before
    assert world.officer.person_name() == "records-officer"


@pytest.mark.parametrize("name", ["", "Records", "a/b", "a*", "../x", "-a", "a" * 64])
def test_a_name_that_would_change_a_policys_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        person_key_name(name)


# Vault away. These come last: they stop and start the server the others use.


def test_a_sealed_vault_says_so_and_heals(world: World) -> None:
    key = world.server.unwrap(KEY, world.wrapped)
    world.bao.stop()
    world.bao.start()  # one that was just initialized may open itself again seconds later
    world.root.write("sys/seal")
    with pytest.raises(VaultSealed) as caught:
        world.server.unwrap(KEY, world.wrapped)
    assert caught.value.transient
    world.bao.stop()
    world.bao.start()
    assert world.server.unwrap(KEY, world.wrapped) == key


def test_a_stopped_vault_is_unreachable_and_its_data_outlives_the_restart(world: World) -> None:
    key = world.server.unwrap(KEY, world.wrapped)
    address, public = world.bao.address, world.server.public_keys(AUDIT_KEY)
    world.bao.stop()
    start = time.monotonic()
    with pytest.raises(VaultUnreachable) as caught:
        world.server.unwrap(KEY, world.wrapped)
    assert caught.value.transient
    assert time.monotonic() - start < 2
    world.bao.start()
    assert world.bao.address == address
    _wait_for_it(world)
    assert world.server.unwrap(KEY, world.wrapped) == key
    assert world.server.public_keys(AUDIT_KEY) == public
    assert world.officer.person_name() == "records-officer"


def test_calls_under_way_while_vault_restarts_fail_only_with_what_will_pass(world: World) -> None:
    key = world.server.unwrap(KEY, world.wrapped)
    over = threading.Event()
    failures: list[VaultError] = []
    opened: list[bytes] = []

    def load() -> None:
        while not over.is_set():
            try:
                opened.append(world.server.unwrap(KEY, world.wrapped))
            except VaultError as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    world.bao.stop()
    time.sleep(0.5)
    world.bao.start()
    time.sleep(0.5)
    over.set()
    for thread in threads:
        thread.join()
    assert set(opened) == {key}
    assert failures
    assert all(error.transient for error in failures), {str(error) for error in failures if not error.transient}


def _wait_for_it(world: World) -> None:
    """Until a Vault that is back is asked again: after calls without an answer, some are not sent at all."""
    deadline = time.monotonic() + 10
    while True:
        try:
            world.server.unwrap(KEY, world.wrapped)
        except VaultCircuitOpen:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
