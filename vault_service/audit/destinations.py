"""Where OCSF lines can be shipped to: standard output, a file, a syslog collector.

Lines come in; `write` returns when the destination has them all, and ShippingError says that it may not. An empty
batch only asks whether the destination is there.
"""

import os
import re
import socket
import ssl
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from vault_service.audit.checkpoint_file import sync_directory
from vault_service.errors import ConfigurationError, SsnVaultError
from vault_service.log_writer import LogWriter, NotWrittenError

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
