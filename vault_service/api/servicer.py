"""The five methods of the contract, each a message turned into a call, run in a batch, and turned back."""

from collections.abc import AsyncIterator, Callable

import grpc
from google.protobuf.message import DecodeError

from ssnvault.v1 import ssn_vault_pb2 as pb
from vault_service.api import convert
from vault_service.api.chain import Chain
from vault_service.batching import Batcher
from vault_service.errors import CallError, Reason
from vault_service.identity.caller import Caller
from vault_service.operations.call import Call

SERVICE = "ssnvault.v1.SsnVault"


class Servicer:
    """Handles messages; the chain has said who sent them."""

    def __init__(self, batcher: Batcher[Call]) -> None:
        self._batcher = batcher

    async def tokenize(self, request: pb.TokenizeRequest, caller: Caller) -> pb.TokenizeResponse:
        """Tokenize."""
        call = convert.tokenize_call(request, caller)
        await self._batcher.run(call)
        return convert.tokenize_response(request, call)

    async def tokenize_stream(
        self, requests: AsyncIterator[pb.TokenizeRequest], caller: Caller
    ) -> AsyncIterator[pb.TokenizeResponse]:
        """TokenizeStream: each message its own check and transaction."""
        async for request in requests:
            yield await self.tokenize(request, caller)

    async def detokenize(self, request: pb.DetokenizeRequest, caller: Caller) -> pb.DetokenizeResponse:
        """Detokenize."""
        call = convert.detokenize_call(request, caller)
        await self._batcher.run(call)
        return convert.detokenize_response(request, call)

    async def linkage_match(self, request: pb.LinkageMatchRequest, caller: Caller) -> pb.LinkageMatchResponse:
        """LinkageMatch."""
        call = convert.linkage_call(request, caller)
        await self._batcher.run(call)
        return convert.linkage_response(request, call)

    async def linkage_match_stream(
        self, requests: AsyncIterator[pb.LinkageMatchRequest], caller: Caller
    ) -> AsyncIterator[pb.LinkageMatchResponse]:
        """LinkageMatchStream: one agreement, each message its own check and transaction.

        The last message may have fewer tokens than the agreement demands when one before it had enough. That it is
        the last shows when the client ends the stream: until then it gets no answer.
        """
        agreement = ""
        earlier = False
        async for request in requests:
            agreement = agreement or request.agreement
            call = convert.linkage_call(request, caller, agreement)
            call.may_be_last = earlier
            try:
                await self._batcher.run(call)
            except CallError as error:
                if error.reason is not Reason.BATCH_TOO_SMALL or not earlier:
                    raise
                undecided = call.is_undecided
                call = convert.linkage_call(request, caller, agreement)
                call.is_last = await _has_ended(requests)
                if not (call.is_last or undecided):
                    raise  # and stands in the record
                await self._batcher.run(call)
            earlier = True
            yield convert.linkage_response(request, call)


async def _has_ended(requests: AsyncIterator[object]) -> bool:
    """Whether no other message comes; one that comes is lost."""
    async for _ in requests:
        return False
    return True


def _reader(message: type) -> Callable[[bytes], object]:
    """Reads a message, or gives None: what gRPC makes of an exception here would reach the client as text."""
    read: Callable[[bytes], object] = message.FromString  # type: ignore[attr-defined]  # a message class

    def reader(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError:
            return None

    return reader


def method_handlers(servicer: Servicer, chain: Chain) -> grpc.GenericRpcHandler:
    """The service's handlers, each behind the chain."""

    def unary(method: str, handle: object, request: type, response: type) -> object:
        return grpc.unary_unary_rpc_method_handler(
            chain.unary(method, handle),  # type: ignore[arg-type]  # one of the pairs below
            request_deserializer=_reader(request),
            response_serializer=response.SerializeToString,  # type: ignore[attr-defined]  # a message class
        )

    def stream(method: str, handle: object, request: type, response: type) -> object:
        return grpc.stream_stream_rpc_method_handler(
            chain.stream(method, handle),  # type: ignore[arg-type]  # one of the pairs below
            request_deserializer=_reader(request),
            response_serializer=response.SerializeToString,  # type: ignore[attr-defined]  # a message class
        )

    handlers = {
        "Tokenize": unary("Tokenize", servicer.tokenize, pb.TokenizeRequest, pb.TokenizeResponse),
        "TokenizeStream": stream("TokenizeStream", servicer.tokenize_stream, pb.TokenizeRequest, pb.TokenizeResponse),
        "Detokenize": unary("Detokenize", servicer.detokenize, pb.DetokenizeRequest, pb.DetokenizeResponse),
        "LinkageMatch": unary("LinkageMatch", servicer.linkage_match, pb.LinkageMatchRequest, pb.LinkageMatchResponse),
        "LinkageMatchStream": stream(
            "LinkageMatchStream", servicer.linkage_match_stream, pb.LinkageMatchRequest, pb.LinkageMatchResponse
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)  # type: ignore[arg-type]  # made above
