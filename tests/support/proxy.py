"""A way to Vault that a test can break: it passes HTTP on, or fails in one of the ways that networks and Vaults do."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What becomes of a request whose path (after /v1/) begins with a match of `path`; others pass.

    By default a made-up answer of `status`. `hang`: it is taken and never answered, not even when the fault is
    over. `close`: the connection is closed without an answer. `drip`: Vault's answer, one byte each so many
    seconds. `delay`: Vault's answer, so many seconds late.
    """

    path: str = ""
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    close: bool = False
    drip: float = 0.0
    delay: float = 0.0


class Proxy:
    """Listens on a port of 127.0.0.1 while it is entered; `upstream` gives the address of the real Vault."""

    def __init__(self, upstream: Callable[[], str] = lambda: "http://127.0.0.1:9") -> None:
        self.upstream = upstream
        self.fault: Fault | None = None
        self.seen: Counter[str] = Counter()  # "METHOD path" of every request that came, with or without a fault
        self.closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def heal(self) -> None:
        """Pass everything on again. What hangs goes on hanging."""
        self.fault = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Somebody who gave up waiting: what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        path = self.path.removeprefix("/v1/").partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.seen[f"{self.command} {path}"] += 1
        fault = proxy.fault
        if fault is None or not re.match(fault.path, path):
            self._answer(*self._asked(body))
        elif fault.hang:
            proxy.closed.wait()
            self.close_connection = True
        elif fault.close:
            self.close_connection = True
        elif fault.drip:
            self._drip(*self._asked(body), fault.drip)
        elif fault.delay:
            proxy.closed.wait(fault.delay)
            self._answer(*self._asked(body))
        else:
            self._answer(fault.status, fault.headers, b'{"errors": ["made up by a test"]}')

    def _asked(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        where = urlsplit(self.server.proxy.upstream())
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {
                name: value for name in ("Content-Type", "Retry-After", "Location") if (value := answer.getheader(name))
            }
            return answer.status, kept, content
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # what a connection to a stopped Vault would be: none
            raise
        finally:
            connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self, status: int, headers: Mapping[str, str], content: bytes, pause: float) -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
        raw = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content
        for byte in raw:
            self.wfile.write(bytes([byte]))
            if self.server.proxy.closed.wait(pause):
                break

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments
