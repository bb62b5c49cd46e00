"""The gRPC server: mutual TLS with certificates read again when they change, health, limits, drain."""

import os
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from ssnvault.v1 import ssn_vault_pb2
from vault_service.api import listening
from vault_service.api.servicer import SERVICE
from vault_service.config import LimitSettings, ServerSettings
from vault_service.errors import ConfigurationError

_METADATA_BYTES: Final = 16 * 1024  # of one call: a person's token has about one KiB
_LEAST_BETWEEN_PINGS_MS: Final = 5_000
_log: Final = structlog.stdlib.get_logger("ssn_vault.server")


class CertificateFiles:
    """The server's certificate, key and client authority, read again at a handshake after they changed."""

    def __init__(self, settings: ServerSettings) -> None:
        self._paths: tuple[Path, ...] = (settings.key, settings.cert, settings.client_ca)
        self._read_at = self._stamp()
        self._current = self._read()

    @property
    def current(self) -> grpc.ServerCertificateConfiguration:
        """What the next handshake uses."""
        return self._current

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration when the files have changed and are good; else None, and the old one stays."""
        try:
            stamp = self._stamp()
            if stamp == self._read_at:
                return None
            current = self._read()
        except (OSError, ConfigurationError):
            return None  # half-way through being replaced: looked at again at the next handshake
        self._read_at, self._current = stamp, current
        _log.info("certificates read again")
        return current

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        return tuple((found.st_mtime_ns, found.st_ino) for found in map(os.stat, self._paths))

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            key, chain, authority = (path.read_bytes() for path in self._paths)
            private = load_pem_private_key(key, None)
            if private.public_key() != x509.load_pem_x509_certificate(chain).public_key():
                raise ConfigurationError("server.key does not belong to server.cert")
        except (ValueError, TypeError):
            raise ConfigurationError("server.cert, server.key or server.client_ca is not PEM") from None
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)


def make_server(
    settings: ServerSettings, limits: LimitSettings, handlers: grpc.GenericRpcHandler
) -> tuple[grpc.aio.Server, health_aio.HealthServicer, int]:
    """A server that listens once started, its health service, and the port. ConfigurationError when it cannot."""
    server = grpc.aio.server(options=_options(limits))
    server.add_generic_rpc_handlers((handlers,))
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if settings.reflection:
        names = (
            ssn_vault_pb2.DESCRIPTOR.services_by_name["SsnVault"].full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, server)
    try:
        files = CertificateFiles(settings)
        port = server.add_secure_port(listening.join(settings.host, settings.port), _credentials(files))
    except OSError as error:
        raise ConfigurationError(f"a certificate file cannot be read: {error.strerror}") from None
    except RuntimeError:
        where, why = listening.join(settings.host, settings.port), listening.why_not(settings.host, settings.port)
        raise ConfigurationError(f"server.host, server.port: cannot listen on {where}: {why}") from None
    return server, health, port


def _options(limits: LimitSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # else a second server would quietly share the port
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),  # between the two gRPC refuses some by chance
        # What a client may send ahead of what is read. Left to itself gRPC lets a fast one send ever more.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", limits.message_bytes),
        ("grpc.max_concurrent_streams", limits.calls_at_once),
        # Clients ask now and then, also when idle, whether the path is still there; left to itself gRPC ends the
        # connection of one that asks more than every five minutes. The server asks too, and forgets who is gone.
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_BETWEEN_PINGS_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),  # what ends the wait (grpcio 1.85); the one above is for the kernel
    ]


async def set_health(health: health_aio.HealthServicer, *, serving: bool) -> None:
    """Tell whoever asks or watches whether calls can be served."""
    state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", SERVICE):
        await health.set(service, state)


def _credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    return grpc.dynamic_ssl_server_credentials(
        files.current,
        files.changed,  # type: ignore[arg-type]  # None means unchanged (grpc.dynamic_ssl_server_credentials)
        require_client_authentication=True,
    )
