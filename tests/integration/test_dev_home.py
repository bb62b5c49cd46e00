"""`ssn-vault dev` as a process: what a home holds, what survives a restart, and that nothing is left running."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, pkcs12

from ssn_vault_client import Client, Profile, Ssn, TokenizeItem, View
from tests.conftest import new_database_url
from tests.support.stack import JUSTIFICATION, free_port
from vault_service.config import load_settings

PROGRAM = (sys.executable, "-m", "vault_service")
SECONDS = 90.0
NUMBER = "938-01-0001"
CLIENTS = {"sis", "registrar", "financial-aid", "linkage-job", "k12-research"}
PEOPLE = {
    "records-officer",
    "aid-counselor",
    "tax-clerk",
    "key-admin-a",
    "key-admin-b",
    "director",
    "privacy-officer",
    "auditor",
}


class Dev:
    """One `ssn-vault dev` process."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.lines: list[str] = []
        self._ready = threading.Event()
        command = [*PROGRAM, "dev", "--home", str(home), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._ready.wait(SECONDS) or self.process.poll() is not None:
            self.end(signal.SIGKILL)
            pytest.fail(f"not ready: {self.lines}")
        self.ready: dict[str, Any] = json.loads((home / "ready.json").read_text())
        self.children = _children(self.process.pid)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready:"):
                self._ready.set()
        self._ready.set()

    def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def is_gone(self) -> bool:
        """Whether neither a process of it runs nor a port of it listens."""
        vault = urllib.parse.urlsplit(self.ready["vault_addr"]).netloc
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if not (_running(self.children) or _listens(self.ready["address"]) or _listens(vault)):
                return True
            time.sleep(0.05)
        return False

    def token(self, number: str = NUMBER) -> str:
        with Client(Profile.from_home(self.home, "sis")) as sis:
            return sis.tokenize("k12", [TokenizeItem(Ssn(number))])[0].token or ""


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found |= {child} | _children(child)
    return found


def _running(pids: set[int]) -> bool:
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            return True
    return False


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex((host, int(port))) == 0


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A home on SQLite that has started for the first time."""
    running = Dev(tmp_path_factory.mktemp("dev") / "a home")
    yield running
    running.end(signal.SIGTERM)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_says_that_it_is_ready_on_a_line_of_its_own(dev: Dev) -> None:
    assert f"ready: {dev.ready['address']}" in dev.lines
    assert [line for line in dev.lines if line.startswith("ready:")] == [f"ready: {dev.ready['address']}"]
    assert _listens(dev.ready["address"])
    assert dev.children


def test_ready_json_names_everything_by_absolute_path(dev: Dev) -> None:
    ready = dev.ready
    assert set(ready) == {"address", "pid", "database_url", "vault_addr", "ca", "audit_public_key", "clients"}
    assert mode(dev.home / "ready.json") == 0o600
    assert ready["pid"] == dev.process.pid
    assert set(ready["clients"]) == CLIENTS
    assert {frozenset(files) for files in ready["clients"].values()} == {frozenset({"cert", "key", "p12"})}
    paths = [
        ready["ca"],
        ready["audit_public_key"],
        *(p for files in ready["clients"].values() for p in files.values()),
    ]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in paths)
    assert ready["database_url"] == f"sqlite:///{dev.home / 'ssn-vault.db'}"
    audit = load_pem_public_key(Path(ready["audit_public_key"]).read_bytes())
    assert isinstance(audit, Ed25519PublicKey)


def test_what_is_secret_is_for_the_owner_only(dev: Dev) -> None:
    assert mode(dev.home) == 0o700
    secret = [dev.home / "ssn-vault.db", dev.home / "server.log", dev.home / "config.toml"]
    secret += [*dev.home.glob("people/*.token"), *dev.home.glob("server/*"), *dev.home.glob("openbao/*.token")]
    secret += [*dev.home.rglob("*.key"), *dev.home.rglob("*.p12")]
    assert {path.name: oct(mode(path)) for path in secret if mode(path) != 0o600} == {}


def test_its_files_are_usable_by_other_programs(dev: Dev) -> None:
    for name, files in dev.ready["clients"].items():
        key, certificate, authorities = pkcs12.load_key_and_certificates(Path(files["p12"]).read_bytes(), None)
        assert key is not None
        assert certificate == x509.load_pem_x509_certificate(Path(files["cert"]).read_bytes())
        assert authorities == [x509.load_pem_x509_certificate(Path(dev.ready["ca"]).read_bytes())]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier(f"spiffe://ssn-vault.dev/client/{name}")]
    assert dev.token().startswith("k12_")
    assert {path.stem for path in (dev.home / "people").glob("*.token")} == PEOPLE
    login = dev.home / "people" / "auditor.token"
    status = run("status", "--config", str(dev.home / "config.toml"), "--token-file", str(login), "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["policy_version"] == 1
    for arguments in (["status", "--as", "auditor"], ["policy", "plan", str(dev.home / "policy.yaml")]):
        assert run(*arguments, "--home", str(dev.home)).returncode == 0


def test_a_persons_token_stands_alone_on_standard_output(dev: Dev) -> None:
    told = run("dev", "person-token", "--home", str(dev.home), "aid-counselor")
    assert (told.returncode, told.stderr) == (0, "")
    (token,) = told.stdout.splitlines()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["person"] == "aid-counselor"
    assert 0 < claims["exp"] - claims["iat"] <= 600
    with Client(Profile.from_home(dev.home, "registrar")) as registrar:
        item = registrar.tokenize("highered", [TokenizeItem(Ssn(NUMBER))])[0]
    with Client(Profile.from_home(dev.home, "financial-aid"), token) as aid:
        (result,) = aid.detokenize(
            "highered", [item.token or ""], purpose="aid-verification", justification=JUSTIFICATION, view=View.FULL
        ).results
    assert result.ssn is not None
    assert result.ssn.reveal() == NUMBER.replace("-", "")
    nobody = run("dev", "person-token", "--home", str(dev.home), "nobody")
    assert (nobody.returncode, nobody.stdout) == (2, "")


def test_a_second_stack_in_the_same_home_is_refused(dev: Dev) -> None:
    before = (dev.home / "ready.json").read_text()
    second = run("dev", "--home", str(dev.home))
    assert second.returncode == 2
    assert "another stack runs" in second.stderr
    assert (dev.home / "ready.json").read_text() == before
    assert dev.token().startswith("k12_")


def test_another_home_runs_beside_it_on_postgresql(dev: Dev, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = new_database_url("postgresql", request)
    assert url is not None
    port = free_port()
    beside = Dev(tmp_path / "beside", "--database-url", url, "--port", str(port))
    try:
        assert beside.ready["address"] == f"127.0.0.1:{port}"
        assert beside.ready["database_url"] == url
        assert beside.ready["vault_addr"] != dev.ready["vault_addr"]
        assert beside.token() != dev.token()
        assert not (beside.home / "ssn-vault.db").exists()
        assert run("status", "--home", str(beside.home)).returncode == 0
        check_roles(beside, url)
    finally:
        status = beside.end(signal.SIGINT)
    assert status == 0
    assert beside.is_gone()
    assert not (beside.home / "ready.json").exists()
    assert dev.token().startswith("k12_")


def check_roles(beside: Dev, url: str) -> None:
    """The server, admins and auditors log in with roles of their own, with passwords in files."""
    settings = load_settings(beside.home / "config.toml")
    sections = {
        "server": settings.database,
        "admin": settings.admin_database,
        "auditor": settings.auditor_database,
    }
    owner = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with owner.connect() as connection:
        for role, section in sections.items():
            assert section is not None
            login = section.full_url()
            assert login.password
            assert login.password not in (beside.home / "config.toml").read_text()
            memberships = connection.execute(
                sa.text(
                    "SELECT array_agg(g.rolname), bool_or(m.rolsuper OR m.rolcreaterole OR m.rolcreatedb)"
                    " FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid"
                    " WHERE m.rolname = :login"
                ),
                {"login": login.username},
            ).one()
            assert tuple(memberships) == ([f"ssn_vault_{role}"], False)
            own = sa.create_engine(login)
            with own.connect() as theirs:
                assert theirs.exec_driver_sql("SELECT epoch FROM control").scalar_one() > 0
            own.dispose()
    owner.dispose()


def test_data_outlives_every_way_to_end(dev: Dev) -> None:
    """The last test here: it ends the home that the others share, and starts it again."""
    home, token = dev.home, dev.token()
    address = dev.ready["address"]
    for number, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)):
        running = dev if number is signal.SIGTERM else Dev(home)
        try:
            assert running.token() == token
        finally:
            ended = running.end(number)
        assert ended == status
        assert running.is_gone()
        if number is not signal.SIGKILL:
            assert not (home / "ready.json").exists()
    assert not _listens(address)
    stopped = run("status", "--home", str(home))
    assert stopped.returncode == 5
    assert os.listdir(home)
