"""TLS to a real OpenBao: the authority that is configured and no other; the login by client certificate."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.authority import Authority
from tests.support.stack import free_port
from tests.support.vaults import ConfiguredOpenBao
from vault_service.dev.bootstrap import prepare_vault
from vault_service.keys.transit import Certificate, TokenValue, Vault, VaultDenied, VaultUnreachable

KEY = "ssn-vault-k12-data-1"
HERE = [x509.IPAddress(ip_address("127.0.0.1"))]
NAMED = [x509.DNSName("ssn-vault.example.org")]


@dataclass(frozen=True)
class World:
    """OpenBao with a TLS listener beside its plain one; its authority, and that of clients."""

    address: str
    authority: Authority
    clients: Authority
    wrapped: str
    root_token: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("tls")
    (directory / "a").mkdir()
    (directory / "c").mkdir()
    authority, clients = Authority(directory / "a"), Authority(directory / "c")
    cert, key = authority.issue("vault", HERE)
    port = free_port()
    listener = (
        f'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  cluster_address = "127.0.0.1:{free_port()}"\n'
        f'  tls_cert_file = "{cert}"\n  tls_key_file = "{key}"\n}}\n'
    )
    with ConfiguredOpenBao(directory / "openbao", added=listener) as bao:
        root = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(root, {})
        root.create_wrapping_key(KEY)
        root.write("sys/auth/cert", type="cert")
        root.write(
            "auth/cert/certs/server",
            certificate=clients.ca.read_text(),
            allowed_dns_sans=["ssn-vault.example.org"],
            token_policies=["ssn-vault-server"],
            token_ttl="1h",
        )
        yield World(f"https://127.0.0.1:{port}", authority, clients, root.new_wrapped_key(KEY), bao.root_token)
        root.close()


def test_only_the_configured_authority_is_trusted(world: World) -> None:
    trusting = Vault(world.address, TokenValue(world.root_token), ca_file=world.authority.ca)
    assert len(trusting.unwrap(KEY, world.wrapped)) == 32
    trusting.close()
    for ca_file in (None, world.clients.ca):
        other = Vault(world.address, TokenValue(world.root_token), ca_file=ca_file)
        with pytest.raises(VaultUnreachable):
            other.unwrap(KEY, world.wrapped)
        other.close()


def test_a_client_certificate_logs_in_and_a_renewed_one_is_taken_up(world: World, tmp_path: Path) -> None:
    files = world.clients.issue("server", NAMED)
    login = Certificate(*files, role="server")
    vault = Vault(world.address, login, ca_file=world.authority.ca)
    assert len(vault.unwrap(KEY, world.wrapped)) == 32
    vault.renew()
    for path, fresh in zip(files, world.clients.issue("renewed", NAMED), strict=True):
        path.write_bytes(fresh.read_bytes())
    vault.renew()
    assert len(vault.unwrap(KEY, world.wrapped)) == 32
    vault.close()


def test_a_certificate_of_another_authority_or_name_is_denied(world: World) -> None:
    elsewhere = [x509.DNSName("other.example.org")]
    for files in (world.clients.issue("other", elsewhere), world.authority.issue("foreign", NAMED)):
        vault = Vault(world.address, Certificate(*files, role="server"), ca_file=world.authority.ca)
        with pytest.raises(VaultDenied):
            vault.unwrap(KEY, world.wrapped)
        vault.close()
