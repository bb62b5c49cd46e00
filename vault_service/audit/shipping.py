"""Ships the log: every sealed entry as a line of OCSF JSON to standard output, a file or a syslog collector.

Entries up to the newest checkpoint come in, in order, from the server that holds the log's lease; lines go out, and
then the position is acknowledged in the database (sink `ship`). A crash may repeat lines, which carry position and
id, and loses none. Where the destination is away only this waits. What stands in a line is `audit.ocsf`'s.
"""

import json
import os
import re
import socket
import ssl
import stat
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import sqlalchemy as sa
import structlog

from vault_service.audit.checkpoint_file import sync_directory
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.ocsf import missing_entry, to_ocsf
from vault_service.errors import ConfigurationError, SsnVaultError, StoreError
from vault_service.log_writer import LogWriter, NotWrittenError
from vault_service.storage import log
from vault_service.storage.engine import Store, database_now, describe
from vault_service.telling import TellOnce

SHIP: Final = "ship"  # the sink whose acknowledgement is the number of entries shipped
_POLL_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 5.0  # while the destination or the database is away
_ENTRIES_A_BATCH: Final = 250
_TIMEOUT: Final = 10.0  # seconds for a batch to be taken

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LOG_AUDIT: Final = 13  # facility (RFC 5424, table 1)
_NOTICE: Final = 5
_SYSLOG_SEVERITIES: Final = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}  # OCSF's severity_id to RFC 5424, table 2
_FORMS: Final = (
    "audit.ship must be stdout, file:/absolute/path, syslog:/absolute/path, syslog:udp:HOST:PORT or"
    " syslog:tcp:HOST:PORT on this machine, or syslog:tls:HOST:PORT"
)
_NOT_SHIPPED: Final = "events are not shipped: they wait"
_log: Final = structlog.stdlib.get_logger("ssn_vault.shipper")


class ShippingError(SsnVaultError):
    """A destination has not taken all lines; worth another attempt. Its text holds nothing of a line."""


class Line(NamedTuple):
    """One event as JSON on one line of ASCII, without its end; OCSF's severity_id; its time (ms since 1970)."""

    text: str
    severity: int
    at_ms: int


class Destination(Protocol):
    """Where lines go."""

    def write(self, lines: Sequence[Line]) -> None:
        """Hand all over, in order. ShippingError unless they are there; some may be there all the same."""
        ...


@dataclass(frozen=True)
class Stdout:
    """The server's own log, standard output in production, which other lines go to as well."""

    writer: LogWriter

    def write(self, lines: Sequence[Line]) -> None:
        """A line a write: below PIPE_BUF it stays in one piece, whoever else writes."""
        try:
            self.writer.write([line.text for line in lines], later=False)
        except NotWrittenError as error:
            raise ShippingError(str(error)) from None


@dataclass(frozen=True)
class File:
    """A file that lines are appended to, made with mode 0600. Opened for each batch: it may be rotated away."""

    path: Path

    def write(self, lines: Sequence[Line]) -> None:
        """On the disk when this returns. A line that was cut off earlier stays apart."""
        try:
            existed = self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ShippingError("the file of audit.ship is no regular file")
                data = _needed_line_end(descriptor) + b"".join(line.text.encode() + b"\n" for line in lines)
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not existed:
                sync_directory(self.path.parent)
        except OSError as error:
            raise _not_taken("the file", error) from None


@dataclass(frozen=True)
class DatagramSyslog:
    """A syslog collector on this machine: a Unix socket's path, or a host and port for UDP (RFC 5424, RFC 5426).

    UDP loses what the collector is too slow for, and nobody notices; the Unix socket waits for it.
    """

    address: str | tuple[str, int]

    def write(self, lines: Sequence[Line]) -> None:
        """A datagram a line. That nobody listens is noticed at the line that nobody got."""
        try:
            with self._socket() as connection:
                for message in _messages(lines):
                    connection.send(message)
                    if failure := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise OSError(failure, "refused")
        except (OSError, UnicodeError) as error:
            raise _not_taken("syslog", error) from None

    def _socket(self) -> socket.socket:
        family, address = socket.AF_UNIX, self.address
        if not isinstance(address, str):
            family = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][0]
        connection = socket.socket(family, socket.SOCK_DGRAM)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection


