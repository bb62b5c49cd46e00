"""Runs every benchmark on SQLite and PostgreSQL, prints a table, writes bench.json.

Each figure is the median of 5 runs, alternating with its floor, because these machines are noisy. A ratio is
the service's items a second divided by its floor's. `BENCH_RUNS` changes the number of runs.
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ssn_vault_client import Profile
from ssnvault.v1 import ssn_vault_pb2 as pb
from tests.benchmarks import floors, load, record
from tests.benchmarks.result import Row
from tests.support.postgres import postgres_server
from tests.support.stack import Stack, free_port
from vault_service.cli.key_work import KeyWork
from vault_service.cli.keys import ROWS_PER_SECOND
from vault_service.keys.names import KeyKind
from vault_service.orders.state import MOST_ROWS_PER_SECOND

RUNS = int(os.environ.get("BENCH_RUNS", "5"))
PLENTY = {"per_call: 100 ": "per_call: 1000 ", "per_day: 1000000 ": "per_day: 50000000 "}


class Numbers:
    """Fictitious numbers, each once, in an order that says nothing."""

    def __init__(self) -> None:
        areas = [f"{area}{group:02}" for area in range(900, 1000) for group in range(50)]
        random.Random(7).shuffle(areas)
        self._all = (f"{serial:04}".join((prefix, "")) for serial in range(10000) for prefix in areas)

    def take(self, count: int) -> list[str]:
        return list(itertools.islice(self._all, count))


def requests_of(domain: str, numbers: list[str], size: int) -> list[pb.TokenizeRequest]:
    return [
        pb.TokenizeRequest(domain=domain, items=[pb.TokenizeItem(ssn=ssn) for ssn in numbers[at : at + size]])
        for at in range(0, len(numbers), size)
    ]


class Bench:
    """One database's run."""

    def __init__(self, stack: Stack, database: str, echo: Profile, uvloop_echo: Profile, url: str) -> None:
        self.stack = stack
        self.database = database
        self.echo = echo
        self.uvloop_echo = uvloop_echo
        self.connection = floors.connect(url)
        self.numbers = Numbers()
        self.rows: list[Row] = []

    def compare(
        self, what: str, service: Callable[[], load.Measured], floor: str, measure_floor: Callable[[], float]
    ) -> None:
        """Alternate service and floor; keep the medians."""
        rates: list[float] = []
        floor_rates: list[float] = []
        latencies: list[float] = []
        for _ in range(RUNS):
            floor_rates.append(measure_floor())
            measured = service()
            rates.append(measured.items_per_second)
            latencies += measured.latencies
        latencies.sort()
        rate, floor_rate = statistics.median(rates), statistics.median(floor_rates)
        row = Row(
            self.database,
            what,
            round(rate, 1),
            floor,
            round(floor_rate, 1),
            round(rate / floor_rate, 3),
            round(latencies[len(latencies) // 2] * 1000, 2),
            round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
        )
        self.rows.append(row)
        print(f"{row.database:10} {row.what:34} {row.rate:>10,.0f}/s  {row.ratio:.2f} of {row.floor}", flush=True)

    def tokenize(
        self,
        what: str,
        batches: Iterator[list[pb.TokenizeRequest]],
        in_flight: int,
        calls: int,
        floor: str = "echo",
    ) -> None:
        """Unary calls of one item, against the echo."""
        profile = self.stack.profile("sis")
        echo = self.echo if floor == "echo" else self.uvloop_echo
        echoes = requests_of("k12", self.numbers.take(1) * calls, 1)
        self.compare(
            what,
            lambda: load.run(profile, "Tokenize", next(batches), in_flight=in_flight),
            floor,
            lambda: load.run(echo, "Tokenize", echoes, in_flight=in_flight).items_per_second,
        )

    def run(self) -> None:
        sis = self.stack.profile("sis")
        known = self.numbers.take(20_000)
        stored = load.run(sis, "Tokenize", requests_of("k12", known, 1000), in_flight=2, items=1000)
        tokens = [result.token for response in stored.responses for result in response.results]
        load.run(sis, "Tokenize", requests_of("k12", known[:500], 1), in_flight=16)

        def new(size: int, calls: int) -> Iterator[list[pb.TokenizeRequest]]:
            while True:
                yield requests_of("k12", self.numbers.take(size * calls), size)

        def existing(size: int, calls: int) -> Iterator[list[pb.TokenizeRequest]]:
            while True:
                yield requests_of("k12", random.sample(known, size * calls), size)

        self.tokenize("Tokenize new, 1 in flight", new(1, 300), 1, 300)
        self.tokenize("Tokenize existing, 1 in flight", existing(1, 300), 1, 300)
        self.tokenize("Tokenize new, 64 in flight", new(1, 6000), 64, 6000)
        self.tokenize("Tokenize new, 64 in flight", new(1, 6000), 64, 6000, "echo on uvloop")
        self.tokenize("Tokenize existing, 64 in flight", existing(1, 6000), 64, 6000)
        thousands, again = new(1000, 20), existing(1000, 20)
        self.compare(
            "Tokenize new, 1,000 a call",
            lambda: load.run(sis, "Tokenize", next(thousands), in_flight=4, items=1000),
            "SQL",
            lambda: floors.tokenize_new(self.connection, 20),
        )
        self.compare(
            "Tokenize existing, 1,000 a call",
            lambda: load.run(sis, "Tokenize", next(again), in_flight=4, items=1000),
            "SQL of new",
            lambda: floors.tokenize_new(self.connection, 20),
        )
        self.detokenize(sis, tokens)
        self.linkage(known)
        self.reencryption(sis, known)

    def detokenize(self, sis: Profile, tokens: list[str]) -> None:
        def asked(size: int, calls: int) -> list[pb.DetokenizeRequest]:
            return [
                pb.DetokenizeRequest(
                    domain="k12",
                    tokens=random.sample(tokens, size),
                    purpose="transcript-verification",
                    justification="measuring the speed of this call",
                )
                for _ in range(calls)
            ]

        one = asked(1, 3000)
        self.compare(
            "Detokenize, 64 in flight",
            lambda: load.run(sis, "Detokenize", asked(1, 3000), in_flight=64),
            "echo",
            lambda: load.run(self.echo, "Detokenize", one, in_flight=64).items_per_second,
        )
        self.compare(
            "Detokenize, 100 a call",
            lambda: load.run(sis, "Detokenize", asked(100, 100), in_flight=20, items=100),
            "SQL",
            lambda: floors.detokenize(self.connection, random.sample(tokens, 10_000), 10, 100),
        )

    def linkage(self, known: list[str]) -> None:
        registrar, job = self.stack.profile("registrar"), self.stack.profile("linkage-job")
        half = known[:5000] + self.numbers.take(5000)
        random.shuffle(half)
        stored = load.run(registrar, "Tokenize", requests_of("highered", half, 1000), in_flight=2, items=1000)
        tokens = [result.token for response in stored.responses for result in response.results]
        requests = [
            pb.LinkageMatchRequest(
                agreement="college-outcomes",
                items=[pb.LinkageItem(token=token) for token in tokens[at : at + 1000]],
            )
            for at in range(0, len(tokens), 1000)
        ]
        self.compare(
            "LinkageMatch, 1,000 a call",
            lambda: load.run(job, "LinkageMatch", requests, in_flight=4, items=1000),
            "one bare select",
            lambda: floors.look_up(self.connection, tokens, 10),
        )

    def reencryption(self, sis: Profile, known: list[str]) -> None:
        """All records of a domain under a new data key; and what calls notice of it at the default rate."""
        with self.stack.admin("key-admin-a") as one:
            work = KeyWork(one, self.stack.where("key-admin-a"))

            def move() -> load.Measured:
                work.rotate("highered", KeyKind.DATA)
                row = work.reencrypt("highered", MOST_ROWS_PER_SECOND)
                return load.Measured(row.moved / ((row.finished_at or 0) - row.started_at) * 1000, [0.0], [])

            self.compare(
                "Re-encryption, rows", move, "raw update", lambda: floors.move(self.connection, "highered", 250)
            )
            requests = requests_of("k12", random.sample(known, 6000), 1)
            quiet = [load.run(sis, "Tokenize", requests, in_flight=64) for _ in range(RUNS)]

            def meanwhile() -> load.Measured:
                work.rotate("highered", KeyKind.DATA)
                with ThreadPoolExecutor(1) as pool:
                    moving = pool.submit(work.reencrypt, "highered", ROWS_PER_SECOND)
                    measured = load.run(sis, "Tokenize", requests, in_flight=64)
                    moving.result()
                return measured

            rate = statistics.median(run.items_per_second for run in quiet)
            self.compare("Tokenize existing, nothing else on", lambda: quiet.pop(), "itself", lambda: rate)
            self.compare("Tokenize existing, re-encrypting", meanwhile, "itself, alone", lambda: rate)


def resident_mebibytes(pid: int) -> float:
    """The process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def plenty(text: str) -> str:
    """The sample policy with room for many calls."""
    for old, new in PLENTY.items():
        text = text.replace(old, new)
    return text.replace("items_per_day: 1000000", "items_per_day: 50000000")


def measure(database: str, url: str | None, directory: Path) -> tuple[list[Row], float]:
    with Stack(directory, database_url=url, policy=plenty) as stack:
        files, profile = stack.certificates.server, stack.profile("sis")
        echoes: list[Profile] = []
        processes = []
        for loop in ([], ["uvloop"]):
            port = free_port()
            command = [sys.executable, "-m", "tests.benchmarks.echo", str(port), str(files.cert), str(files.key)]
            processes.append(subprocess.Popen([*command, str(stack.certificates.ca), *loop]))
            echoes.append(Profile(address=f"127.0.0.1:{port}", ca=profile.ca, cert=profile.cert, key=profile.key))
        try:
            bench = Bench(stack, database, echoes[0], echoes[1], url or f"sqlite:///{directory / 'ssn-vault.db'}")
            bench.run()
            return bench.rows, resident_mebibytes(stack.server.pid)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def measure_log(database: str, url: str | None, directory: Path) -> list[Row]:
    """On a database of its own: the floors above put in events that no server recorded."""
    with Stack(directory, database_url=url, policy=plenty) as stack:
        return record.measure(stack, database, RUNS, Numbers().take)


def main() -> None:
    rows: list[Row] = []
    memory: dict[str, float] = {}
    only = sys.argv[1:] or ["postgresql", "sqlite"]
    with tempfile.TemporaryDirectory() as scratch:
        for database in only:
            directory = Path(scratch) / database
            if database == "sqlite":
                found: tuple[list[Row], float] = measure(database, None, directory)
                logged = measure_log(database, None, Path(scratch) / "log")
            else:
                with postgres_server(Path(scratch) / "data") as server:
                    found = measure(database, server.new_database(), directory)
                    logged = measure_log(database, server.new_database(), Path(scratch) / "postgresql-log")
            rows += [*found[0], *logged]
            memory[database] = round(found[1], 1)
    table = Table("database", "what", "items/s", "floor", "floor items/s", "ratio", "p50 ms", "p99 ms")
    for row in rows:
        table.add_row(
            row.database,
            row.what,
            f"{row.rate:,.0f}",
            row.floor,
            f"{row.floor_rate:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.p50_ms}",
            f"{row.p99_ms}",
        )
    Console(width=130).print(table)
    for database, mebibytes in memory.items():
        print(f"server memory after the run, {database}: {mebibytes} MiB")
    result: dict[str, Any] = {"runs": RUNS, "rows": [asdict(row) for row in rows], "resident_mib": memory}
    Path("bench.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
