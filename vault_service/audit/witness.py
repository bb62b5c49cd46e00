"""The witness: a small process on another host that cosigns checkpoints of logs which only ever grow.

    POST /add-checkpoint            an old size, a consistency proof, a checkpoint -> a cosignature
    GET  /ORIGIN-HASH/checkpoint    the last checkpoint that it cosigned

As C2SP tlog-witness has it. It keeps the last checkpoint it cosigned of each log, on its disk before it answers,
and cosigns nothing that does not continue it: so it never cosigns a fork, whenever it is killed. It knows the
logs' public keys and nothing else: no database, no Vault. Checking is `audit.verify`'s code, not the log's.
"""

import base64
import fcntl
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from vault_service.audit.checkpoint import COSIGNATURE, signature_line, verifier_key
from vault_service.audit.checkpoint_file import CheckpointFile, sync_directory
from vault_service.audit.loss import Loss
from vault_service.audit.verify import (
    EMPTY_ROOT,
    Head,
    InvalidError,
    Keys,
    check_consistency,
    check_note,
    holds,
    notes_in,
    read_keys,
)
from vault_service.errors import ConfigurationError
from vault_service.files import own_file, replace_file

_NO_LOSSES: Final[Mapping[str, Sequence[Loss]]] = {}
_LARGEST_REQUEST: Final = 65_536  # bytes
_MOST_PROOF_LINES: Final = 63
_SECONDS: Final = 10.0  # that a connection may last, however slowly a request drips in
_MOST_CONNECTIONS: Final = 64
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,17})", re.ASCII)
_LENGTH: Final = re.compile(r"[0-9]{1,6}")
_log: Final = structlog.stdlib.get_logger("ssn_vault.witness")


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    kind: str = "text/plain; charset=utf-8"


