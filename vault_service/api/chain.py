"""The one chain that every call passes, whatever its method: access, deadline, identity, errors, metrics.

A handler gets a message and its `Caller`; whatever it raises ends here and becomes a status that repeats
nothing. A method that `ACCESS` does not name fails closed.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, TypeVar

import grpc
import structlog

from vault_service.api.drain import Drain
from vault_service.api.metrics import CALLS, SECONDS
from vault_service.api.status import wire_status
from vault_service.audit.refusals import RefusalKey, RefusalMeter
from vault_service.errors import CallError, NotBegunError, Reason, field_invalid
from vault_service.identity.caller import Caller, PersonClaim
from vault_service.identity.certificate import CertifiedClient, certified_client
from vault_service.identity.person import PersonVerifier

PERSON_KEY: Final = "ssn-vault-person"  # metadata key of the person's token (contract)
_log: Final = structlog.stdlib.get_logger("ssn_vault.api")

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]


class Access(StrEnum):
    """What a method's callers must be allowed; the operations ask the policy for it inside the transaction."""

    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    LINKAGE = "linkage"


ACCESS: Final[dict[str, Access]] = {
    "Tokenize": Access.TOKENIZE,
    "TokenizeStream": Access.TOKENIZE,
    "Detokenize": Access.DETOKENIZE,
    "LinkageMatch": Access.LINKAGE,
    "LinkageMatchStream": Access.LINKAGE,
}


@lru_cache(maxsize=1024)
def _alone(client: CertifiedClient) -> Caller:
    """A caller for whom no person's token came."""
    return Caller(client.name, None, client.serial)


class Chain:
    """Wraps handlers."""

    def __init__(
        self,
        trust_domain: str,
        people: PersonVerifier,
        meter: RefusalMeter,
        least_seconds_left: float,
        longest_certificate: timedelta,
        drain: Drain,
    ) -> None:
        self._trust_domain = trust_domain
        self._longest_certificate = longest_certificate
        self._people = people
        self._meter = meter
        self._least_seconds_left = least_seconds_left
        self._drain = drain

    def unary(
        self, method: str, handle: Callable[[Request, Caller], Awaitable[Response]]
    ) -> Callable[[Request | None, Context], Awaitable[Response]]:
        """The handler of a unary method; None stands for a message that could not be read."""
        access = ACCESS.get(method)
        answered, seconds = CALLS.labels(method, "OK"), SECONDS.labels(method)

        async def handler(request: Request | None, context: Context) -> Response:
            began = time.perf_counter()
            try:
                if self._drain.ending:
                    await self._drain.refuse()
                with self._drain.call():
                    caller = await self._admit(access, context)
                    response = await handle(_well_formed(request), caller)
            except BaseException as error:  # noqa: BLE001 - no exception's text may reach the client
                await self._fail(method, context, error, began)
                raise AssertionError from None
            answered.inc()
            seconds.observe(time.perf_counter() - began)
            return response

        return handler

    def stream(
        self,
        method: str,
        handle: Callable[[AsyncIterator[Request], Caller], AsyncIterator[Response]],
    ) -> Callable[[AsyncIterator[Request | None], Context], AsyncIterator[Response]]:
        """The handler of a bidirectional method: a message is read when the one before it was answered."""
        access = ACCESS.get(method)
        answered, seconds = CALLS.labels(method, "OK"), SECONDS.labels(method)

        async def handler(requests: AsyncIterator[Request | None], context: Context) -> AsyncIterator[Response]:
            began = time.perf_counter()
            try:
                if self._drain.ending:
                    await self._drain.refuse()
                with self._drain.call():
                    caller = await self._admit(access, context)
                    checked = (_well_formed(request) async for request in self._drain.messages(requests))
                    async for response in handle(checked, caller):
                        yield response
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - no exception's text may reach the client
                await self._fail(method, context, error, began)
            answered.inc()
            seconds.observe(time.perf_counter() - began)

        return handler

    async def _admit(self, access: Access | None, context: Context) -> Caller:
        if access is None:
            raise CallError(Reason.NOT_PERMITTED)
        left = context.time_remaining()
        if left is not None and left < self._least_seconds_left:  # type: ignore[redundant-expr]  # None: no deadline
            # The client will not wait for the answer: nothing is disclosed that nobody receives.
            raise NotBegunError(Reason.OVERLOADED)
        client = self._client(context)
        for key, _ in context.invocation_metadata() or ():
            if key == PERSON_KEY:
                return Caller(client.name, await self._person(context), client.serial)
        return _alone(client)

    def _client(self, context: Context) -> CertifiedClient:
        # Not by the peer's address: another connection can come from it later.
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if not pem:
            return CertifiedClient(None, "")
        return certified_client(pem, self._trust_domain, self._longest_certificate)

    async def _person(self, context: Context) -> PersonClaim:
        tokens = [value for key, value in context.invocation_metadata() or () if key == PERSON_KEY]
        token = tokens[0]
        if len(tokens) != 1 or not isinstance(token, str):
            return PersonClaim(None)
        return await self._people.claim(token)

    async def _fail(self, method: str, context: Context, error: BaseException, began: float) -> None:
        """End the call with the status of `error`; raises always."""
        if isinstance(error, asyncio.CancelledError):
            CALLS.labels(method, "CANCELLED").inc()
            raise error
        if not isinstance(error, CallError):
            error_id = uuid.uuid4().hex
            _log.error("internal error", method=method, error_id=error_id, error=type(error).__name__, at=_place(error))
            error = CallError(Reason.INTERNAL, error_id=error_id)
        if isinstance(error, NotBegunError) or any(field.path == _MESSAGE for field in error.fields):
            client = self._client(context).name
            self._meter.withhold(RefusalKey(client or "invalid", method, error.reason.value))
        CALLS.labels(method, error.reason.value).inc()
        SECONDS.labels(method).observe(time.perf_counter() - began)
        await context.abort(*wire_status(error))


_MESSAGE: Final = "request"  # the path of a message that could not be read at all


def _well_formed(request: Request | None) -> Request:
    if request is None:
        raise field_invalid(_MESSAGE, "is not a well-formed message")
    return request


def _place(error: BaseException) -> str:
    """The innermost line of an exception's trace: where, without what."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "unknown"
