"""A witness to submit to: its server in this process or one of its own, and requests as C2SP tlog-witness has them."""

import http.client
import os
import select
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.auditlog import ORIGIN, WITNESS, LogKey, StoredTree, b64, grown
from tests.support.stack import free_port
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.sinks import VerifierKey, Witness
from vault_service.audit.verify import check_note, notes_in, read_keys
from vault_service.audit.witness import WitnessServer, WitnessState

STARTS_WITHIN = 30.0  # seconds
STACK_ORIGIN = "ssn-vault.dev/audit"  # the name of a stack's log


class Answered(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    kind: str | None


class Caller:
    """One connection after another to a witness, in the clear."""

    def __init__(self, url: str) -> None:
        self.address = str(urllib.parse.urlsplit(url).netloc)

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answered(answer.status, answer.read().decode(), answer.getheader("Content-Type"))
        finally:
            connection.close()

    def submit(self, old: int | str, proof: Sequence[bytes | str], note: str) -> Answered:
        lines = "".join(f"{part if isinstance(part, str) else b64(part)}\n" for part in proof)
        return self.call("POST", "/add-checkpoint", f"old {old}\n{lines}\n{note}".encode())

    def grow(self, stored: StoredTree, key: LogKey, old: int, size: int, *, origin: str = ORIGIN) -> Answered:
        """Submit the head of `size`, after one of `old`."""
        proof = stored.tree.consistency(old, size)
        return self.submit(old, proof, key.note(stored.checkpoint(size=size, origin=origin)))


KEY = LogKey()
STORED = grown(600)


class Running:
    """A witness that serves in this process, its files, and callers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "witness"
        self.keys = directory / "keys.pem"
        self.keys.write_text(KEY.pem)
        self.state = WitnessState(self.directory, WITNESS, {ORIGIN: self.keys, "other.example.org/audit": self.keys})
        self.server = WitnessServer(self.state, "127.0.0.1", 0)
        self.caller = Caller(self.server.url)
        self.file = self.directory / f"{sha256(ORIGIN.encode()).hexdigest()}.checkpoints"

    def client(self, url: str | None = None) -> Witness:
        return Witness(url or self.server.url, VerifierKey.read(self.state.key_file), None, 10)

    def cosigned(self) -> list[tuple[int, bytes]]:
        """Size and root of all that it cosigned, oldest first."""
        keys = read_keys(self.keys, self.state.key_file)
        heads = [check_note(note, keys) for note in notes_in(self.file, keys)] if self.file.exists() else []
        assert all(head.cosigned for head in heads)
        return [(head.size, head.root) for head in heads]


def note_of(size: int, stored: StoredTree = STORED, key: LogKey = KEY) -> str:
    """The signed head of a size."""
    return key.note(stored.checkpoint(size=size))


def fork(size: int = 600) -> StoredTree:
    """A log of that many entries of which the third is another."""
    leaves = [*STORED.levels[0][:size]]
    leaves[2] = leaf_hash(b"another")
    made = StoredTree()
    made.append(leaves)
    return made


class WitnessProcess:
    """`ssn-vault audit witness --config FILE` as a process of its own."""

    def __init__(self, config: Path, *, wait: bool = True) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vault_service", "audit", "witness", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("SSN_VAULT_")},
        )
        self.pid = self._process.pid
        if not wait:
            return
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], STARTS_WITHIN)
        line = self._process.stdout.readline().decode() if ready else ""
        if not line.startswith("witness: "):
            self.kill()
            raise AssertionError("the witness does not start")
        _, self.url, _, self.key_file = line.split()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self._process.terminate()
        return self._process.wait(30)


def write_config(directory: Path, keys: Path, origin: str = ORIGIN, **more: object) -> Path:
    """A witness's own configuration."""
    config = directory / "witness.toml"
    lines = [f'name = "{WITNESS}"', f'directory = "{directory / "witness"}"']
    lines += [
        f'{name} = "{value}"' if isinstance(value, (str, Path)) else f"{name} = {value}" for name, value in more.items()
    ]
    config.write_text("\n".join([*lines, "[[logs]]", f'origin = "{origin}"', f'public_key = "{keys}"', ""]))
    return config


class StackWitness:
    """A witness of a stack's log, at an address that it keeps: servers are told of it before it starts."""

    def __init__(self, directory: Path, public_key: Path) -> None:
        """`public_key` is the log's, which need not be there yet."""
        directory.mkdir()
        state = WitnessState(directory / "witness", WITNESS, {STACK_ORIGIN: public_key})
        self.key_file = state.key_file
        self.checkpoints = state.file_of(STACK_ORIGIN).path
        port = free_port()
        self._config = write_config(directory, public_key, STACK_ORIGIN, port=port)
        self.settings = {
            "SSN_VAULT_AUDIT__WITNESS_URL": f"http://127.0.0.1:{port}",
            "SSN_VAULT_AUDIT__WITNESS_KEY_FILE": str(self.key_file),
        }
        self._process: WitnessProcess | None = None

    def start(self, *, wait: bool = True) -> None:
        self._process = WitnessProcess(self._config, wait=wait)

    def accept_loss(self, line: str) -> None:
        """What the witness's operator writes into its configuration, for its next start."""
        self._config.write_text(self._config.read_text() + f'accepted_losses = ["{line}"]\n')

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._process is not None:
            self._process.kill()
            self._process = None
