"""A connection (to Vault, to an issuer) whose every wait ends at one moment, however slowly the other side sends.

The moment comes in by `until`; a session of `requests` goes out. The timeout of `requests` alone is for each
wait: an answer that drips, a byte a second, would never end. What is sent is not known here.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

_LEAST: Final = 0.001  # seconds; 0 would mean not to wait at all, and raise something else than a timeout


class _Moment(threading.local):
    """When the exchange of this thread has to be over, in monotonic seconds."""

    ends: float | None = None


_moment: Final = _Moment()


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Inside, every wait of this thread's connections ends at `deadline` (monotonic seconds) with TimeoutError."""
    _moment.ends = deadline
    try:
        yield
    finally:
        _moment.ends = None


def _left() -> float | None:
    return None if _moment.ends is None else max(_LEAST, _moment.ends - time.monotonic())


class _Timed(socket.socket):
    """A socket that waits no longer than until the moment, in each of what `http.client` does with it."""

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_left())
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self.settimeout(_left())
        super().sendall(*arguments)


class _TimedTls(ssl.SSLSocket):
    """The same over TLS; one step of the handshake is all of it."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_left())
        super().do_handshake(block)

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_left())
        return super().recv_into(*arguments)

    def send(self, *arguments: Any) -> int:
        self.settimeout(_left())
        return super().send(*arguments)


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _Timed(fileno=super()._new_conn().detach())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _Transport(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        context = create_urllib3_context()  # trusts nobody yet: the session says whom
        context.sslsocket_class = _TimedTls
        super().init_poolmanager(*arguments, **options, ssl_context=context)
        self.poolmanager.pool_classes_by_scheme = {**self.poolmanager.pool_classes_by_scheme, "http": _Pool}


def new_session(ca_file: Path | None, client_certificate: tuple[Path, Path] | None) -> requests.Session:
    """A session that takes nothing from the surroundings: no proxy, no CA bundle, no ~/.netrc.

    It trusts the PEM bundle `ca_file` instead of the public authorities. `client_certificate` (certificate
    chain and key, PEM files) is shown on every connection, and read whenever one is made.
    """
    session = requests.Session()
    session.trust_env = False
    session.verify = str(ca_file) if ca_file else True
    if client_certificate:
        session.cert = (str(client_certificate[0]), str(client_certificate[1]))
    session.mount("https://", _Transport())
    session.mount("http://", _Transport())
    return session
