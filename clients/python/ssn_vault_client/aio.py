"""Owns the asyncio client: the same calls, values and errors as the blocking one, over a channel of
grpc.aio. Each client belongs to the event loop that it was made in."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import count
from typing import Self, TypeAlias, TypeVar

import grpc
from grpc import aio

from ssn_vault_client import wire
from ssn_vault_client.connection import (
    CHANNEL_OPTIONS,
    Metadata,
    PersonToken,
    credentials,
    pause_before_retry,
    person_metadata,
)
from ssn_vault_client.errors import error_from
from ssn_vault_client.profile import Profile
from ssn_vault_client.values import Disclosure, Linkage, LinkageItem, Tokenized, TokenizeItem, View
from ssnvault.v1.ssn_vault_pb2_grpc import SsnVaultStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Batch = TypeVar("Batch")
Batches: TypeAlias = Iterable[Batch] | AsyncIterable[Batch]


class AsyncClient:
    """`Client` for asyncio; its methods are described there. Batches may be an iterable or an asynchronous
    one; a function given as `person_token` is called in the event loop and must not block.
    """

    def __init__(self, profile: Profile, person_token: PersonToken = None, *, retries: int = 0) -> None:
        self._profile = profile
        self._person_token = person_token
        self._retries = retries
        self._channel = aio.secure_channel(profile.address, credentials(profile), options=CHANNEL_OPTIONS)
        self._stub = SsnVaultStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the channel and every call on it."""
        await self._channel.close()

    async def tokenize(
        self, domain: str, items: Sequence[TokenizeItem], request_id: str | None = None
    ) -> list[Tokenized]:
        """As `Client.tokenize`."""
        return wire.tokenized(
            await self._call(
                self._stub.Tokenize,
                lambda: wire.tokenize_request(domain, items, request_id),
                free_to_repeat=True,
            )
        )

    async def tokenize_stream(
        self,
        domain: str,
        batches: Batches[Sequence[TokenizeItem]],
        request_id: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the stream's deadline, which the vault is told
    ) -> AsyncGenerator[list[Tokenized], None]:
        """As `Client.tokenize_stream`, in the event loop instead of a thread."""
        requests = _requests(
            batches,
            lambda number, batch: wire.tokenize_request(domain, batch, wire.message_id(request_id, number)),
        )
        async with aclosing(self._converse(self._stub.TokenizeStream, requests, timeout)) as responses:
            async for response in responses:
                yield wire.tokenized(response)

    async def detokenize(
        self,
        domain: str,
        tokens: Sequence[str],
        *,
        purpose: str,
        justification: str,
        view: View = View.LAST4,
        request_id: str | None = None,
    ) -> Disclosure:
        """As `Client.detokenize`."""
        return wire.disclosure(
            await self._call(
                self._stub.Detokenize,
                lambda: wire.detokenize_request(domain, tokens, purpose, justification, view, request_id),
                free_to_repeat=bool(request_id),
                metadata=person_metadata(self._person_token, self._profile),
            )
        )

    async def linkage_match(
        self, agreement: str, items: Sequence[LinkageItem], request_id: str | None = None
    ) -> Linkage:
        """As `Client.linkage_match`."""
        return wire.linkage(
            await self._call(
                self._stub.LinkageMatch,
                lambda: wire.linkage_request(agreement, items, request_id),
                free_to_repeat=bool(request_id),
            )
        )

    async def linkage_match_stream(
        self,
        agreement: str,
        batches: Batches[Sequence[LinkageItem]],
        request_id: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the stream's deadline, which the vault is told
    ) -> AsyncGenerator[Linkage, None]:
        """As `Client.linkage_match_stream`, in the event loop instead of a thread."""
        requests = _requests(
            batches,
            lambda number, batch: wire.linkage_request(agreement, batch, wire.message_id(request_id, number)),
        )
        async with aclosing(self._converse(self._stub.LinkageMatchStream, requests, timeout)) as responses:
            async for response in responses:
                yield wire.linkage(response)

    async def _call(
        self,
        method: "aio.UnaryUnaryMultiCallable[Request, Response]",  # quoted: generic in the stubs only
        make: Callable[[], Request],
        *,
        free_to_repeat: bool,
        metadata: Metadata = (),
    ) -> Response:
        """As `Client._call`, and with a factory for the same reason."""
        deadline = time.monotonic() + self._profile.timeout
        attempt = 0
        while True:
            try:
                return await method(
                    make(), timeout=max(deadline - time.monotonic(), 0.0), metadata=aio.Metadata(*metadata)
                )
            except grpc.RpcError as failure:
                error = error_from(failure)
            retries = self._retries if free_to_repeat else 0
            pause = pause_before_retry(error, attempt, retries, deadline - time.monotonic())
            if pause is None:
                raise error
            await asyncio.sleep(pause)
            attempt += 1

    async def _converse(
        self,
        method: "aio.StreamStreamMultiCallable[Request, Response]",  # quoted: generic in the stubs only
        requests: AsyncIterator[Request],
        timeout: float | None,  # noqa: ASYNC109 - the stream's deadline, which the vault is told
    ) -> AsyncGenerator[Response, None]:
        raised: list[Exception] = []

        async def outgoing() -> AsyncIterator[Request]:
            try:
                async for request in requests:
                    yield request
            except Exception as failure:  # noqa: BLE001 - whatever the caller's iterable raises is the caller's
                raised.append(failure)
                call.cancel()  # not a half-close: the vault is to decide on no part of a stream

        call = method(outgoing(), timeout=timeout)
        error: Exception | None = None
        try:
            async for response in call:
                yield response
        except grpc.RpcError as failure:
            error = raised[0] if raised else error_from(failure)
        except asyncio.CancelledError:
            if not raised:
                raise
            error = raised[0]
        finally:
            call.cancel()  # the caller may have stopped half-way
        if error is not None:
            raise error


async def _requests(batches: Batches[Batch], make: Callable[[int, Batch], Request]) -> AsyncIterator[Request]:
    number = count()
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield make(next(number), batch)
    else:
        for batch in batches:
            yield make(next(number), batch)
