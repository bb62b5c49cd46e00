"""Least privilege, on a real OpenBao: what each policy of deploy/vault refuses, and that what it is for still works.

Every attempt must end in 403. Before it, the same login does something that it may, so that none is refused for
having no login at all. The server is this file's own.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault_service.dev.bootstrap import login_person, prepare_vault, server_approle
from vault_service.dev.openbao import OpenBao
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.setup import Right, policy_text
from vault_service.keys.transit import (
    AUDIT_KEY,
    AppRole,
    TokenValue,
    Vault,
    VaultDenied,
    VaultNotFound,
    VaultRefused,
    person_key_name,
)

PEOPLE: Mapping[str, tuple[Right, ...]] = {
    "clerk": (),
    "key-admin": (Right.KEY_ADMIN,),
    "allower": (Right.DESTROY_ALLOW,),
    "deleter": (Right.DESTROY_DELETE,),
    "approver": (Right.APPROVER,),
    "auditor": (Right.AUDITOR,),
    "issuer": (Right.CERTIFICATES,),
    # Rights are handed out together: what one of them denies or asks for must not break the other.
    "admin-who-allows": (Right.KEY_ADMIN, Right.DESTROY_ALLOW),
    "admin-who-deletes": (Right.KEY_ADMIN, Right.DESTROY_DELETE),
    "approver-who-deletes": (Right.APPROVER, Right.DESTROY_DELETE),
}
KEY = "ssn-vault-k12-data-1"
NEW = "ssn-vault-k12-data-9"
CLERK_KEY = person_key_name("clerk")


@dataclass(frozen=True)
class World:
    """One prepared OpenBao, a login of each kind by name, and a data key under KEY."""

    root: Vault
    logins: Mapping[str, Vault]
    wrapped: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("policies")
    with OpenBao(home / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {name: [right.policy for right in rights] for name, rights in PEOPLE.items()})
        files = AppRole(home / "role_id", home / "secret_id")
        for path, secret in zip((files.role_id_file, files.secret_id_file), server_approle(root), strict=True):
            path.write_text(secret)
        logins = {name: Vault(bao.address, TokenValue(login_person(root, name))) for name in PEOPLE}
        logins["server"] = Vault(bao.address, files)
        root.create_wrapping_key(KEY)
        yield World(root, logins, root.new_wrapped_key(KEY))
        for vault in (root, *logins.values()):
            vault.close()


def config(key: str, **options: object) -> Callable[[Vault], object]:
    return lambda vault: vault.write(f"transit/keys/{key}/config", **options)


Attempt = Callable[[Vault], object]

# No login of ours may do any of this.
FOR_NOBODY: Mapping[str, Attempt] = {
    "export": lambda vault: vault.read(f"transit/export/encryption-key/{KEY}"),
    "back up": lambda vault: vault.read(f"transit/backup/{KEY}"),
    "restore": lambda vault: vault.write(f"transit/restore/{NEW}", backup="AAAA"),
    "draw a key in the clear": lambda vault: vault.write(f"transit/datakey/plaintext/{KEY}", context="YQ=="),
    "encrypt": lambda vault: vault.write(f"transit/encrypt/{KEY}", plaintext="AAAA", context="YQ=="),
    "create a key by encrypting": lambda vault: vault.write(f"transit/encrypt/{NEW}", plaintext="AAAA"),
    "take a key out of service": lambda vault: vault._call("DELETE", f"transit/keys/{KEY}/soft-delete"),
    "put a key back into service": lambda vault: vault.write(f"transit/keys/{KEY}/soft-delete-restore"),
    "trim": lambda vault: vault.write(f"transit/keys/{KEY}/trim", min_available_version=1),
    "import a known key": lambda vault: vault.write(f"transit/keys/{NEW}/import", ciphertext="AAAA"),
    "import a known version": lambda vault: vault.write(f"transit/keys/{KEY}/import_version", ciphertext="AAAA"),
    "allow export": config(KEY, exportable=True),
    "allow backup": config(KEY, allow_plaintext_backup=True),
    "refuse old versions": config(KEY, min_decryption_version=2),
    "forbid deletion again": config(KEY, deletion_allowed=False),
    "allow deletion and export at once": config(KEY, deletion_allowed=True, exportable=True),
    "allow a person's key to be deleted": config(CLERK_KEY, deletion_allowed=True),
    "allow the audit key to be deleted": config(AUDIT_KEY, deletion_allowed=True),
    "delete a person's key": lambda vault: vault._call("DELETE", f"transit/keys/{CLERK_KEY}"),
    "delete the audit key": lambda vault: vault._call("DELETE", f"transit/keys/{AUDIT_KEY}"),
    "rotate a person's key": lambda vault: vault.write(f"transit/keys/{CLERK_KEY}/rotate"),
    "rotate the audit key": lambda vault: vault.write(f"transit/keys/{AUDIT_KEY}/rotate"),
    "make a person's key": lambda vault: vault.write("transit/keys/ssn-vault-person-new", type="ed25519"),
    "make an exportable key": lambda vault: vault.write(f"transit/keys/{NEW}", derived=True, exportable=True),
    "make an underived key": lambda vault: vault.write(f"transit/keys/{NEW}", type="aes256-gcm96", derived=False),
    "list keys": lambda vault: vault.read("transit/keys", list="true"),
    "list people": lambda vault: vault.read("identity/entity/name", list="true"),
    "list entities": lambda vault: vault.read("identity/entity/id", list="true"),
    "look somebody up": lambda vault: vault.write("identity/lookup/entity", name="clerk"),
    "read another's entity by name": lambda vault: vault.read("identity/entity/name/clerk"),
    "rename an entity": lambda vault: vault.write("identity/entity/name/clerk", policies=["root"]),
    "give somebody a login": lambda vault: vault.write("identity/entity-alias", name="x", canonical_id="x"),
    "hash for the audit device": lambda vault: vault.write("sys/audit-hash/dev", input="900-12-3456"),
    "see the audit devices": lambda vault: vault.read("sys/audit"),
    "write a policy": lambda vault: vault.put_policy("ssn-vault-server", 'path "*" {}'),
    "read a policy": lambda vault: vault.read("sys/policies/acl/ssn-vault-server"),
    "mount an engine": lambda vault: vault.write("sys/mounts/other", type="transit"),
    "change the token role": lambda vault: vault.write("identity/oidc/role/ssn-vault", ttl="24h"),
    "draw a secret id": lambda vault: vault.write("auth/approle/role/ssn-vault-server/secret-id"),
    "change the server's role": lambda vault: vault.write("auth/approle/role/ssn-vault-server", token_ttl="1h"),
    "have a key made by Vault": lambda vault: vault.write("pki/issue/ssn-vault-client", uri_sans="x"),
    "sign what it likes": lambda vault: vault.write("pki/sign-verbatim", csr="x"),
    "change a certificate role": lambda vault: vault.write("pki/roles/ssn-vault-client", allow_any_name=True),
    "seal": lambda vault: vault.write("sys/seal"),
    "make a token": lambda vault: vault.write("auth/token/create", policies=["root"]),
}

# What some may, and every other login may not: the logins that may, and the attempt.
FOR_SOME: Mapping[str, tuple[set[str], Attempt]] = {
    "open a wrapped key": ({"server"}, lambda vault: vault.write(f"transit/decrypt/{KEY}", ciphertext="x")),
    "sign checkpoints": ({"server"}, lambda vault: vault.sign(AUDIT_KEY, b"checkpoint")),
    "create a wrapping key": (
        {"key-admin", "admin-who-allows", "admin-who-deletes"},
        lambda vault: vault.write(
            f"transit/keys/{KEY}", type="aes256-gcm96", derived=True, exportable=False, allow_plaintext_backup=False
        ),
    ),
    "rotate a wrapping key": (
        {"key-admin", "admin-who-allows", "admin-who-deletes"},
        lambda vault: vault.write(f"transit/keys/{KEY}/rotate"),
    ),
    "draw a wrapped key": (
        {"key-admin", "admin-who-allows", "admin-who-deletes"},
        lambda vault: vault.new_wrapped_key(KEY),
    ),
    "allow deletion": ({"allower", "admin-who-allows"}, config("ssn-vault-k12-data-8", deletion_allowed=True)),
    "delete": (
        {"deleter", "admin-who-deletes", "approver-who-deletes"},
        lambda vault: vault._call("DELETE", "transit/keys/ssn-vault-k12-data-7"),
    ),
    "read the audit key": ({"server", "auditor"}, lambda vault: vault.public_keys(AUDIT_KEY)),
    "read people's keys": (
        {"server", "auditor", "approver"},  # who deletes keys is denied all of people's, and a denial wins
        lambda vault: vault.public_keys(CLERK_KEY),
    ),
    "sign as the clerk": ({"clerk"}, lambda vault: vault.sign(CLERK_KEY, b"order")),
    "have a client's certificate signed": (
        {"issuer"},
        lambda vault: vault.write("pki/sign/ssn-vault-client", csr="x", uri_sans="spiffe://ssn-vault.dev/client/sis"),
    ),
    "be named by a token": (set(PEOPLE), lambda vault: vault.person_token("ssn-vault")),
}


def works(vault: Vault) -> None:
    """The login lives: every policy lets it look at itself."""
    assert vault.read("auth/token/lookup-self") is not None


@pytest.mark.parametrize("what", FOR_NOBODY)
def test_no_login_of_ours_may(world: World, what: str) -> None:
    for name, vault in world.logins.items():
        works(vault)
        try:
            FOR_NOBODY[what](vault)
        except VaultDenied:
            continue
        except (VaultRefused, VaultNotFound) as error:
            pytest.fail(f"{name} was let through to the engine: {error}")
        pytest.fail(f"{name} may {what}")


@pytest.mark.parametrize("what", FOR_SOME)
def test_only_those_whose_task_it_is_may(world: World, what: str) -> None:
    allowed, attempt = FOR_SOME[what]
    may = set()
    for name, vault in world.logins.items():
        works(vault)
        try:
            attempt(vault)
        except VaultDenied:
            continue
        except (VaultRefused, VaultNotFound):
            pass  # let through; the engine found fault with the request
        may.add(name)
    assert may == allowed


def test_every_policy_has_been_tried() -> None:
    tried = {right for rights in PEOPLE.values() for right in rights}
    assert tried == set(Right)
    written = {path.stem for path in (Path(__file__).parents[2] / "deploy" / "vault").glob("*.hcl")}
    assert written == {*Right, "server", "person", "server-certificate", "server-database"}
    for name in written:
        reviewed = Path(__file__).parents[2] / "deploy" / "vault" / f"{name}.hcl"
        assert reviewed.read_text() == policy_text(name), "what is reviewed is what is put in force"


def test_a_person_signs_as_themselves_and_as_nobody_else(world: World) -> None:
    for name in PEOPLE:
        version, signature = world.logins[name].sign(person_key_name(name), b"order")
        public = Ed25519PublicKey.from_public_bytes(world.root.public_keys(person_key_name(name))[version])
        public.verify(signature, b"order")
        with pytest.raises(InvalidSignature):
            public.verify(signature, b"another order")
        for other in PEOPLE:
            if other != name:
                with pytest.raises(VaultDenied):
                    world.logins[name].sign(person_key_name(other), b"order")
    with pytest.raises(VaultDenied):
        world.logins["clerk"].sign("ssn-vault-person-cler", b"order")


@pytest.mark.parametrize(
    "other",
    [
        KeyName("highered", KeyKind.DATA, 1),
        KeyName("k12", KeyKind.INDEX, 1),
        KeyName("k12", KeyKind.DATA, 2),
    ],
    ids=["domain", "kind", "version"],
)
def test_a_wrapped_key_in_anothers_place_does_not_open(world: World, other: KeyName) -> None:
    own = KeyName("k12", KeyKind.DATA, 1)
    assert own.transit == KEY
    server = world.logins["server"]
    world.logins["key-admin"].create_wrapping_key(other.transit)
    assert len(server.unwrap(own.transit, world.wrapped)) == 32
    with pytest.raises(VaultRefused):
        server.unwrap(other.transit, world.wrapped)
    # The right transit key under another's name as context, and the other way round.
    for key, context in ((own, other), (other, own)):
        with pytest.raises(VaultRefused):
            server.write(
                f"transit/decrypt/{key.transit}",
                ciphertext=world.wrapped,
                context=base64.b64encode(context.transit.encode()).decode(),
            )
    theirs = world.logins["key-admin"].new_wrapped_key(other.transit)
    with pytest.raises(VaultRefused):
        server.unwrap(own.transit, theirs)


def test_destroying_a_key_takes_the_one_who_allows_and_the_one_who_deletes(world: World) -> None:
    name, server = "ssn-vault-k12-data-6", world.logins["server"]
    world.logins["key-admin"].create_wrapping_key(name)
    wrapped = world.logins["key-admin"].new_wrapped_key(name)
    for deleter in ("deleter", "admin-who-deletes", "approver-who-deletes"):
        with pytest.raises(VaultRefused):  # the engine's own no: nobody has allowed it
            world.logins[deleter]._call("DELETE", f"transit/keys/{name}")
        with pytest.raises(VaultDenied):
            config(name, deletion_allowed=True)(world.logins[deleter])
    assert server.unwrap(name, wrapped)
    for allower in ("allower", "admin-who-allows"):
        config(name, deletion_allowed=True)(world.logins[allower])
        with pytest.raises(VaultDenied):
            world.logins[allower]._call("DELETE", f"transit/keys/{name}")
    assert server.unwrap(name, wrapped)
    world.logins["deleter"]._call("DELETE", f"transit/keys/{name}")
    with pytest.raises(VaultRefused):
        server.unwrap(name, wrapped)
    # Made again under the name, it is another key.
    world.logins["key-admin"].create_wrapping_key(name)
    with pytest.raises(VaultRefused):
        server.unwrap(name, wrapped)


def test_a_request_without_the_one_setting_changes_no_key(world: World) -> None:
    for name in ("allower", "admin-who-allows"):
        with pytest.raises(VaultDenied):
            config(KEY)(world.logins[name])
    assert (world.root.read(f"transit/keys/{KEY}") or {})["deletion_allowed"] is False
    with pytest.raises(VaultDenied):
        world.logins["allower"].write(f"transit/keys/{NEW}", deletion_allowed=True)
    assert world.root.read(f"transit/keys/{NEW}") is None
