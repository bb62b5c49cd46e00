"""Load: a number of calls kept in flight over one mTLS channel, from ready-made messages; items a second."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ssn_vault_client import Profile
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultStub


@dataclass(frozen=True)
class Measured:
    """One run: items a second, and the latencies of its calls (seconds, sorted)."""

    items_per_second: float
    latencies: list[float]
    responses: list[Any]


async def _run(
    profile: Profile, method: str, requests: Sequence[Any], in_flight: int, items: int, metadata: Any
) -> Measured:
    credentials = grpc.ssl_channel_credentials(
        profile.ca.read_bytes(), profile.key.read_bytes(), profile.cert.read_bytes()
    )
    responses: list[Any] = []
    latencies: list[float] = []
    async with grpc.aio.secure_channel(profile.address, credentials) as channel:
        call = getattr(SsnVaultStub(channel), method)
        await channel.channel_ready()
        waiting = iter(requests)

        async def worker() -> None:
            for request in waiting:
                began = time.perf_counter()
                responses.append(await call(request, metadata=metadata, timeout=60))
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        seconds = time.perf_counter() - began
    return Measured(len(requests) * items / seconds, sorted(latencies), responses)


def run(
    profile: Profile, method: str, requests: Sequence[Any], *, in_flight: int, items: int = 1, metadata: Any = None
) -> Measured:
    """Send all requests, `in_flight` at a time; each carries `items`."""
    return asyncio.run(_run(profile, method, requests, in_flight, items, metadata))