class WitnessState:
    """The witness's key and memory, in one directory; one process at a time."""

    def __init__(
        self, directory: Path, name: str, logs: Mapping[str, Path], losses: Mapping[str, Sequence[Loss]] = _NO_LOSSES
    ) -> None:
        """`name` stands in its cosignatures; `logs` maps the origins it knows to files of their public keys (PEM).

        `losses` are those that this witness's own operator accepted, by origin: a log may then go on from the last
        checkpoint that it still has, once, if this witness cosigned it.
        """
        self._directory = directory
        self._name = name
        self._logs = logs
        self._losses = losses
        self._lock = threading.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = _key_in(directory / "witness.key")
        self._public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_file = directory / "witness.vkey"
        replace_file(self.key_file, f"{verifier_key(name, COSIGNATURE, self._public)}\n".encode("ascii"), 0o644)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory. ConfigurationError when another witness does."""
        with own_file(self._directory / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"another witness runs on {self._directory}") from None
            yield

    def file_of(self, origin: str) -> CheckpointFile:
        """What was cosigned of a log, oldest first."""
        path = self._directory / f"{sha256(origin.encode()).hexdigest()}.checkpoints"
        return CheckpointFile(path, lambda note: holds(note, self._keys_of(origin)))

    def latest(self, origin_hash: str) -> Answer:
        """The last checkpoint of the log whose origin has this hash (hex)."""
        for origin in self._logs:
            if sha256(origin.encode()).hexdigest() == origin_hash:
                last = self.file_of(origin).last()
                return Answer(200, last) if last else Answer(404, "nothing cosigned yet\n")
        return Answer(404, "unknown log\n")

    def add_checkpoint(self, body: str) -> Answer:
        """Cosign the checkpoint in `body`, or say why not, in the order of C2SP tlog-witness.

        OSError when it cannot be kept on the disk: then it is not cosigned either.
        """
        head_lines, separator, note = body.partition("\n\n")
        first, *proof_lines = head_lines.split("\n")
        origin = note.partition("\n")[0]
        if not separator or not _OLD.fullmatch(first) or len(proof_lines) > _MOST_PROOF_LINES:
            return Answer(400, "not an add-checkpoint request\n")
        if origin not in self._logs:
            return Answer(404, "unknown log\n")
        try:
            old = int(first.removeprefix("old "))
            proof = [base64.b64decode(line, validate=True) for line in proof_lines]
        except ValueError:
            return Answer(400, "not an add-checkpoint request\n")
        keys = self._keys_of(origin)
        try:
            head = check_note(note, keys)
        except InvalidError as error:
            return Answer(403, f"{error}\n")
        if not 0 <= old <= head.size:
            return Answer(400, "the old size is not one of this log\n")
        with self._lock:
            return self._cosign(head, old, proof, keys)

    def _keys_of(self, origin: str) -> Keys:
        return Keys(read_keys(self._logs[origin]).log, (self._name, self._public))

    def _cosign(self, head: Head, old: int, proof: list[bytes], keys: Keys) -> Answer:
        """Check and keep under the lock: what was checked is what is kept."""
        file = self.file_of(head.origin)
        last = file.last()
        newest = check_note(last, keys) if last else None
        known = self._before_loss(file, newest, keys) if newest is not None else None
        size, root = (known.size, known.root) if known else (0, bytes.fromhex(EMPTY_ROOT))
        if old != size:
            return Answer(409, f"{size}\n", "text/x.tlog.size")
        try:
            check_consistency(old, head.size, root, head.root, proof)
        except InvalidError as error:
            _log.critical("a log does not continue what was cosigned", origin=head.origin, size=head.size, known=size)
            return Answer(422, f"{error}\n")
        again = newest is not None and head.text == newest.text
        if newest is not None and not again and head.at_ms <= newest.at_ms:
            return Answer(400, "a later checkpoint was cosigned\n")
        now = int(time.time())
        signature = self._key.sign(f"cosignature/v1\ntime {now}\n{head.text}".encode())
        line = signature_line(self._name, COSIGNATURE, self._public, now.to_bytes(8) + signature)
        if not again:  # else it is there already
            # Only what was checked is kept: what else a stranger puts under a note must not come back from the file.
            if not file.append("".join([head.text, "\n", *head.signed, line])):
                return Answer(400, "a later checkpoint was cosigned\n")  # what is not kept is not cosigned
            _log.info("cosigned", origin=head.origin, size=head.size)
        return Answer(200, line)

    def _before_loss(self, file: CheckpointFile, known: Head, keys: Keys) -> Head | None:
        """What was cosigned last; where that is accepted as lost, what was cosigned over the entries that are left."""
        for loss in self._losses.get(known.origin, ()):
            if not loss.covers(known.size, known.root, known.at_ms):
                continue
            if loss.entries == 0:
                return None
            for note in notes_in(file.path, keys):
                head = check_note(note, keys)
                if (head.size, head.root) == (loss.entries, loss.root):
                    _log.warning("a declared loss is accepted", origin=known.origin, known=known.size, left=head.size)
                    return head
            _log.error("a loss names a checkpoint that was not cosigned here", origin=known.origin, left=loss.entries)
        return known


class WitnessServer:
    """Serves one witness over HTTP, or HTTPS with a certificate, from threads of its own."""

    def __init__(self, state: WitnessState, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
        """`port` 0 takes a free one; `tls` is a certificate chain and its key (PEM). OSError when it is taken."""

        room = threading.BoundedSemaphore(_MOST_CONNECTIONS)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                if not room.acquire(blocking=False):
                    return  # strangers who keep connections open must not keep the log out by taking memory
                ending = threading.Timer(_SECONDS, self._end)
                ending.daemon = True
                ending.start()
                try:
                    super().handle()
                except (OSError, ValueError):
                    self.close_connection = True  # gone, or ended below
                finally:
                    ending.cancel()
                    room.release()

            def _end(self) -> None:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not _LENGTH.fullmatch(length) or int(length) > _LARGEST_REQUEST:
                    self.close_connection = True
                    self._answer(Answer(413, "too large\n"))
                    return
                body = self.rfile.read(int(length)).decode(errors="replace")
                if self.path != "/add-checkpoint":
                    self._answer(Answer(404, "not found\n"))
                    return
                try:
                    self._answer(state.add_checkpoint(body))
                except (OSError, InvalidError) as error:  # its disk or its files: nothing was cosigned
                    _log.error("cannot cosign", error=type(error).__name__)
                    self._answer(Answer(500, "the witness cannot keep it\n"))

            def do_GET(self) -> None:
                parts = self.path.split("/")
                found = len(parts) == 3 and parts[2] == "checkpoint"
                try:
                    self._answer(state.latest(parts[1]) if found else Answer(404, "not found\n"))
                except OSError as error:
                    _log.error("cannot tell what was cosigned", error=type(error).__name__)
                    self._answer(Answer(500, "the witness cannot read what it has cosigned\n"))

            def _answer(self, answer: Answer) -> None:
                data = answer.text.encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: a path is whatever a stranger sent."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if tls else 'http'}://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="witness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _key_in(path: Path) -> Ed25519PrivateKey:
    """The witness's private key, made when there is none; ConfigurationError for a file that holds another thing."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its key is the key
            path.hardlink_to(unfinished)
        unfinished.unlink()
        sync_directory(path.parent)
    try:
        loaded = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise ConfigurationError(f"{path} holds no private key") from None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds no Ed25519 key")
    return loaded