@dataclass(frozen=True)
class StreamSyslog:
    """A syslog collector over TCP with octet counting (RFC 6587, section 3.4.1), or over TLS (RFC 5425).

    A batch is a connection. Syslog has no receipts; so the batch is there when the collector, told that no more
    comes, closes its side without an error: it has read everything by then. One that stays open for 10 seconds has
    not taken it.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def write(self, lines: Sequence[Line]) -> None:
        """Connect, send all, and wait until the collector has read them."""
        frames = b"".join(str(len(message)).encode() + b" " + message for message in _messages(lines))
        try:
            with socket.create_connection((self.host, self.port), _TIMEOUT) as connection:
                if self.tls is None:
                    _send(connection, frames)
                else:
                    with self.tls.wrap_socket(connection, server_hostname=self.host) as secured:
                        _send_secured(secured, frames)
        except (OSError, UnicodeError) as error:
            raise _not_taken("syslog", error) from None


def parse_destination(
    setting: str, ca_file: Path | None = None, writer: LogWriter | None = None
) -> Stdout | File | DatagramSyslog | StreamSyslog:
    """The destination that `audit.ship` names; opens nothing yet.

    `ca_file`: a PEM bundle trusted for syslog:tls instead of the system's authorities. `writer`: what stdout
    stands for. ConfigurationError for another form, for UDP or TCP beyond this machine (no plaintext leaves it),
    and for a `ca_file` that cannot be used.
    """
    kind, _, where = setting.partition(":")
    transport, _, address = where.partition(":")
    if kind == "syslog" and transport == "tls":
        return StreamSyslog(*_host_and_port(address), _tls(ca_file))
    if ca_file is not None:
        raise ConfigurationError("audit.ship_ca_file is for audit.ship = syslog:tls:HOST:PORT only")
    if setting == "stdout" and writer is not None:
        return Stdout(writer)
    if kind == "file" and _is_file_path(where):
        return File(Path(where))
    if kind == "syslog" and _is_file_path(where):
        return DatagramSyslog(where)
    if kind == "syslog" and transport in ("udp", "tcp"):
        host, port = _host_and_port(address)
        if host not in _LOOPBACK:
            raise ConfigurationError(f"audit.ship: syslog:{transport} is for this machine only, use syslog:tls")
        return DatagramSyslog((host, port)) if transport == "udp" else StreamSyslog(host, port)
    raise ConfigurationError(_FORMS)


class LogShipper:
    """One thread a server; of all servers the one that holds the log's lease ships."""

    def __init__(self, store: Store, destination: Destination, replica: str, product_version: str) -> None:
        """`replica` names this server among others, as the sequencer's does; `product_version` is told in lines."""
        self._store = store
        self._destination = destination
        self._replica = replica
        self._product_version = product_version
        self._waiting = 0  # entries that are not shipped yet, at the last look
        self._told = TellOnce(_log)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, leave the rest to the next server, and end."""
        self._stop.set()
        self._thread.join()

    def round(self) -> bool:
        """Ship one batch; False when nothing is left to ship, or another server ships.

        ShippingError when the destination does not take it, StoreError or SQLAlchemyError when the database is away.
        """
        with self._store.reading() as connection:
            if log.holder(connection, database_now(connection)) != self._replica:
                self._waiting = 0
                return False
            newest = log.newest_checkpoint(connection)
            shipped = log.sinks(connection).get(SHIP)
            first, size = shipped.size if shipped else 0, newest.size if newest else 0
            end = min(size, first + _ENTRIES_A_BATCH)
            rows = log.entries(connection, first, end - first) if first < end else []
        self._waiting = max(0, size - first)
        if first >= end:
            return False
        self._destination.write(self._lines(first, end, rows))
        with self._store.transaction() as tx:
            log.acknowledge(tx, SHIP, end)
        self._waiting = size - end
        return end < size

    def _run(self) -> None:
        wait = _POLL_SECONDS
        while not self._stop.wait(wait):
            wait = self._attempt()

    def _attempt(self) -> float:
        """One round; the seconds until the next. A failure is told once, until it works again."""
        try:
            more = self.round()
        except (ShippingError, StoreError) as error:
            self._told.wrong(_NOT_SHIPPED, detail=str(error), also={"waiting": self._waiting})
        except sa.exc.SQLAlchemyError as error:
            self._told.wrong(_NOT_SHIPPED, detail=describe(error), also={"waiting": self._waiting})
        except Exception as error:  # noqa: BLE001 - the next attempt must still come
            self._told.wrong(_NOT_SHIPPED, detail=type(error).__name__, also={"waiting": self._waiting})
        else:
            self._told.right("events are shipped again", waiting=self._waiting)
            return 0.0 if more else _POLL_SECONDS
        return _RETRY_SECONDS

    def _lines(self, first: int, end: int, rows: Iterable[log.EntryRow]) -> list[Line]:
        """A line for every position from `first` to before `end`, whether the log still has it or not."""
        by_position = {row.position: row for row in rows}
        return [self._line(position, by_position.get(position)) for position in range(first, end)]

    def _line(self, position: int, row: log.EntryRow | None) -> Line:
        event = None
        # What is not what was sealed is missing: nobody else should take it for the record.
        if row is not None and row.body is not None and leaf_hash(row.body.encode()) == row.hash:
            with suppress(ValueError, RecursionError):
                body = json.loads(row.body)
                event = to_ocsf(position, body, self._product_version) if isinstance(body, dict) else None
        if event is None:
            event = missing_entry(position, row.event_id if row else None, self._product_version)
        return Line(json.dumps(event, separators=(",", ":")), event["severity_id"], event["time"])


def _messages(lines: Iterable[Line]) -> list[bytes]:
    """Syslog messages (RFC 5424, section 6) in ASCII, without structured data."""
    host = socket.gethostname()
    if not (host.isascii() and host.isprintable() and 0 < len(host) < 256 and " " not in host) or _many_digits(host):
        host = "-"
    return [_message(line, host) for line in lines]


def _message(line: Line, host: str) -> bytes:
    priority = 8 * _LOG_AUDIT + _SYSLOG_SEVERITIES.get(line.severity, _NOTICE)
    at = datetime.fromtimestamp(line.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    header = f"<{priority}>1 {at}.{line.at_ms % 1000:03}Z {host} ssn-vault {os.getpid()} ocsf - "
    return header.encode() + line.text.encode()


def _many_digits(host: str) -> bool:
    return sum(map(host.count, "0123456789")) >= 9  # could pass for a number


def _send(connection: socket.socket, frames: bytes) -> None:
    connection.sendall(frames)
    connection.shutdown(socket.SHUT_WR)
    if connection.recv(1):
        raise ShippingError("syslog answers: this is no collector")


def _send_secured(connection: ssl.SSLSocket, frames: bytes) -> None:
    connection.sendall(frames)
    with suppress(ssl.SSLEOFError):  # collectors that close without TLS's goodbye have read ours
        connection.unwrap()


def _not_taken(where: str, error: Exception) -> ShippingError:
    number = f" {error.errno}" if isinstance(error, OSError) and error.errno else ""
    return ShippingError(f"{where} does not take them ({type(error).__name__}{number})")


def _needed_line_end(descriptor: int) -> bytes:
    end = os.fstat(descriptor).st_size
    return b"\n" if end and os.pread(descriptor, 1, end - 1) != b"\n" else b""


def _is_file_path(text: str) -> bool:
    return text.startswith("/") and not text.endswith("/") and "\0" not in text


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) >= 65_536:
        raise ConfigurationError(_FORMS)
    return host, int(port)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise ConfigurationError(f"audit.ship_ca_file cannot be used: {type(error).__name__}") from None
