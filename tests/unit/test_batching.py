"""Calls that wait share an execution, within bounds, and none of them is lost or harmed by another."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from vault_service.batching import Batcher
from vault_service.errors import CallError, NotBegunError, Reason


@dataclass(eq=False)
class Call:
    """One call: its weight, how it is to fail, and whether it was executed."""

    weight: int = 1
    fails: BaseException | None = None
    failure: BaseException | None = None
    executed: int = 0


class Database:
    """Executes batches; while closed, an execution waits inside, as a slow transaction would."""

    def __init__(self) -> None:
        self.batches: list[list[Call]] = []
        self.begun = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.raises: BaseException | None = None

    def execute(self, calls: Sequence[Call]) -> None:
        self.batches.append(list(calls))
        self.begun.set()
        assert self.open.wait(10)
        if self.raises is not None:
            raise self.raises
        for call in calls:
            call.executed += 1
            call.failure = call.fails

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def _run(
    test: Callable[[Batcher[Call], Database], Awaitable[None]],
    *,
    threads: int = 1,
    items_per_transaction: int = 100,
    calls_at_once: int = 50,
    items_at_once: int = 1000,
) -> Database:
    """Run `test` with a batcher of its own; at the end all of its threads are gone."""
    database = Database()

    async def main() -> None:
        batcher = Batcher[Call](
            database.execute,
            threads=threads,
            items_per_transaction=items_per_transaction,
            calls_at_once=calls_at_once,
            items_at_once=items_at_once,
        )
        try:
            await asyncio.wait_for(test(batcher, database), 10)
        finally:
            database.open.set()
            await asyncio.to_thread(batcher.stop)

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("database-")]
    return database


async def _hold(batcher: Batcher[Call], database: Database, call: Call | None = None) -> asyncio.Task[None]:
    """Start a call that stays inside the database until it is opened."""
    database.open.clear()
    database.begun.clear()
    task = asyncio.create_task(batcher.run(call or Call()))
    assert await asyncio.to_thread(database.begun.wait, 10)
    return task


async def _waiting(batcher: Batcher[Call], calls: Sequence[Call]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(batcher.run(call)) for call in calls]
    await asyncio.sleep(0)
    return tasks


def test_a_lone_call_is_executed_at_once() -> None:
    async def test(batcher: Batcher[Call], _: Database) -> None:
        call = Call()
        await batcher.run(call)
        assert call.executed == 1

    assert _run(test).sizes == [1]


def test_calls_that_wait_share_one_execution_in_their_order() -> None:
    calls = [Call() for _ in range(20)]

    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, calls)
        database.open.set()
        await asyncio.gather(first, *tasks)

    database = _run(test)
    assert database.batches[1:] == [calls]
    assert all(call.executed == 1 for call in calls)


def test_a_batch_holds_no_more_items_than_its_bound() -> None:
    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, [Call(40), Call(60), Call(1), Call(99), Call(100), Call(1)])
        database.open.set()
        await asyncio.gather(first, *tasks)

    weights = [[call.weight for call in batch] for batch in _run(test).batches]
    assert weights == [[1], [40, 60], [1, 99], [100], [1]]


def test_a_call_above_the_bound_is_executed_alone() -> None:
    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, [Call(1), Call(500), Call(1)])
        database.open.set()
        await asyncio.gather(first, *tasks)

    weights = [[call.weight for call in batch] for batch in _run(test).batches]
    assert weights == [[1], [1], [500], [1]]


async def _overloaded(batcher: Batcher[Call], call: Call) -> bool:
    try:
        await batcher.run(call)
    except CallError as error:
        return error.reason is Reason.OVERLOADED
    return False


def test_more_calls_than_it_takes_on_are_refused_at_once_and_later_taken_again() -> None:
    async def test(batcher: Batcher[Call], database: Database) -> None:
        for _ in range(3):  # so that nothing of the allowance is lost on the way
            tasks = [await _hold(batcher, database), *await _waiting(batcher, [Call() for _ in range(4)])]
            refused = Call()
            assert await _overloaded(batcher, refused)
            assert refused.executed == 0
            database.open.set()
            await asyncio.gather(*tasks)

    _run(test, calls_at_once=5)


def test_more_items_than_it_takes_on_are_refused_and_fewer_still_taken() -> None:
    async def test(batcher: Batcher[Call], database: Database) -> None:
        for _ in range(3):
            tasks = [await _hold(batcher, database, Call(60))]
            assert await _overloaded(batcher, Call(41))
            tasks += await _waiting(batcher, [Call(40)])
            assert await _overloaded(batcher, Call(1))
            database.open.set()
            await asyncio.gather(*tasks)

    _run(test, items_at_once=100)


def test_a_call_that_could_never_be_taken_on_is_not_told_to_try_again() -> None:
    async def test(batcher: Batcher[Call], database: Database) -> None:
        await batcher.run(Call(100))
        with pytest.raises(NotBegunError) as caught:
            await batcher.run(Call(101))
        assert caught.value.reason is Reason.BATCH_TOO_LARGE

    _run(test, items_at_once=100)


def test_a_call_gets_its_own_failure_and_its_neighbours_none() -> None:
    poisoned = Call(fails=CallError(Reason.FROZEN))
    sound = [Call(), Call()]

    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, [sound[0], poisoned, sound[1]])
        database.open.set()
        found = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert found == [None, None, poisoned.fails, None]

    assert _run(test).sizes == [1, 3]


@pytest.mark.parametrize("error", [ValueError("defect"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_an_execution_that_raises_answers_every_call_and_the_next_ones_go_on(error: BaseException) -> None:
    async def outcome(awaited: Awaitable[None]) -> BaseException | None:
        try:
            await awaited
        except BaseException as raised:  # noqa: BLE001 - also what ends programs is looked at here
            return raised
        return None

    async def test(batcher: Batcher[Call], database: Database) -> None:
        database.raises = error
        found = [await outcome(batcher.run(Call())) for _ in range(6)]
        assert found == [error] * 6
        database.raises = None
        await batcher.run(Call())

    _run(test, calls_at_once=5)


def test_a_failure_that_a_call_has_already_stays_when_the_execution_raises() -> None:
    own = CallError(Reason.NOT_PERMITTED)

    async def test(batcher: Batcher[Call], database: Database) -> None:
        database.raises = ValueError("defect")
        with pytest.raises(CallError) as caught:
            await batcher.run(Call(failure=own))
        assert caught.value is own

    _run(test)


def test_a_cancelled_caller_breaks_nobody_and_its_waiting_call_is_not_begun() -> None:
    calls = [Call() for _ in range(4)]

    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, calls)
        tasks[1].cancel()
        first.cancel()
        await asyncio.sleep(0)
        database.open.set()
        found = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [type(one) for one in found] == [
            asyncio.CancelledError,
            type(None),
            asyncio.CancelledError,
            type(None),
            type(None),
        ]
        # Nothing of the allowance went with them.
        again = [await _hold(batcher, database), *await _waiting(batcher, [Call() for _ in range(4)])]
        assert await _overloaded(batcher, Call())
        database.open.set()
        await asyncio.gather(*again)

    _run(test, calls_at_once=5)
    assert [call.executed for call in calls] == [1, 0, 1, 1]


def _until_stopping(batcher: Batcher[Call]) -> None:
    while not batcher._stopped:
        time.sleep(0.001)


def test_stopping_finishes_what_waits_and_takes_nothing_more() -> None:
    calls = [Call(60) for _ in range(5)]

    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        tasks = await _waiting(batcher, calls)
        stopping = asyncio.create_task(asyncio.to_thread(batcher.stop))
        await asyncio.to_thread(_until_stopping, batcher)
        with pytest.raises(NotBegunError) as caught:
            await batcher.run(Call())
        assert caught.value.reason is Reason.STORE_UNAVAILABLE  # another server can do it
        assert not stopping.done()
        database.open.set()
        await asyncio.gather(first, *tasks, stopping)

    _run(test)
    assert all(call.executed == 1 for call in calls)


def test_several_threads_execute_side_by_side_and_each_call_once() -> None:
    calls = [Call() for _ in range(400)]

    async def test(batcher: Batcher[Call], database: Database) -> None:
        first = await _hold(batcher, database)
        database.begun.clear()
        second = asyncio.create_task(batcher.run(Call()))
        assert await asyncio.to_thread(database.begun.wait, 10)  # while the first is still inside
        database.open.set()
        await asyncio.gather(first, second, *(batcher.run(call) for call in calls))

    database = _run(test, threads=3, items_per_transaction=7, calls_at_once=1000)
    assert all(call.executed == 1 for call in calls)
    assert max(database.sizes) <= 7
