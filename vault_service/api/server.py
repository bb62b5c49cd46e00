"""The gRPC server: mutual TLS with certificates read again when they change, health, limits, drain."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from ssnvault.v1 import ssn_vault_pb2
from vault_service.api.certificate_files import CertificateFiles
from vault_service.api.servicer import SERVICE
from vault_service.config import LimitSettings, ServerSettings
from vault_service.errors import ConfigurationError


def make_server(
    settings: ServerSettings, files: CertificateFiles, limits: LimitSettings, handlers: grpc.GenericRpcHandler
) -> tuple[grpc.aio.Server, health_aio.HealthServicer, int]:
    """A server that listens once started, its health service, and the port. ConfigurationError when it cannot."""
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # else a second server would quietly share the port
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            # What a client may send ahead of what is read. Left to itself gRPC lets a fast one send ever more.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", limits.message_bytes),
            ("grpc.max_concurrent_streams", limits.calls_at_once),
        ],
    )
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
        port = server.add_secure_port(f"{settings.host}:{settings.port}", _credentials(files))
    except RuntimeError:
        raise ConfigurationError(f"{settings.host}:{settings.port} cannot be listened on: is it taken?") from None
    return server, health, port


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
