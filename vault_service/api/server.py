"""The gRPC server: mutual TLS with certificates read again when they change, health, limits, drain."""

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from ssnvault.v1 import ssn_vault_pb2
from vault_service.api import listening
from vault_service.api.certificate_files import CertificateFiles
from vault_service.api.servicer import SERVICE
from vault_service.config import LimitSettings, ServerSettings
from vault_service.errors import ConfigurationError

_METADATA_BYTES: Final = 16 * 1024  # of one call: a person's token has about one KiB
_LEAST_BETWEEN_PINGS_MS: Final = 5_000


def make_server(
    settings: ServerSettings, files: CertificateFiles, limits: LimitSettings, handlers: grpc.GenericRpcHandler
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
        port = server.add_secure_port(listening.join(settings.host, settings.port), _credentials(files))
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
