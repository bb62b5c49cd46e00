"""Gathers the calls that wait at the same moment into one transaction.

Calls come in from the event loop, each with its weight (items); database threads take all that wait, up to
a bound, whenever they are free, and hand them to `execute`, which sets every call's outcome. An idle server
starts a lone call at once; one that has just run a batch of many lets the next gather for as long as more
keep coming, because a transaction costs as much as thirty of its calls. What a call does is not known here.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from vault_service.errors import NotBegunError, Reason


class Batched(Protocol):
    """What the batcher needs of a call. `execute` leaves in `failure` why it failed, if it did."""

    failure: BaseException | None

    @property
    def weight(self) -> int:
        """How many items it has, at least 1."""


C = TypeVar("C", bound=Batched)

_MANY: Final = 8  # calls in a batch that mean load
_GATHER_STEP: Final = 0.00125  # seconds; under load, a transaction waits for as long as more calls keep coming,
_GATHER_STEPS: Final = 8  # but not longer than this many steps


class Batcher(Generic[C]):
    """Runs calls on `threads` database threads; one instance a process, made inside the running event loop."""

    def __init__(
        self,
        execute: Callable[[Sequence[C]], None],
        *,
        threads: int,
        items_per_transaction: int,
        calls_at_once: int,
        items_at_once: int,
    ) -> None:
        self._execute = execute
        self._loop = asyncio.get_running_loop()
        self._items_per_transaction = items_per_transaction
        self._calls_left = calls_at_once
        self._items_at_once = items_at_once
        self._items_left = items_at_once
        self._waiting: deque[tuple[C, asyncio.Future[None]]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"database-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, call: C) -> None:
        """Wait until `call` was executed.

        NotBegunError, at once: OVERLOADED when too much is waiting already, BATCH_TOO_LARGE for a call that could
        never be taken on, STORE_UNAVAILABLE when stopped. Raises the call's `failure`.
        A call whose caller is cancelled while it waits is not executed; one that has begun finishes by itself: its
        record may be committed by then.
        """
        weight = call.weight
        if weight > self._items_at_once:
            raise NotBegunError(Reason.BATCH_TOO_LARGE)
        if self._calls_left < 1 or self._items_left < weight:
            raise NotBegunError(Reason.OVERLOADED)
        done: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            if self._stopped:
                raise NotBegunError(Reason.STORE_UNAVAILABLE)
            self._waiting.append((call, done))
            self._changed.notify()
        self._calls_left -= 1
        self._items_left -= weight
        await done
        if call.failure is not None:
            raise call.failure

    def stop(self) -> None:
        """Finish what waits and end the threads; blocks, so call it off the event loop."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        calls: list[C] = []
        while batch := self._take(gather=len(calls) >= _MANY):
            # A caller that went away while its call waited gets nothing recorded and nothing spent.
            calls = [call for call, done in batch if not done.done()]
            try:
                if calls:
                    self._execute(calls)
            except BaseException as error:  # noqa: BLE001 - every waiting call must get an answer
                for call in calls:
                    call.failure = call.failure or error
            self._loop.call_soon_threadsafe(self._finish, batch)

    def _take(self, *, gather: bool) -> list[tuple[C, asyncio.Future[None]]]:
        """All that waits, up to the bound and at least one; empty when stopped."""
        if gather:
            self._gather()
        with self._changed:
            while not self._waiting and not self._stopped:
                self._changed.wait()
            batch: list[tuple[C, asyncio.Future[None]]] = []
            items = 0
            while self._waiting and (not batch or items + self._waiting[0][0].weight <= self._items_per_transaction):
                batch.append(self._waiting.popleft())
                items += batch[-1][0].weight
            return batch

    def _gather(self) -> None:
        seen = len(self._waiting)
        for _ in range(_GATHER_STEPS):
            time.sleep(_GATHER_STEP)
            if len(self._waiting) == seen:
                return
            seen = len(self._waiting)

    def _finish(self, batch: list[tuple[C, asyncio.Future[None]]]) -> None:
        for call, done in batch:
            self._calls_left += 1
            self._items_left += call.weight
            if not done.done():
                done.set_result(None)
