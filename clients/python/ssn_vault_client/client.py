"""Owns the blocking client: the vault's calls over one channel, usable from several threads. Values go in
and come out; messages, and so numbers in the clear, stay inside."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Generic, Self, TypeVar

import grpc

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


class Client:
    """Calls the vault as one client, and for one person where a person is asked for.

    `person_token` (a JWT, or a function that gives a fresh one) is sent with `detokenize` only; without it
    the profile's `person_token_file` is read. `retries` is how often a call that found the vault away or
    overloaded is tried again, within the profile's timeout, if repeating it is free: `tokenize`, and calls
    with a request id.

    Every call may raise SsnVaultError; TypeError and ValueError are mistakes in what was passed, and show
    no value. The constructor raises ProfileError.
    """

    def __init__(self, profile: Profile, person_token: PersonToken = None, *, retries: int = 0) -> None:
        self._profile = profile
        self._person_token = person_token
        self._retries = retries
        self._channel = grpc.secure_channel(profile.address, credentials(profile), options=CHANNEL_OPTIONS)
        self._stub = SsnVaultStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the channel and every call on it."""
        self._channel.close()

    def tokenize(self, domain: str, items: Sequence[TokenizeItem], request_id: str | None = None) -> list[Tokenized]:
        """The token of each number, 1 to 1,000, in order; the same one each time it is asked for."""
        return wire.tokenized(
            self._call(
                self._stub.Tokenize,
                lambda: wire.tokenize_request(domain, items, request_id),
                free_to_repeat=True,
            )
        )

    def tokenize_stream(
        self,
        domain: str,
        batches: Iterable[Sequence[TokenizeItem]],
        request_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> Generator[list[Tokenized], None, None]:
        """`tokenize` for any number of batches: one list a batch, in order, while later batches are sent.

        `batches` is read in a thread of its own, and only as fast as answers are taken: memory stays
        bounded. What it raises is raised here. Message n carries the id `<request_id>-n`. `timeout`
        (seconds) is for the whole stream; without it there is none. Answered batches stand when a later one
        fails.
        """
        requests = (
            wire.tokenize_request(domain, batch, wire.message_id(request_id, number))
            for number, batch in enumerate(batches)
        )
        for response in self._converse(self._stub.TokenizeStream, requests, timeout):
            yield wire.tokenized(response)

    def detokenize(
        self,
        domain: str,
        tokens: Sequence[str],
        *,
        purpose: str,
        justification: str,
        view: View = View.LAST4,
        request_id: str | None = None,
    ) -> Disclosure:
        """The numbers behind `tokens`, in order, or as much of them as `view` asks for.

        `justification` (10 to 500 characters) says why; it stands in the disclosure record with each token.
        """
        return wire.disclosure(
            self._call(
                self._stub.Detokenize,
                lambda: wire.detokenize_request(domain, tokens, purpose, justification, view, request_id),
                free_to_repeat=bool(request_id),
                metadata=person_metadata(self._person_token, self._profile),
            )
        )

    def linkage_match(self, agreement: str, items: Sequence[LinkageItem], request_id: str | None = None) -> Linkage:
        """Which of the caller's own tokens, up to 1,000, are persons that the agreement's other domain
        knows.
        """
        return wire.linkage(
            self._call(
                self._stub.LinkageMatch,
                lambda: wire.linkage_request(agreement, items, request_id),
                free_to_repeat=bool(request_id),
            )
        )

    def linkage_match_stream(
        self,
        agreement: str,
        batches: Iterable[Sequence[LinkageItem]],
        request_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> Generator[Linkage, None, None]:
        """`linkage_match` for any number of batches, as `tokenize_stream` does it.

        A one-to-one agreement is decided over the whole stream, so its first answer comes after the last
        batch.
        """
        requests = (
            wire.linkage_request(agreement, batch, wire.message_id(request_id, number))
            for number, batch in enumerate(batches)
        )
        for response in self._converse(self._stub.LinkageMatchStream, requests, timeout):
            yield wire.linkage(response)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",  # quoted: generic in the stubs only
        make: Callable[[], Request],
        *,
        free_to_repeat: bool,
        metadata: Metadata = (),
    ) -> Response:
        """One call, repeated where that is allowed. `make` instead of a message: tools that print the local
        variables of a traceback would print the numbers in it; for the same reason gRPC's own error is not
        chained.
        """
        deadline = time.monotonic() + self._profile.timeout
        attempt = 0
        while True:
            try:
                return method(make(), timeout=max(deadline - time.monotonic(), 0.0), metadata=metadata)
            except grpc.RpcError as failure:
                error = error_from(failure)
            retries = self._retries if free_to_repeat else 0
            pause = pause_before_retry(error, attempt, retries, deadline - time.monotonic())
            if pause is None:
                raise error
            time.sleep(pause)
            attempt += 1

    def _converse(
        self,
        method: "grpc.StreamStreamMultiCallable[Request, Response]",  # quoted: generic in the stubs only
        requests: Iterator[Request],
        timeout: float | None,
    ) -> Iterator[Response]:
        outgoing = _Outgoing(requests)
        call = method(outgoing, timeout=timeout)
        outgoing.cancel_by(call.cancel)
        error: Exception | None = None
        try:
            yield from call
        except grpc.RpcError as failure:
            error = outgoing.failure or error_from(failure)
        finally:
            call.cancel()  # the caller may have stopped half-way
        if error is not None:
            raise error


class _Outgoing(Generic[Request]):
    """The requests of a stream. gRPC would log what the caller's iterable raises and then end the stream as
    if that were all; here it is kept for the caller, and the call is cancelled so that the vault decides on
    no part.
    """

    def __init__(self, requests: Iterator[Request]) -> None:
        self.failure: Exception | None = None
        self._requests = requests
        self._started = threading.Event()

    def cancel_by(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._started.set()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Request:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever the caller's iterable raises is the caller's
            self.failure = failure
        self._started.wait()
        self._cancel()
        raise StopIteration
