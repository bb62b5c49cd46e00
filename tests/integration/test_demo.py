"""`ssn-vault demo` as a user runs it: what it shows, what it never shows, and that it leaves nothing behind."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from vault_service.dev.rosters import read_roster

SECONDS = 180.0  # for a whole demo on a busy machine
COMMAND = (sys.executable, "-m", "vault_service", "demo")


@dataclass(frozen=True)
class Told:
    """A demo that has ended."""

    status: int
    screen: str
    errors: str
    processes: frozenset[int]  # every process that it started, by id
    scratch: Path  # where its scratch home was
    kept: Path  # what it exported


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One whole demo, with variables of another installation in its surroundings."""
    scratch = tmp_path_factory.mktemp("demo")
    kept = tmp_path_factory.mktemp("kept") / "record"
    process = start(scratch, kept, SSN_VAULT_SERVER__TRUST_DOMAIN="another.example", VAULT_TOKEN="another")
    processes: set[int] = set()
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        processes |= set(descendants(process.pid))
        time.sleep(0.1)
    screen, errors = process.communicate(timeout=10)
    return Told(process.returncode, screen, errors, frozenset(processes), scratch, kept)


def start(scratch: Path, keep: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """A demo whose scratch home stands in `scratch`; in a process group of its own, as a terminal gives it."""
    environment = {**os.environ, "TMPDIR": str(scratch), "COLUMNS": "100", **variables}
    return subprocess.Popen(
        [*COMMAND, *(["--keep", str(keep)] if keep else [])],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def descendants(pid: int) -> Iterator[int]:
    """The processes that `pid` has started, and those that they have."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_every_step_goes_as_told(told: Told) -> None:
    assert told.status == 0, told.screen + told.errors
    assert told.errors == ""
    for line in (
        r"^K-12 +sis +300 +271 +9: K\d+ = K\d+, \.\. +20 *$",
        r"^higher ed +registrar +200 +184 +5: H\d+ = H\d+, \.\. +11 *$",
        r"^INVALID_SSN +8 digits +4: K\d+, \.\. +3: H\d+, \.\. *$",
        r"^INVALID_TRAITS +birth date month/day/year +2: K\d+, \.\. +0 *$",
        r"^financial-aid +aid-counselor +\*\*\*-\*\*-\d{4} ",
        r"^financial-aid +nobody +refused: PERSON_REQUIRED *$",
        r"^registrar +nobody +refused: NOT_PERMITTED *$",
        r"^highered +linkage-job +184 +104 +80 +0 +104 *$",
        r"^k12 +k12-research +271 +104 +167 +0 +104 *$",
        r"full number  financial-aid, aid-counselor  for aid-verification$",
        r'^  because    "FAFSA correction: ',
        r"^  interest   Counselors confirm the number on an application for federal student aid$",
        r"is known to the other side of agreement college-outcomes  k12-research  for college-outcomes$",
        r"^detokenize +registrar +1 +NOT_PERMITTED +0 *$",
        r"^ssn-vault-highered-data-2 +active +1 *$",
        r"^The old token still opens: \*\*\*-\*\*-\d{4}$",
        r"^verified: \d+ entries with \d+ disclosure rows, \d+ checkpoints; the newest checkpoint, of .*, covers \d+$",
        r"^record.jsonl, by the one-file verifier: verified: \d+ entries ",
        r"^disclosure.json, by the one-file verifier: sealed ",
        r": none holds any of the 351 numbers",
        r"^The accounting of H\d+ is now: is known to the other side",
        r"^WRONG  entry \d+ \(event [0-9a-f-]{36}\): its disclosure rows are not those ",
        r"^NOT AS SIGNED: ",
        r"^Every step went as told ",
    ):
        assert re.search(line, told.screen, re.MULTILINE), f"{line}\n{told.screen}"


def test_what_it_exported_is_verified_without_the_service_or_a_database_driver(told: Told, tmp_path: Path) -> None:
    bare = tmp_path / "packages"
    bare.mkdir()
    for name in ("cryptography", "cffi", "_cffi_backend"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        source = Path(found.origin)
        source = source.parent if source.name == "__init__.py" else source
        (bare / source.name).symlink_to(source)
    program = (
        f"import sys, runpy, importlib.util; sys.path.insert(0, {str(bare)!r});"
        "absent = ('vault_service', 'sqlalchemy', 'psycopg', 'ssnvault', 'ssn_vault_client');"
        "assert not [name for name in absent if importlib.util.find_spec(name)];"
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    verifier = Path(__file__).parents[2] / "deploy" / "tools" / "ssn_vault_verify.py"
    key = ["--public-key", told.kept / "audit.pub.pem"]
    kept = ["--checkpoints", told.kept / "checkpoints"]

    def verify(*arguments: object) -> tuple[int, str]:
        line = [sys.executable, "-I", "-S", "-c", program, str(verifier), *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, said = verify(told.kept / "record.jsonl", *key, *kept)
    assert (status, said.splitlines()[-1][:9]) == (0, "verified:"), said
    status, said = verify(told.kept / "disclosure.json", *key)
    assert (status, said[:7]) == (0, "proven:"), said
    text = (told.kept / "record.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(text.replace("aid-verification", "aid-verificatioN", 1))
    status, said = verify(tmp_path / "other.jsonl", *key, *kept)
    assert status == 1
    assert "WRONG  entry " in said


def test_no_number_of_the_rosters_is_on_the_screen_in_any_spelling(told: Told) -> None:
    # Every character between two digits may be a separator, and every script's digits are digits.
    digits = "".join(c if c.isdigit() else " " for c in unicodedata.normalize("NFKC", told.screen))
    runs = re.sub(r" {1,3}", "", digits)
    samples = resources.files("vault_service.dev").joinpath("samples")
    numbers = set()
    for name in ("k12_roster.csv", "higher_education_roster.csv"):
        with resources.as_file(samples.joinpath(name)) as path:
            written = [row.ssn for row in read_roster(path)]
        numbers |= {"".join(c for c in unicodedata.normalize("NFKC", ssn) if c.isdigit()) for ssn in written}
        assert not [ssn for ssn in written if ssn.strip() and ssn in told.screen]
    assert len({number for number in numbers if len(number) >= 8}) > 350
    assert not [number for number in numbers if len(number) >= 8 and (number in runs or number in digits)]


def test_nothing_is_left_behind(told: Told) -> None:
    assert len(told.processes) >= 3, "the stack, OpenBao and commands were seen"
    assert not [pid for pid in told.processes if running(pid)]
    assert list(told.scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path)
    processes: set[int] = set()
    assert process.stdout is not None
    for line in process.stdout:
        processes |= set(descendants(process.pid))
        if line.startswith("1. "):
            break
    assert len(processes) >= 2
    os.killpg(process.pid, number)  # a terminal signals the whole group
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not [pid for pid in processes if running(pid)]
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_does_not_go_as_told_fails_the_demo(tmp_path: Path) -> None:
    # The rosters are what the steps are checked against: here the demo is told that one more row has a fault.
    broken = (
        "import vault_service.dev.demo as d, vault_service.dev.story as s; right = s._fault;"
        "s._fault = lambda row: right(row) or ('made up' if row.student_id == 'K7781375' else '');"
        "d.demo(None)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", broken], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode != 0
    assert "not as told: exactly the rows that have a fault are refused" in done.stderr
    assert "Every step went as told" not in done.stdout
    assert list(tmp_path.iterdir()) == []
