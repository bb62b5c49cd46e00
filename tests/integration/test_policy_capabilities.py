"""Everything that each shipped policy lets its holder do, as a whole table, on a real OpenBao.

Every path that this OpenBao describes is asked about, with the names that matter: our keys and roles, people's, other
systems'. What a table does not name must be denied, so that any right that is added to a policy, by intent or by
mistake, has to be added here as well. The server is this file's own.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pytest

from vault_service.dev.bootstrap import login_person, prepare_vault, server_approle
from vault_service.dev.openbao import OpenBao
from vault_service.keys.setup import CLIENT, RENEWER, SERVER, Right, policy_text
from vault_service.keys.transit import AUDIT_KEY, TokenValue, Vault, person_key_name

Table = Mapping[str, tuple[str, ...]]  # pattern of paths -> capabilities; the first that matches counts

DATA_KEY = "ssn-vault-k12-data-1"
READ, UPDATE, DENY = ("read",), ("update",), ("deny",)
# Whole parts of a path, where a description leaves them open; every other placeholder takes each of NAMES.
PARTS: Mapping[str, tuple[str, ...]] = {
    "plaintext": ("plaintext", "wrapped"),
    "type": ("encryption-key", "signing-key"),
    "exported": ("internal", "exported"),
    "version": ("1",),
    "urlalgorithm": ("sha2-256",),
    "urlbytes": ("32",),
    "issuer_ref": ("default",),
}
# Paths of engines that setup does not make, and such as OpenBao does not describe.
ELSEWHERE = (
    "secret/data/payroll",
    "secret/metadata/payroll",
    "other/transit/decrypt/x",
    "auth/elsewhere/login",
    "sys/policies/egp/x",
    "sys/raw/core/keyring",
    "sys/config/state/unsanitized",
    "transit/keys/",
    "pki/roles/",
    "identity/entity/name/",
)
# "+" takes an empty part as well: what stands at the end of "transit/keys/" is a list, which takes "list".
ENDS_OF_KEYS = r"transit/keys/(?!ssn-vault-person-|ssn-vault-audit(/|$))[^/]*"

EXPECTED: Mapping[str, Table] = {
    "server": {
        r"transit/decrypt/ssn-vault-[^/]+": UPDATE,
        r"transit/sign/ssn-vault-audit": UPDATE,
        r"transit/keys/ssn-vault-person-.+": READ,
        r"transit/keys/ssn-vault-audit": READ,
        r"auth/token/renew-self": UPDATE,
        r"auth/token/lookup-self": READ,
        r"auth/approle/role/ssn-vault-server/secret-id/lookup": UPDATE,
    },
    "server-certificate": {
        r"pki/sign/ssn-vault-server": UPDATE,
        r"auth/token/lookup-self": READ,
    },
    "server-database": {
        r"database/creds/ssn-vault-server": READ,
        r"sys/leases/renew": UPDATE,
    },
    "person": {
        r"transit/sign/ssn-vault-person-clerk": UPDATE,
        r"identity/oidc/token/ssn-vault": READ,
        r"identity/entity/id/CLERK": READ,
        r"auth/token/lookup-self": READ,
        r"auth/token/renew-self": UPDATE,
    },
    "key-admin": {
        ENDS_OF_KEYS: ("create", "read", "update"),
        rf"{ENDS_OF_KEYS}/rotate": UPDATE,
        r"transit/datakey/wrapped/ssn-vault-[^/]+": UPDATE,
        r"transit/rewrap/ssn-vault-[^/]+": UPDATE,
    },
    "approver": {r"transit/keys/ssn-vault-person-.+": READ},
    "auditor": {
        r"transit/keys/ssn-vault-person-.+": READ,
        r"transit/keys/ssn-vault-audit": READ,
    },
    "key-destroy-allow": {
        ENDS_OF_KEYS: READ,
        rf"{ENDS_OF_KEYS}/config": UPDATE,
    },
    "key-destroy-delete": {ENDS_OF_KEYS: ("delete", "read")},
    "certificates": {
        r"pki/sign/ssn-vault-server": UPDATE,
        r"pki/sign/ssn-vault-client": UPDATE,
    },
}

# What a policy denies its holder whatever else the same login may do.
AUDIT_HASH, PEOPLE, AUDIT = r"sys/audit-hash/.+", r"transit/keys/ssn-vault-person-.+", r"transit/keys/ssn-vault-audit"
OPEN, AWAY = r"transit/decrypt/.+", r"transit/(export|backup)/.+"
ALWAYS_DENIED: Mapping[str, tuple[str, ...]] = {
    "server": (AUDIT_HASH,),
    "server-certificate": (),
    "server-database": (),
    "person": (AUDIT_HASH,),
    "key-admin": (AUDIT_HASH, PEOPLE, rf"{AUDIT}(/.+)?", OPEN, AWAY, r"transit/datakey/plaintext/.+"),
    "approver": (AUDIT_HASH, OPEN, AWAY),
    "auditor": (AUDIT_HASH, OPEN, AWAY, r"transit/sign/ssn-vault-audit(/.+)?"),
    "key-destroy-allow": (PEOPLE, rf"{AUDIT}(/.+)?"),
    "key-destroy-delete": (PEOPLE, rf"{AUDIT}(/.+)?"),
    "certificates": (),
}


@dataclass(frozen=True)
class World:
    """A prepared OpenBao with every engine and login that we speak of, and the paths to ask about."""

    root: Vault
    clerk: str  # the clerk's entity
    paths: tuple[str, ...]

    def token(self, *policies: str) -> str:
        """A token that holds these policies and nothing else."""
        options = {"policies": list(policies), "no_default_policy": True, "ttl": "10m"}
        return str(self.root._call("POST", "auth/token/create", options)["auth"]["client_token"])

    def holder(self, policy: str) -> str:
        """A token that holds the shipped policy `policy` alone; a person's is one of the clerk."""
        return login_person(self.root, "clerk") if policy == "person" else self.token(f"ssn-vault-{policy}")

    def capabilities(self, token: str) -> dict[str, tuple[str, ...]]:
        """What the token may do, by path; the clerk's entity is written CLERK."""
        found: dict[str, tuple[str, ...]] = {}
        for at in range(0, len(self.paths), 200):  # OpenBao takes so many at once
            some = self.paths[at : at + 200]
            answer = self.root.write("sys/capabilities", token=token, paths=some)
            found |= {path.replace(self.clerk, "CLERK"): tuple(sorted(answer[path])) for path in some}
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with OpenBao(tmp_path_factory.mktemp("capabilities") / "openbao") as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {"clerk": [], "other": []})
        root.write("sys/mounts/database", type="database")
        for kind in ("jwt", "kubernetes", "cert"):
            root.write(f"sys/auth/{kind}", type=kind)
        root.put_policy(
            "everything",
            'path "*" {\n  capabilities = ["create", "read", "update", "patch", "delete", "list", "scan", "sudo"]\n}',
        )
        ids = {name: (root.read(f"identity/entity/name/{name}") or {})["id"] for name in ("clerk", "other")}
        names = (
            *(DATA_KEY, AUDIT_KEY, person_key_name("clerk"), person_key_name("other")),
            *(SERVER, CLIENT, RENEWER, "ssn-vault", "payroll", "clerk", "transit", *ids.values()),
        )
        described = root._call("GET", "sys/internal/specs/openapi")["paths"]
        paths = {path for template in described for path in filled(template, names)}
        yield World(root, ids["clerk"], tuple(sorted(paths.union(ELSEWHERE))))
        root.close()


