"""The development Vault: its certificates, and a server that leaves nothing behind and tells why it fails."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from vault_service.dev import certificates as certificates_module
from vault_service.dev.bootstrap import prepare_vault
from vault_service.dev.certificates import write_certificates
from vault_service.dev.openbao import OpenBao, OpenBaoError
from vault_service.keys.transit import TokenValue, Vault, VaultRefused


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with OpenBao(tmp_path_factory.mktemp("dev") / "openbao") as bao:
        vault = Vault(bao.address, TokenValue(bao.root_token))
        prepare_vault(vault, {})
        yield vault
        vault.close()


def test_certificates_are_issued_once_and_renewed_in_the_last_third(
    root: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_certificates(root, tmp_path, ["sis", "registrar"])
    kept = first.clients["sis"].cert.read_bytes()
    certificate = x509.load_pem_x509_certificate(kept)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://ssn-vault.dev/client/sis")]
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*.key")} == {"0o600"}
    p12 = first.clients["sis"].p12
    assert p12 is not None
    loaded = pkcs12.load_key_and_certificates(p12.read_bytes(), b"")
    assert loaded[1] == certificate

    first.clients["registrar"].key.unlink()
    second = write_certificates(root, tmp_path, ["sis", "registrar"])
    assert second.clients["sis"].cert.read_bytes() == kept
    key = load_pem_private_key(second.clients["registrar"].key.read_bytes(), None)
    registrar = x509.load_pem_x509_certificate(second.clients["registrar"].cert.read_bytes())
    assert registrar.public_key() == key.public_key()

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Later":
            del tz
            return cls.fromtimestamp((certificate.not_valid_after_utc - timedelta(days=9)).timestamp(), UTC)

    monkeypatch.setattr(certificates_module, "datetime", Later)
    third = write_certificates(root, tmp_path, ["sis", "registrar"])
    assert third.clients["sis"].cert.read_bytes() != kept


def test_a_client_certificate_names_nothing_else(root: Vault) -> None:
    for names in (
        {"uri_sans": "spiffe://elsewhere.example/client/sis"},
        {"uri_sans": "spiffe://ssn-vault.dev/admin/sis"},
        {"common_name": "localhost", "uri_sans": "spiffe://ssn-vault.dev/client/sis"},
        {"uri_sans": "spiffe://ssn-vault.dev/client/sis", "ip_sans": "127.0.0.1"},
    ):
        with pytest.raises(VaultRefused):
            root.write("pki/issue/ssn-vault-client", **names)


def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from vault_service.dev.openbao import OpenBao\n"
        "bao = OpenBao(Path(sys.argv[1])); bao.start(); print(bao.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "home")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    for _ in range(100):
        if not _runs(pid):
            break
        time.sleep(0.05)
    assert not _runs(pid)
    with OpenBao(tmp_path / "home") as again:
        root = Vault(again.address, TokenValue(again.root_token))
        assert root.person_name() is None
        root.close()


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bao = OpenBao(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(OpenBaoError, match="address already in use"):
            bao.start()
        assert bao.pid is None


def _runs(pid: int) -> bool:
    """Whether the process is there and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
