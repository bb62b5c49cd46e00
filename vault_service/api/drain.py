"""The orderly end of calls: new ones are refused, running ones get their time, and then an answer.

Left to itself gRPC cuts off what still runs at the end with CANCELLED, which says that the client changed its
mind, and so what its core has read and nobody has taken when it stops listening. Here it is UNAVAILABLE, so that the
client tries another server. Belongs to one event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vault_service.errors import CallError, Reason

Message = TypeVar("Message")


class Drain:
    """The calls of one server."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()
        self._between: set[asyncio.Task[object]] = set()  # streams that wait for their client's next message
        self._ended: set[asyncio.Task[object]] = set()  # calls that were told to end
        self._ending = False
        self._refusing = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def ending(self) -> bool:
        """Whether new calls are to be given to `refuse`."""
        return self._ending

    async def refuse(self) -> None:
        """Answer a call that came too late: CallError STORE_UNAVAILABLE."""
        await self._refusing.wait()
        raise CallError(Reason.STORE_UNAVAILABLE)

    @property
    def trouble(self) -> str:
        """Why no new call is taken; empty while they are."""
        return "the server is ending" if self._ending else ""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around everything that a call does. CallError STORE_UNAVAILABLE when the server ends before the call does."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run in tasks
        self._running.add(task)
        self._empty.clear()
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise CallError(Reason.STORE_UNAVAILABLE) from None
        finally:
            self._running.discard(task)
            self._ended.discard(task)
            if not self._running:
                self._empty.set()

    async def messages(self, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """A stream's messages, until the server is ending: what was answered stands, nothing more is begun."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run in tasks
        while True:
            if self._ending:
                raise CallError(Reason.STORE_UNAVAILABLE)
            self._between.add(task)
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            finally:
                self._between.discard(task)
            yield message

    def begin(self) -> None:
        """Take no new call and no new message of a stream. New calls are held, so that their clients send no more."""
        self._ending = True
        self._end(self._between)

    def release(self) -> None:
        """Answer the calls that are held, once their clients know that this connection takes no more."""
        self._refusing.set()

    async def finish(self, seconds: float) -> None:
        """Wait for the calls that run; answer those that are still there after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            self._end(self._running)
            await self._empty.wait()

    def _end(self, tasks: set[asyncio.Task[object]]) -> None:
        for task in list(tasks):
            self._ended.add(task)
            task.cancel()