def filled(template: str, names: Collection[str]) -> Iterator[str]:
    """The paths that a description stands for: every placeholder with each part, the same name in all others."""
    open_parts = [part for part in re.findall(r"{(\w+)}", template) if part in PARTS]
    for name in names:
        for values in itertools.product(*(PARTS[part] for part in open_parts)):
            chosen = dict(zip(open_parts, values, strict=True))
            yield re.sub(r"{(\w+)}", lambda found: chosen.get(found[1], name), template).lstrip("/")  # noqa: B023 - called at once


def unexpected(found: Mapping[str, tuple[str, ...]], table: Table) -> dict[str, tuple[str, ...]]:
    """Every path whose capabilities are not those of the table."""
    wanted = {
        path: next((may for pattern, may in table.items() if re.fullmatch(pattern, path)), DENY) for path in found
    }
    return {path: may for path, may in found.items() if may != wanted[path]}


@pytest.mark.parametrize("policy", EXPECTED)
def test_a_policy_gives_what_its_table_says_and_nothing_else(world: World, policy: str) -> None:
    found = world.capabilities(world.holder(policy))
    assert len(found) > 2500
    assert unexpected(found, EXPECTED[policy]) == {}
    for pattern in EXPECTED[policy]:
        assert any(re.fullmatch(pattern, path) for path in found), pattern


