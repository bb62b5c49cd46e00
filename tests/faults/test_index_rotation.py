"""Promise 4 while an index is rotated: racing writers, the job that moves rows, and a replica that lags."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssn_vault_client import Ssn, TokenizeItem, Traits
from tests.conftest import new_database_url
from tests.support.inside import runner_inside
from tests.support.postgres import PostgresServer
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.cli.key_work import KeyWork
from vault_service.identity.caller import Caller
from vault_service.keys.names import KeyKind, KeyName
from vault_service.operations.call import TokenizeCall, TraitsText
from vault_service.operations.runner import Runner
from vault_service.orders.control import Control
from vault_service.orders.order import Action
from vault_service.orders.state import ControlState
from vault_service.storage.engine import Transaction
from vault_service.storage.orders import OutcomeRow
from vault_service.storage.records import lock_records
from vault_service.tokens import Token

NUMBERS = [f"9{area:02}{group:02}{serial:04}" for area in range(4) for group in (1, 2) for serial in range(50)]
ROTATIONS = 3
TRAITS = Traits("Ann", "Lee", "2001-02-03")


@pytest.fixture(scope="module")
def own(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = new_database_url(database, request)
    with Stack(tmp_path_factory.mktemp("rotation") / "home", database_url=url) as stack:
        yield stack


class Writers:
    """Tokenize the same few numbers again and again, over the wire and on a lagging replica."""

    def __init__(self, stack: Stack, lagging: Runner) -> None:
        self._stack = stack
        self._lagging = lagging
        self.tokens: dict[str, set[str]] = defaultdict(set)
        self.calls = [0, 0]
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def over_the_wire(self, seed: int) -> None:
        chance = random.Random(seed)
        with self._stack.client("sis") as client:
            while not self.stop.is_set():
                chosen = chance.sample(NUMBERS, 20)
                items = [
                    TokenizeItem(Ssn(number), traits=TRAITS if at % 2 else None) for at, number in enumerate(chosen)
                ]
                results = client.tokenize("k12", items)
                self._saw(0, chosen, [result.token for result in results])

    def on_the_lagging_replica(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.stop.is_set():
            chosen = chance.sample(NUMBERS, 20)
            traits = dict.fromkeys(range(0, len(chosen), 2), TraitsText("Ann", "Lee", "2001-02-03"))
            call = TokenizeCall(caller=Caller("sis"), domain="k12", numbers=chosen, traits=traits)
            self._lagging.execute([call])
            assert call.failure is None, call.failure
            self._saw(1, chosen, call.results)

    def _saw(self, way: int, numbers: list[str], tokens: Sequence[object]) -> None:
        with self._lock:
            self.calls[way] += 1
            for number, token in zip(numbers, tokens, strict=True):
                assert isinstance(token, str)
                self.tokens[number].add(token)


def test_racing_writers_the_job_and_a_lagging_replica_never_make_a_second_token(
    own: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_on = Control.refresh

    def late(control: Control, epoch: int, known: int) -> ControlState:
        time.sleep(0.2)  # every change of control reaches this replica late
        return read_on(control, epoch, known)

    monkeypatch.setattr(Control, "refresh", late)
    with runner_inside(own) as lagging, own.admin("key-admin-a") as one, ThreadPoolExecutor(4) as pool:
        writers = Writers(own, lagging)
        running = [pool.submit(writers.over_the_wire, seed) for seed in (1, 2)]
        running += [pool.submit(writers.on_the_lagging_replica, seed) for seed in (3, 4)]
        work = KeyWork(one, own.where("key-admin-a"))
        try:
            for _ in range(ROTATIONS):
                before = list(writers.calls)
                work.rotate("k12", KeyKind.INDEX)
                work.reencrypt("k12", 1000)
                while any(now < then + 5 for now, then in zip(writers.calls, before, strict=True)):
                    assert not any(one.done() for one in running), [one.exception() for one in running if one.done()]
                    time.sleep(0.01)
        finally:
            writers.stop.set()
        for one_writer in running:
            one_writer.result()
    assert {number: len(tokens) for number, tokens in writers.tokens.items()} == dict.fromkeys(NUMBERS, 1)
    rows = own.query("SELECT token, index_version FROM token_record WHERE domain = 'k12'")
    assert {token for token, _ in rows} == set().union(*writers.tokens.values())
    assert len(rows) == len(NUMBERS)
    # No row was left behind by the job, and nobody wrote under an old version after it.
    assert {version for _, version in rows} == {ROTATIONS + 1}
    assert lost(own, [token for token, _ in rows]) == []
    assert own.query("SELECT sum(failed) FROM job")[0][0] == 0


def lost(stack: Stack, tokens: Sequence[str]) -> list[str]:
    """Those of the tokens whose record does not open."""
    with stack.client("sis") as client:
        answers = [
            client.detokenize(
                "k12", tokens[start : start + 100], purpose="transcript-verification", justification=JUSTIFICATION
            )
            for start in range(0, len(tokens), 100)
        ]
    return [result.token for answer in answers for result in answer.results if result.ssn is None]


def test_traits_sent_for_records_that_are_being_moved_go_where_they_are_now(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job moves every record between the look-up of a call and its update."""
    with Stack(tmp_path / "home", database_url=postgres.new_database()) as own:
        with own.client("sis") as client:
            made = client.tokenize("k12", [TokenizeItem(Ssn(number)) for number in NUMBERS])
        tokens = [result.token or "" for result in made]
        with own.admin("key-admin-a") as one, runner_inside(own) as inside:
            work = KeyWork(one, own.where("key-admin-a"))
            work.rotate("k12", KeyKind.INDEX)
            inside.execute([TokenizeCall(caller=Caller("sis"), domain="k12", numbers=NUMBERS[:1])])  # loads the state

            def late(tx: Transaction, wanted: Sequence[Token]) -> dict[Token, bytes]:
                until(lambda: not own.query("SELECT 1 FROM token_record WHERE index_version = 1"), 120)
                return lock_records(tx, wanted)

            monkeypatch.setattr("vault_service.operations.tokenize.lock_records", late)
            _done(one.wait(one.ask(Action.REENCRYPT, {"scope": "k12", "rows_per_second": 100})))  # four seconds of work
            traits = dict.fromkeys(range(len(NUMBERS)), TraitsText("Ann", "Lee", "2001-02-03"))
            call = TokenizeCall(caller=Caller("sis"), domain="k12", numbers=NUMBERS, traits=traits)
            inside.execute([call])
        assert call.failure is None
        assert call.results == tokens
        assert {row.index_version for row in own.query("SELECT index_version FROM token_record")} == {2}
        assert lost(own, tokens) == []


