"""A bare grpc.aio server over the same mutual TLS and messages, that does nothing: the floor of a unary call.

Run as a program: `python -m tests.benchmarks.echo PORT CERT KEY CA [uvloop]`; bare, it runs on asyncio's own loop.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from ssnvault.v1 import ssn_vault_pb2 as pb


async def _tokenize(request: pb.TokenizeRequest, context: object) -> pb.TokenizeResponse:
    response = pb.TokenizeResponse()
    for item in request.items:
        response.results.add(reference=item.reference, token="k12_7ZNKDXNVZ3KU2XYA6JX6RUF92K8")
    return response


async def _detokenize(request: pb.DetokenizeRequest, context: object) -> pb.DetokenizeResponse:
    response = pb.DetokenizeResponse(disclosure_id="01a20b3b-2399-7442-8910-b7e9ffa97aca")
    for token in request.tokens:
        response.results.add(token=token, ssn="0000")
    return response


async def main(port: str, cert: bytes, key: bytes, ca: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Tokenize": grpc.unary_unary_rpc_method_handler(
            _tokenize,
            request_deserializer=pb.TokenizeRequest.FromString,
            response_serializer=pb.TokenizeResponse.SerializeToString,
        ),
        "Detokenize": grpc.unary_unary_rpc_method_handler(
            _detokenize,
            request_deserializer=pb.DetokenizeRequest.FromString,
            response_serializer=pb.DetokenizeResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ssnvault.v1.SsnVault", handlers),))
    credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[5:] == ["uvloop"] else asyncio.run
    run(main(sys.argv[1], *(Path(name).read_bytes() for name in sys.argv[2:5])))
