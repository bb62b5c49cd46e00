"""More servers on a stack, started with other settings or not starting at all; and looks at one from outside."""

import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from tests.support.stack import ServerProcess, Stack, free_port


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for it; fail when it takes longer."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def another_server(
    stack: Stack, *, wait: bool = True, log: Path | None = None, **settings: object
) -> Iterator[ServerProcess]:
    """One more replica: `LIMITS__ITEMS_AT_ONCE=5` becomes SSN_VAULT_LIMITS__ITEMS_AT_ONCE. `log`: its output."""
    variables = {f"SSN_VAULT_{name}": str(value) for name, value in settings.items()}
    server = stack.add_server(wait=wait, settings=variables, log=log)
    try:
        yield server
    finally:
        server.kill()
        stack.servers.remove(server)


def serve(config: Path, settings: dict[str, str] | None = None) -> tuple[int, str]:
    """A server that does not start: its exit status and what it said."""
    command = [sys.executable, "-m", "vault_service", "serve", "--config", str(config)]
    surroundings = {**os.environ, **(settings or {})}
    ended = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def write_config(directory: Path, url: str) -> Path:
    """A configuration without anything behind it but a database, which a server looks at first."""
    config = directory / "config.toml"
    missing = directory / "missing.pem"
    config.write_text(
        f"""
[server]
cert = "{missing}"
key = "{missing}"
client_ca = "{missing}"
trust_domain = "ssn-vault.dev"
[database]
url = "{url}"
[vault]
address = "http://127.0.0.1:{free_port()}"
token_file = "{missing}"
timeout = 1
[policy]
signers = ["one", "two"]
"""
    )
    return config


def run_as_owner(stack: Stack, statement: str) -> None:
    """A statement as the database's owner, committed; unlike `Stack.tamper` it leaves triggers alone."""
    with stack.superuser() as engine, engine.begin() as connection:
        connection.exec_driver_sql(statement)


def presented(stack: Stack) -> int:
    """The serial number of the certificate that the server shows now."""
    profile = stack.profile("sis")
    context = ssl.create_default_context(cafile=str(profile.ca))
    context.load_cert_chain(profile.cert, profile.key)
    with (
        socket.create_connection(("127.0.0.1", stack.server.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        certificate = wrapped.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def http(server: ServerProcess, path: str) -> tuple[int, str]:
    """Status and text of the port for metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
