"""Syslog as collectors hear it: real sockets get exactly the lines, framed as the RFCs say, or the shipper knows."""

import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.authority import Authority
from tests.support.stack import free_port
from vault_service.audit.destinations import Line, ShippingError, parse_destination
from vault_service.audit.event import Facts, new_event_id, record
from vault_service.audit.ocsf import missing_entry, to_ocsf

AT = 1_790_000_000_123
FACTS: tuple[Facts, ...] = ({"client": "sis", "outcome": "ok"}, {"client": "sis", "outcome": "FROZEN"})


def line_of(event: dict[str, object]) -> Line:
    severity, at = event["severity_id"], event["time"]
    assert isinstance(severity, int)
    assert isinstance(at, int)
    return Line(json.dumps(event), severity, at)


LINES = [
    *(
        line_of(to_ocsf(at, json.loads(record(new_event_id(), "tokenize", AT, facts).event.body), "1.2.3"))
        for at, facts in enumerate(FACTS)
    ),
    line_of(missing_entry(2, None, "1.2.3")),
]
# RFC 5424, section 6: <PRI>VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
_MESSAGE = re.compile(r"<(\d{1,3})>1 (\S+) ([!-~]{1,255}) ssn-vault (\d+) ocsf - (.*)")


class TcpCollector:
    """Takes connections one after the other and keeps the messages of each that ended in order."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, *, says_goodbye: bool = False) -> None:
        self.messages: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._tls = tls
        self._says_goodbye = says_goodbye
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(ssl.SSLError, ConnectionError):
                self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        secured = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
        with secured:
            data = b""
            while part := secured.recv(65_536):
                data += part
            self.messages += unframed(data)
            if self._says_goodbye:
                assert isinstance(secured, ssl.SSLSocket)
                secured.unwrap()


def unframed(data: bytes) -> list[str]:
    """RFC 6587, section 3.4.1: each message after its length in octets and a space."""
    messages = []
    while data:
        length, _, rest = data.partition(b" ")
        messages.append(rest[: int(length)].decode("ascii"))
        data = rest[int(length) :]
    return messages


def texts(messages: list[str]) -> list[str]:
    found = [_MESSAGE.fullmatch(message) for message in messages]
    return [match.group(5) for match in found if match]


@pytest.fixture
def collector() -> Iterator[Callable[..., TcpCollector]]:
    running: list[TcpCollector] = []

    def start(port: int = 0, **options: object) -> TcpCollector:
        running.append(TcpCollector(port, **options))  # type: ignore[arg-type]  # of its constructor
        return running[-1]

    yield start
    for one in running:
        with suppress(OSError):
            one.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def server_context(authority: Authority, *names: x509.GeneralName) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("collector", names))
    return context


LOCAL = x509.IPAddress(IPv4Address("127.0.0.1"))


def test_a_unix_socket_gets_exactly_the_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        parse_destination(f"syslog:{path}").write(LINES)
        messages = [listener.recv(65_536).decode("ascii") for _ in LINES]
    assert texts(messages) == [line.text for line in LINES]


def test_a_message_says_facility_severity_and_time(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        parse_destination(f"syslog:{path}").write(LINES)
        messages = [_MESSAGE.fullmatch(listener.recv(65_536).decode("ascii")) for _ in LINES]
    heads = [match.groups() for match in messages if match]
    # 13 is log audit; informational, notice and critical.
    assert [int(head[0]) for head in heads] == [13 * 8 + 6, 13 * 8 + 5, 13 * 8 + 2]
    times = [datetime.fromisoformat(head[1]) for head in heads]
    assert times[0] == datetime.fromtimestamp(AT // 1000, UTC).replace(microsecond=AT % 1000 * 1000)
    assert heads[0][1].endswith(".123Z")
    assert {head[3] for head in heads} == {str(os.getpid())}


def test_a_hosts_name_that_could_pass_for_a_number_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        for name, told in (("vault-1.example.org", "vault-1.example.org"), ("vm-900-12-3456", "-"), ("a b", "-")):
            monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
            parse_destination(f"syslog:{path}").write(LINES[:1])
            match = _MESSAGE.fullmatch(listener.recv(65_536).decode("ascii"))
            assert match
            assert match.group(3) == told


def test_a_unix_socket_that_is_away_has_not_taken_them(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with pytest.raises(ShippingError, match="FileNotFoundError"):
        parse_destination(f"syslog:{path}").write(LINES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
    with pytest.raises(ShippingError, match="ConnectionRefusedError"):
        parse_destination(f"syslog:{path}").write(LINES)


def test_udp_gets_exactly_the_lines() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        parse_destination(f"syslog:udp:127.0.0.1:{listener.getsockname()[1]}").write(LINES)
        messages = [listener.recv(65_536).decode("ascii") for _ in LINES]
    assert texts(messages) == [line.text for line in LINES]


def test_udp_that_nobody_listens_to_has_not_taken_even_one() -> None:
    with pytest.raises(ShippingError):
        parse_destination(f"syslog:udp:127.0.0.1:{free_port()}").write(LINES[:1])


def test_tcp_gets_exactly_the_lines_and_loses_none_while_it_is_away(
    collector: Callable[..., TcpCollector],
) -> None:
    first = collector()
    destination = parse_destination(f"syslog:tcp:127.0.0.1:{first.port}")
    destination.write(LINES[:1])
    assert texts(first.messages) == [LINES[0].text]
    first.close()
    with pytest.raises(ShippingError, match="ConnectionRefusedError"):
        destination.write(LINES[1:])
    second = collector(first.port)
    destination.write(LINES[1:])
    assert texts(second.messages) == [line.text for line in LINES[1:]]


def test_a_large_batch_arrives_whole(collector: Callable[..., TcpCollector]) -> None:
    one = collector()
    parse_destination(f"syslog:tcp:127.0.0.1:{one.port}").write(LINES * 1_000)
    assert texts(one.messages) == [line.text for line in LINES] * 1_000


@pytest.mark.parametrize("reads", [0, 10])
@pytest.mark.parametrize("batch", [1, 2_000])
def test_a_collector_that_ends_before_it_read_all_has_not_taken_them(reads: int, batch: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut_off() -> None:
            connection, _ = listener.accept()
            with connection:
                time.sleep(0.2 * bool(reads))
                connection.recv(reads)

        thread = threading.Thread(target=cut_off)
        thread.start()
        with pytest.raises(ShippingError):
            parse_destination(f"syslog:tcp:127.0.0.1:{listener.getsockname()[1]}").write(LINES[:1] * batch)
        thread.join()


def test_a_collector_that_hangs_has_not_taken_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault_service.audit.destinations._TIMEOUT", 0.3)
    # The kernel takes the bytes, and nobody reads them.
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ShippingError, match="TimeoutError"),
    ):
        parse_destination(f"syslog:tcp:127.0.0.1:{listener.getsockname()[1]}").write(LINES)


def test_what_answers_is_no_collector() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ShippingError, match="no collector"):
            parse_destination(f"syslog:tcp:127.0.0.1:{listener.getsockname()[1]}").write(LINES[:1])
        thread.join()


@pytest.mark.parametrize("says_goodbye", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_gets_exactly_the_lines(
    collector: Callable[..., TcpCollector], authority: Authority, version: ssl.TLSVersion, says_goodbye: bool
) -> None:
    context = server_context(authority, LOCAL)
    context.maximum_version = version
    one = collector(tls=context, says_goodbye=says_goodbye)
    destination = parse_destination(f"syslog:tls:127.0.0.1:{one.port}", authority.ca)
    destination.write(LINES)
    destination.write(LINES * 500)
    assert texts(one.messages) == [line.text for line in LINES] * 501


def test_tls_that_ends_before_it_read_all_has_not_taken_them(authority: Authority) -> None:
    context = server_context(authority, LOCAL)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut_off() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(10)

        thread = threading.Thread(target=cut_off)
        thread.start()
        destination = parse_destination(f"syslog:tls:127.0.0.1:{listener.getsockname()[1]}", authority.ca)
        with pytest.raises(ShippingError):
            destination.write(LINES * 2_000)
        thread.join()


def test_tls_gives_nothing_to_a_stranger(
    collector: Callable[..., TcpCollector], authority: Authority, tmp_path: Path
) -> None:
    of_another_name = collector(tls=server_context(authority, x509.DNSName("siem.example.org")))
    of_another_authority = collector(tls=server_context(Authority(tmp_path / "another"), LOCAL))
    for one in (of_another_name, of_another_authority):
        with pytest.raises(ShippingError, match="SSLCertVerificationError"):
            parse_destination(f"syslog:tls:127.0.0.1:{one.port}", authority.ca).write(LINES)
        assert texts(one.messages) == []