@pytest.mark.parametrize("policy", EXPECTED)
def test_every_path_that_a_policy_names_is_among_those_asked_about(world: World, policy: str) -> None:
    """Else a right over a path that nothing here thinks of would pass unseen."""
    for rule in re.findall(r'^path "(.+)" {', policy_text(policy), re.MULTILINE):
        said = rule.replace("{{identity.entity.name}}", "clerk").replace("{{identity.entity.id}}", world.clerk)
        pattern = re.escape(said).replace(r"\+", "[^/]+").replace(r"\*", ".*")
        assert any(re.fullmatch(pattern, path) for path in world.paths), rule


@pytest.mark.parametrize("policy", ALWAYS_DENIED)
def test_what_a_policy_denies_stays_denied_whatever_else_its_holder_may(world: World, policy: str) -> None:
    found = world.capabilities(world.token(f"ssn-vault-{policy}", "everything"))
    denied = {path for path, may in found.items() if may == DENY}
    patterns = ALWAYS_DENIED[policy]
    assert denied == {path for path in found if any(re.fullmatch(pattern, path) for pattern in patterns)}


@pytest.mark.parametrize(
    "grant",
    [
        'path "database/config/*" { capabilities = ["read"] }',
        'path "database/config/ssn-vault" { capabilities = ["read"] }',
        'path "transit/keys/ssn-vault-k12-data-1" { capabilities = ["read"] }',
        'path "transit/export/encryption-key/*" { capabilities = ["read"] }',
        'path "pki/config/ca" { capabilities = ["update"] }',
        'path "auth/approle/role/+/secret-id" { capabilities = ["update"] }',
        'path "sys/policies/acl/*" { capabilities = ["read"] }',
        'path "identity/entity/name/*" { capabilities = ["read"] }',
        'path "transit/sign/*" { capabilities = ["update"] }',
        'path "sys/storage/raft/snapshot" { capabilities = ["read"] }',
        'path "secret/*" { capabilities = ["read"] }',
    ],
)
def test_a_right_that_is_added_does_not_go_unseen(world: World, grant: str) -> None:
    for policy in ("server", "server-certificate", "server-database", "certificates"):
        world.root.put_policy("widened", policy_text(policy) + grant)
        assert unexpected(world.capabilities(world.token("widened")), EXPECTED[policy]), (policy, grant)


def test_every_shipped_policy_has_its_tables() -> None:
    assert set(EXPECTED) == set(ALWAYS_DENIED)
    assert set(EXPECTED) == {*Right, "server", "server-certificate", "server-database", "person"}


def test_each_login_holds_its_policy_alone(world: World) -> None:
    path = f"auth/approle/role/{RENEWER}"
    role_id, secret_id = server_approle(world.root)
    renewer = {
        "role_id": (world.root.read(f"{path}/role-id") or {})["role_id"],
        "secret_id": world.root.write(f"{path}/secret-id")["secret_id"],
    }
    tokens = {
        "ssn-vault-server": world.root.login_at("auth/approle/login", role_id=role_id, secret_id=secret_id),
        "ssn-vault-server-certificate": world.root.login_at("auth/approle/login", **renewer),
        "ssn-vault-person": login_person(world.root, "clerk"),
    }
    for policy, token in tokens.items():
        data = world.root.write("auth/token/lookup", token=token)
        assert {*data["policies"], *(data.get("identity_policies") or ())} == {policy}
