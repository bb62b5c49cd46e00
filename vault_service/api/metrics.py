"""Metrics, and the plain HTTP port that serves them with /livez and /readyz. No label holds a value."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Histogram, generate_latest

from vault_service.api.listening import bare_host, family_of
from vault_service.readiness import Readiness

CALLS: Final = Counter("ssn_vault_calls", "Calls by method and outcome", ["method", "outcome"])
INTERRUPTED: Final = Counter("ssn_vault_http_interrupted", "Requests to the metrics port that failed half-way")
SECONDS: Final = Histogram(
    "ssn_vault_call_seconds",
    "Time to answer a call",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


_TIMEOUT: Final = 10.0  # seconds that a caller may be silent


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of probes that hang up: a trace each would be most of the log."""
        INTERRUPTED.inc()


class HttpPort:
    """Serves /metrics, /livez and /readyz from a thread of its own."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        """OSError when it cannot listen there."""

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
                elif self.path == "/livez":
                    self._answer(200, b"ok\n")
                elif self.path == "/readyz":
                    report = readiness.report()
                    self._answer(200 if report.ready else 503, report.text.encode())
                else:
                    self._answer(404, b"not found\n")

            def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: a path is whatever a stranger sent."""

        class Server(_Server):
            address_family = family_of(host)

        self._server = Server((bare_host(host), port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that was taken."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