def test_a_new_version_waits_for_a_replica_that_has_not_loaded_it(own: Stack) -> None:
    """A registered server that is silent about the new epoch holds the activation up, until its registration lapses."""
    now = int(time.time() * 1000)
    own.tamper(f"INSERT INTO replica (id, epoch, seen_at) VALUES ('lagging', 1, {now + 3000})")
    with own.admin("key-admin-a") as one:
        last = one.state().versions("k12", KeyKind.INDEX)[-1].name.version
        name = KeyName("k12", KeyKind.INDEX, last + 1)
        one.vault.create_wrapping_key(name.transit)
        arguments = {"scope": "k12", "kind": "index", "version": last + 1}
        wrapped = one.vault.new_wrapped_key(name.transit)
        made = one.ask(Action.CREATE_KEY, {**arguments, "wrapped": wrapped})
        _done(one.wait(made))
        asked = one.ask(Action.ACTIVATE_KEY, arguments)
        while "waits for servers" not in own.log.read_text():
            assert one.find(asked.id).outcome is None
            time.sleep(0.05)
        assert [v.name.version for v in one.state().live("k12", KeyKind.INDEX)][-1] == last
        _done(one.wait(asked))  # which takes longer than a registration lasts
        assert [v.name.version for v in one.state().live("k12", KeyKind.INDEX)][-1] == last + 1


def _done(outcome: OutcomeRow | None) -> None:
    assert outcome is not None
    assert outcome.outcome == "done", outcome.detail


def test_a_key_of_another_name_or_with_other_bytes_is_not_put_in_force(own: Stack) -> None:
    """A wrap from elsewhere does not open in this place; one that opens must be the very same key."""
    with own.admin("key-admin-a") as one:
        (version,) = one.state().live("highered", KeyKind.DATA)
        arguments = {"scope": "highered", "kind": "data", "version": version.name.version}
        elsewhere = one.state().live("k12", KeyKind.DATA)[0].wrapped
        another = one.vault.new_wrapped_key(version.name.transit)
        for wrapped, words in ((elsewhere, "does not open"), (another, "another key")):
            order = one.ask(Action.REWRAP_KEY, {**arguments, "wrapped": wrapped})
            outcome = one.wait(order)
            assert outcome is not None
            assert outcome.outcome == "refused"
            assert words in outcome.detail
        assert one.state().live("highered", KeyKind.DATA) == [version]
