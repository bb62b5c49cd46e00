"""The log under measurement: what sealing costs calls, and a record of a million events sealed, verified and proven.

The events are made by the service's own recorder and put in by its own insertion, a disclosure row each; the
sequencer, the command and the verifier are the real ones. `BENCH_EVENTS` changes their number.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.benchmarks import load
from tests.benchmarks.result import Row
from tests.support.servers import until
from tests.support.stack import JUSTIFICATION, ServerProcess, Stack
from vault_service.audit.event import Disclosed, Facts, Recorded, new_event_id, record
from vault_service.audit.proof import disclosure_proof
from vault_service.storage.engine import Store, open_store
from vault_service.storage.events import append

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
_BATCH = 5_000
_CALLS = 6_000
_PROOFS = 200


def measure(stack: Stack, database: str, runs: int, numbers: Callable[[int], list[str]]) -> list[Row]:
    """The rows of the log, in the order measured."""
    rows = [_overhead(stack, database, runs, numbers)]
    with _superuser(stack) as store:
        rows.append(_sealing(stack, store, database))
        rows += _verification(stack, store, database)
        rows.append(_proofs(store, database))
    return rows


def _overhead(stack: Stack, database: str, runs: int, numbers: Callable[[int], list[str]]) -> Row:
    """Tokenize with whoever seals in the same process, against a server that seals nothing; alternating."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    latencies: list[float] = []
    stack.server.stop()
    for _ in range(runs):
        for seals in (False, True):
            server = stack.add_server(settings={"SSN_VAULT_AUDIT__SEQUENCE": str(seals).lower()})
            try:
                if seals:
                    until(lambda: not stack.query("SELECT 1 FROM log_pending LIMIT 1"), 120)
                measured = _tokenize(stack, server, numbers(_CALLS))
            finally:
                server.stop()
                stack.servers.remove(server)
            rates[seals].append(measured.items_per_second)
            latencies += measured.latencies if seals else []
    stack.server.start()
    latencies.sort()
    sealed, bare = statistics.median(rates[True]), statistics.median(rates[False])
    p50, p99 = latencies[len(latencies) // 2] * 1000, latencies[int(len(latencies) * 0.99)] * 1000
    return _row(database, "Tokenize new, 64 in flight, sealed", sealed, "the same, not sealed", bare, p50, p99)


def _tokenize(stack: Stack, server: ServerProcess, numbers: list[str]) -> load.Measured:
    requests = [pb.TokenizeRequest(domain="k12", items=[pb.TokenizeItem(ssn=ssn)]) for ssn in numbers]
    return load.run(stack.profile("sis", server), "Tokenize", requests, in_flight=64)


def _sealing(stack: Stack, store: Store, database: str) -> Row:
    """Entries a second that the sequencer places and seals, against inserting the same events."""
    stack.server.stop()
    began = time.monotonic()
    for _ in range(0, EVENTS, _BATCH):
        made = [_event() for _ in range(_BATCH)]
        with store.transaction() as tx:
            append(tx, [one.event for one in made], [row for one in made for row in one.disclosures])
    inserted = EVENTS / (time.monotonic() - began)
    before = _sealed(store)
    stack.server.start(wait=False)
    stack.server.wait_listening()
    began = time.monotonic()
    until(lambda: _sealed(store) >= before + EVENTS, 1800)
    return _row(database, f"Placing and sealing {EVENTS:,}", EVENTS / (time.monotonic() - began), "inserting", inserted)


def _event() -> Recorded:
    facts: Facts = {
        "client": "sis",
        "certificate": "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
        "domain": "k12",
        "purpose": "transcript-verification",
        "justification": JUSTIFICATION,
        "view": "LAST4",
        "items": 1,
        "epoch": 6,
        "outcome": "ok",
    }
    token = f"k12_{random.getrandbits(125):027X}"
    return record(new_event_id(), "detokenize", time.time_ns() // 1_000_000, facts, [Disclosed("k12", token, "found")])


def _sealed(store: Store) -> int:
    with store.reading() as connection:
        return int(connection.execute(sa.text("SELECT COALESCE(MAX(size), 0) FROM log_checkpoint")).scalar_one())


def _verification(stack: Stack, store: Store, database: str) -> list[Row]:
    """`audit verify` of everything, as a process of its own, against reading the same rows through the driver."""
    began = time.monotonic()
    entries = 0
    with store.snapshot() as connection:
        query = sa.text("SELECT body, token FROM event LEFT JOIN disclosure ON event_id = id ORDER BY id")
        for _ in connection.execution_options(yield_per=_BATCH).execute(query):
            entries += 1
    read = entries / (time.monotonic() - began)
    began = time.monotonic()
    command = [sys.executable, "-m", "vault_service", "audit", "verify", "--home", str(stack.home.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode != 0:
        raise RuntimeError(said)
    print(f"{database}: {said.strip()}; {seconds:.0f} s, {usage.ru_maxrss / 1024:.0f} MiB at most", flush=True)
    return [_row(database, f"audit verify of {entries:,} rows", entries / seconds, "reading the rows", read)]


def _proofs(store: Store, database: str) -> Row:
    """Proofs a second of disclosures anywhere in the log, against reading one event by its id."""
    with store.reading() as connection:
        count = _sealed(store)
        chosen = [random.randrange(count - EVENTS, count) for _ in range(_PROOFS)]
        query = sa.text(
            "SELECT event_id, token FROM disclosure WHERE position = 0"
            " AND event_id = (SELECT event_id FROM log_leaf WHERE position = :at)"
        )
        wanted = [connection.execute(query, {"at": at}).one() for at in chosen]
    latencies = []
    for event_id, token in wanted:
        began = time.monotonic()
        with store.snapshot() as connection:
            disclosure_proof(connection, event_id, token)
        latencies.append(time.monotonic() - began)
    began = time.monotonic()
    for event_id, _ in wanted:
        with store.snapshot() as connection:
            connection.execute(sa.text("SELECT body FROM event WHERE id = :id"), {"id": event_id}).scalar_one()
    bare = len(wanted) / (time.monotonic() - began)
    latencies.sort()
    p50, p99 = latencies[len(latencies) // 2] * 1000, latencies[int(len(latencies) * 0.99)] * 1000
    return _row(database, f"Proof in {count:,}", len(latencies) / sum(latencies), "one event by id", bare, p50, p99)


def _row(
    database: str, what: str, rate: float, floor: str, floor_rate: float, p50: float = 0.0, p99: float = 0.0
) -> Row:
    row = Row(
        database,
        what,
        round(rate, 1),
        floor,
        round(floor_rate, 1),
        round(rate / floor_rate, 3),
        round(p50, 2),
        round(p99, 2),
    )
    print(f"{row.database:10} {row.what:34} {row.rate:>10,.0f}/s  {row.ratio:.2f} of {row.floor}", flush=True)
    return row


@contextmanager
def _superuser(stack: Stack) -> Iterator[Store]:
    with stack.superuser() as engine:
        store = open_store(engine.url)
        try:
            yield store
        finally:
            store.close()
