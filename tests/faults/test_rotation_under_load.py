"""Every rotation under load on two replicas, the one that re-encrypts killed three times: no call fails but those cut.

TEST_ROTATION_SECONDS makes it go on, rotation after rotation, for that long.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ssn_vault_client import Client, LinkageItem, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.commands import succeeds
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from vault_service.cli.key_work import KeyWork
from vault_service.keys.names import KeyKind
from vault_service.storage.jobs import JobRow

SECONDS = float(os.environ.get("TEST_ROTATION_SECONDS", "0"))
KILLS = 3
NUMBERS = [f"93{area}02{serial:04}" for area in range(5) for serial in range(500)]
SHARED = NUMBERS[1000:1800]  # known in both domains


@dataclass
class Replica:
    """One server as the load sees it."""

    server: ServerProcess
    up: threading.Event = field(default_factory=threading.Event)
    killed_at: list[float] = field(default_factory=list)

    def cut(self, began: float, ended: float) -> bool:
        """Whether a kill of this server came in the midst of a call."""
        return any(began <= at <= ended for at in self.killed_at)


class Load:
    """Steady calls of all three kinds on every replica, until told to stop."""

    def __init__(self, stack: Stack, replicas: list[Replica], tokens: dict[str, str], across: dict[str, str]) -> None:
        self._stack = stack
        self._replicas = replicas
        self._tokens = tokens  # number -> token, in k12
        self._across = across  # number -> token, in highered
        self._ids: dict[str, str] = {}  # number -> linkage id
        self.stop = threading.Event()
        self.failures: list[str] = []
        self.calls = 0
        self.cut = 0

    def threads(self) -> list[Callable[[], None]]:
        return [
            lambda one=one, what=what, client=client: self._run(one, what, client)  # type: ignore[misc]  # bound now
            for one in self._replicas
            for what, client in ((self._store_and_ask, "sis"), (self._match, "linkage-job"))
        ]

    def _run(self, replica: Replica, once: Callable[[Client, random.Random], None], name: str) -> None:
        chance = random.Random(f"{replica.server.port}{name}")
        while not self.stop.is_set():
            with self._stack.client(name, server=replica.server) as client:
                while not self.stop.is_set():
                    began = time.monotonic()
                    if not replica.up.is_set():
                        break
                    try:
                        once(client, chance)
                        self.calls += 1
                    except SsnVaultError as error:
                        if replica.cut(began, time.monotonic()):
                            self.cut += 1
                            break
                        self.failures.append(f"{name}: {error!r}")
                    except AssertionError as error:
                        self.failures.append(f"{name}: {error}")
            replica.up.wait(60)

    def _store_and_ask(self, client: Client, chance: random.Random) -> None:
        numbers = chance.sample(NUMBERS, 10)
        results = client.tokenize("k12", [TokenizeItem(Ssn(number)) for number in numbers])
        assert [result.token for result in results] == [self._tokens[number] for number in numbers], "another token"
        asked = [self._tokens[number] for number in numbers]
        answer = client.detokenize("k12", asked, purpose="transcript-verification", justification=JUSTIFICATION)
        found = [result.ssn.reveal() if result.ssn else None for result in answer.results]
        assert found == [number[-4:] for number in numbers], "another number"

    def _match(self, client: Client, chance: random.Random) -> None:
        numbers = chance.sample(SHARED, 10)
        answer = client.linkage_match("college-outcomes", [LinkageItem(self._across[number]) for number in numbers])
        for number, result in zip(numbers, answer.results, strict=True):
            assert result.linkage_id, "a match was missed"
            assert self._ids.setdefault(number, result.linkage_id) == result.linkage_id, "another linkage id"


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "home", database_url=new_database_url("postgresql", request)) as stack:
        yield stack


def stored(stack: Stack, client: str, domain: str, numbers: list[str]) -> dict[str, str]:
    with stack.client(client) as one:
        found: dict[str, str] = {}
        for at in range(0, len(numbers), 1000):
            part = numbers[at : at + 1000]
            results = one.tokenize(domain, [TokenizeItem(Ssn(number)) for number in part])
            found |= {number: result.token or "" for number, result in zip(part, results, strict=True)}
        return found


def process_of(stack: Stack, replica: str) -> int | None:
    """The process id of the server that calls itself `replica`, from its own log."""
    for line in stack.log.read_text().splitlines():
        if replica and replica in line and '"listening"' in line:
            return int(json.loads(line)["pid"])
    return None


def kill_the_holder(stack: Stack, replicas: list[Replica], moved: int) -> int:
    """Kill the server that works on the job, once it has moved more than `moved` rows, and start it again."""
    while True:
        rows = stack.query("SELECT holder, moved, finished_at FROM job ORDER BY started_at DESC LIMIT 1")
        assert rows, "no job"
        holder, now_moved, finished = rows[0]
        assert finished is None, "the job was over before it could be disturbed"
        holding = [one for one in replicas if one.server.is_running() and one.server.pid == process_of(stack, holder)]
        if now_moved > moved and holding:
            break
        time.sleep(0.02)
    (victim,) = holding
    victim.up.clear()
    victim.killed_at.append(time.monotonic())
    victim.server.kill()
    victim.server.start()
    victim.up.set()
    return int(now_moved)


def test_no_call_fails_while_every_key_is_rotated_and_the_server_that_moves_rows_is_killed(own: Stack) -> None:
    own.add_server()
    tokens = stored(own, "sis", "k12", NUMBERS)
    across = stored(own, "registrar", "highered", SHARED)
    replicas = [Replica(server) for server in own.servers]
    for replica in replicas:
        replica.up.set()
    load = Load(own, replicas, tokens, across)
    until = time.monotonic() + SECONDS
    rounds = 0
    with ThreadPoolExecutor(16) as pool, own.admin("key-admin-a") as one:
        work = KeyWork(one, own.where("key-admin-a"), "key-admin-b")
        running = [pool.submit(thread) for thread in load.threads()]
        try:
            while rounds == 0 or time.monotonic() < until:
                rounds += 1
                rotate_everything(own, work, replicas, pool)
        finally:
            load.stop.set()
            for replica in replicas:
                replica.up.set()
        for thread in running:
            thread.result(60)
    assert load.failures == []
    assert load.calls > 100
    assert all(replica.killed_at for replica in replicas) or rounds == 1
    for column, kind in (("data_version", "data"), ("index_version", "index")):
        versions = own.query(f"SELECT domain, {column}, count(*) FROM token_record GROUP BY 1, 2 ORDER BY 1")
        assert [tuple(row) for row in versions] == [
            ("highered", rounds + 1, len(SHARED)),
            ("k12", rounds + 1, len(NUMBERS)),
        ], kind
    assert stored(own, "sis", "k12", NUMBERS) == tokens
    for version in range(1, rounds + 1):
        for kind in ("data", "index"):
            named = ["--kind", kind, "--domain", "k12", "--version", str(version)]
            succeeds(own, "keys", "retire", *named, "--yes")
            confirmed = ["--confirm", f"k12/{kind}/{version}", "--yes", "--second", "key-admin-b"]
            succeeds(own, "keys", "destroy", *named, *confirmed)
    succeeds(own, "keys", "status")
    assert stored(own, "sis", "k12", NUMBERS) == tokens


def rotate_everything(own: Stack, work: KeyWork, replicas: list[Replica], pool: ThreadPoolExecutor) -> None:
    scopes = ("k12", "highered", "college-outcomes")
    for scope in scopes:
        work.rotate_wrapping(scope)
    for scope in scopes[:2]:
        work.rotate(scope, KeyKind.DATA)
    for scope in scopes:
        work.rotate(scope, KeyKind.INDEX)
    following = pool.submit(work.reencrypt, "k12", 250)
    while not own.query("SELECT 1 FROM job WHERE finished_at IS NULL"):
        time.sleep(0.02)
    moved = 0
    for _ in range(KILLS):
        moved = kill_the_holder(own, replicas, moved)
    row: JobRow = following.result(120)
    assert (row.moved, row.failed) == (len(NUMBERS), 0)
    for scope in scopes[1:]:
        assert work.reencrypt(scope, 100_000).failed == 0
