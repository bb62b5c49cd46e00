"""A witness as a process of its own, on a key and a file that it keeps in one directory; a test may kill it."""

import subprocess
import sys
import time
from pathlib import Path

from tests.support.stack import free_port
from vault_service.audit.witness import WitnessState

ORIGIN = "ssn-vault.dev/audit"


class WitnessProcess:
    """`ssn-vault audit witness --config FILE`; `public_key` is the log's, which need not be there yet."""

    def __init__(self, directory: Path, public_key: Path) -> None:
        directory.mkdir()
        state = WitnessState(directory / "state", "witness.example.org", {ORIGIN: public_key})
        self.key_file = state.key_file
        self.checkpoints = state.file_of(ORIGIN).path
        self._config = directory / "witness.toml"
        self._log = directory / "witness.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._config.write_text(
            f'name = "witness.example.org"\ndirectory = "{directory / "state"}"\nport = {port}\n'
            f'[[logs]]\norigin = "{ORIGIN}"\npublic_key = "{public_key}"\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What a server is told of it."""
        return {"SSN_VAULT_AUDIT__WITNESS_URL": self.url, "SSN_VAULT_AUDIT__WITNESS_KEY_FILE": str(self.key_file)}

    def start(self, *, wait: bool = True) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vault_service", "audit", "witness", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        said = self._log.read_text().count("witness: ")
        deadline = time.monotonic() + 60
        while wait and self._log.read_text().count("witness: ") == said:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
