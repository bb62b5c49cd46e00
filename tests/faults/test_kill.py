"""kill -9 at random moments under load: no plaintext without its committed row, no second token for a number."""

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ssn_vault_client import Client, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack

KILLS = int(os.environ.get("TEST_KILLS", "50"))  # over both databases together
NUMBERS = 400
WORKERS = 4


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url(database, request)) as running:
        yield running


class Worker:
    """One client's loop: what it was told, kept for the comparison with the record."""

    def __init__(self, stack: Stack, seed: int, stop: threading.Event) -> None:
        self.tokens: dict[str, set[str]] = {}
        self.delivered: list[tuple[str, str]] = []  # event, token
        self._stack = stack
        self._random = random.Random(seed)
        self._stop = stop
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._stack.client("sis", timeout=5) as client:
            while not self._stop.is_set():
                try:
                    self._once(client)
                except SsnVaultError:
                    time.sleep(0.02)

    def _once(self, client: Client) -> None:
        numbers = [f"947-21-{self._random.randrange(NUMBERS):04}" for _ in range(self._random.choice((1, 5, 30)))]
        results = client.tokenize("k12", [TokenizeItem(Ssn(number)) for number in numbers])
        for number, result in zip(numbers, results, strict=True):
            assert result.token is not None
            self.tokens.setdefault(number, set()).add(result.token)
        wanted = [result.token or "" for result in results[:20]]
        disclosure = client.detokenize("k12", wanted, purpose="transcript-verification", justification=JUSTIFICATION)
        for number, opened in zip(numbers, disclosure.results, strict=False):
            assert opened.ssn is not None
            assert opened.ssn.reveal() == number[-4:]
        self.delivered += [(disclosure.disclosure_id, token) for token in wanted]


def more_than(before: int, workers: list[Worker]) -> bool:
    return sum(len(worker.delivered) for worker in workers) > before


def test_killed_at_random_moments_nothing_is_delivered_unrecorded_and_no_number_has_two_tokens(own: Stack) -> None:
    stop = threading.Event()
    workers = [Worker(own, seed, stop) for seed in range(WORKERS)]
    for worker in workers:
        worker.thread.start()
    moments = random.Random(4711)
    for killed in itertools.count():
        if killed >= (KILLS + 1) // 2 and sum(len(worker.delivered) for worker in workers) > KILLS:
            break
        assert killed < 20 * KILLS  # a busy machine gives few answers between two kills
        before = sum(len(worker.delivered) for worker in workers)
        time.sleep(moments.uniform(0.05, 0.4))
        if killed % 2:  # every other time in the middle of calls that are answered, however slow the machine is
            until(partial(more_than, before, workers), 60)
        own.server.kill()
        own.server.start(wait=False)
        own.server.wait_listening()
    own.server.wait_ready()
    until(lambda: len({number for worker in workers for number in list(worker.tokens)}) > NUMBERS / 2, 120)
    stop.set()
    for worker in workers:
        worker.thread.join(60)
    delivered = [pair for worker in workers for pair in worker.delivered]
    recorded = {tuple(row) for row in own.query("SELECT event_id, token FROM disclosure WHERE outcome = 'found'")}
    assert set(delivered) <= recorded
    together: dict[str, set[str]] = {}
    for worker in workers:
        for number, tokens in worker.tokens.items():
            together.setdefault(number, set()).update(tokens)
    assert len(together) > NUMBERS / 2
    assert all(len(tokens) == 1 for tokens in together.values())
    stored = own.query("SELECT token, blind_index FROM token_record")
    assert len({bytes(index) for _, index in stored}) == len(stored)
    assert {token for tokens in together.values() for token in tokens} <= {token for token, _ in stored}
