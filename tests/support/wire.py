"""The contract on the wire, without the client in between: raw stubs, and a failed call taken apart."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ssn_vault_client import Profile
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultStub

PERSON_KEY = "ssn-vault-person"
SECONDS = 30.0  # a call's deadline where a test has nothing to say about it
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Failure:
    """A call that failed: the status, and the details of its google.rpc.Status."""

    status: str
    text: str
    reason: str = ""
    domain: str = ""
    info: dict[str, str] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()  # path and problem
    retry_seconds: float | None = None
    trailers: tuple[tuple[str, str | bytes], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the wrong fields."""
        return tuple(path for path, _ in self.fields)


@contextmanager
def channel_of(profile: Profile) -> Iterator[grpc.Channel]:
    ca, key, cert = profile.read_credentials()
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    # A channel of its own connections: gRPC would share them among equal channels.
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    with grpc.secure_channel(profile.address, credentials, options=options) as channel:
        yield channel


@contextmanager
def stub_of(profile: Profile) -> Iterator[SsnVaultStub]:
    with channel_of(profile) as channel:
        yield SsnVaultStub(channel)


def person(token: str) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that names a person."""
    return ((PERSON_KEY, token),)


def refused(call: Callable[[], object]) -> Failure:
    """How `call` fails; it must."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def failure_of(error: grpc.RpcError) -> Failure:
    """What a failed call carries; its status and the one in its details must say the same."""
    trailers = tuple(cast("Sequence[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    status, text = error.code().name, error.details() or ""
    packed = [value for key, value in trailers if key == _DETAILS_KEY]
    if not packed:
        return Failure(status, text, trailers=trailers)
    (value,) = packed
    assert isinstance(value, bytes)
    details = status_pb2.Status.FromString(value)
    assert (code_pb2.Code.Name(details.code), details.message) == (status, text)
    infos, fields, retries = [], [], []
    for detail in details.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            infos.append(error_details_pb2.ErrorInfo.FromString(detail.value))
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            fields += [(violation.field, violation.description) for violation in bad.field_violations]
        else:
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retries.append(delay.seconds + delay.nanos / 1e9)
    (info,) = infos
    assert len(retries) <= 1
    return Failure(
        status,
        text,
        info.reason,
        info.domain,
        dict(info.metadata),
        tuple(fields),
        retries[0] if retries else None,
        trailers,
    )
