"""The one-file verifier as a third party runs it: Python, the `cryptography` package and nothing else.

Each run is a process of its own, which sees the standard library and links to that one package.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cryptography
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.auditlog import ORIGIN, START, Book, LogKey, WitnessKey, write_bundle
from tests.support.sealed import add_event, new_store, place, seal
from vault_service.audit import export
from vault_service.audit.event import Disclosed
from vault_service.audit.proof import disclosure_proof
from vault_service.audit.verify import InvalidError, main, read_keys

TOOL = Path(__file__).parents[3] / "deploy" / "tools" / "ssn_vault_verify.py"
HOLDS, DOES_NOT, CANNOT_LOOK = 0, 1, 2
_RUN = """
import importlib.util, runpy, sys
sys.path.append(sys.argv[1])
for name in ("vault_service", "sqlalchemy", "psycopg", "pydantic", "tests"):
    assert importlib.util.find_spec(name) is None, name
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Ended(NamedTuple):
    status: int
    output: str


class Alone(NamedTuple):
    """A directory with one package, a record and a proof from a real store, and the keys to them."""

    packages: Path
    bundle: Path
    proof: Path
    kept: Path
    public_key: Path
    witness_key: Path

    def run(self, *arguments: object) -> Ended:
        command = [sys.executable, "-I", "-S", "-c", _RUN, str(self.packages), str(TOOL), *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert "Traceback" not in ended.stderr, ended.stderr
        return Ended(ended.returncode, ended.stdout)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    directory = tmp_path_factory.mktemp("alone")
    packages = directory / "packages"
    packages.mkdir()
    installed = Path(cryptography.__file__).parents[1]
    for pattern in ("cryptography", "cffi", "_cffi_backend*", "pycparser"):
        for found in installed.glob(pattern):
            (packages / found.name).symlink_to(found)
    key, witness = LogKey(), WitnessKey()
    store = new_store(directory)
    events = [
        add_event(store, number, START + number, [Disclosed("k12", f"k12_{number}", "found")]) for number in range(9)
    ]
    place(store)
    note = seal(store, key, START + 1000, witness)
    with store.reading() as connection:
        proof = disclosure_proof(connection, events[4], "k12_4")
        with (directory / "bundle").open("w") as file:
            made, *others = export.records(connection, ORIGIN, live=False)
            later = {**made, "made_ms": START + 2000}  # the test's checkpoints are of its own time
            assert len(list(export.write(file, iter([later, *others])))) == 12
    files = {
        "proof": proof,
        "kept": f"{note}\n",
        "key": key.pem,
        "vkey": witness.vkey + "\n",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    yield Alone(packages, directory / "bundle", *(directory / name for name in files))
    store.close()


def test_a_true_record_holds(alone: Alone) -> None:
    status, output = alone.run(
        alone.bundle, "--public-key", alone.public_key, "--witness-key", alone.witness_key, "--checkpoints", alone.kept
    )
    assert status == HOLDS
    assert output.splitlines()[-1].startswith("verified: 9 entries with 9 disclosure rows, 1 checkpoints; ")


def test_a_true_proof_holds_and_says_what_it_proves(alone: Alone) -> None:
    status, output = alone.run(alone.proof, "--public-key", alone.public_key, "--witness-key", alone.witness_key)
    assert status == HOLDS
    assert output.splitlines()[0] == "proven: token k12_4 of domain k12, found"
    assert "purpose        tax-reporting" in output
    assert f"{ORIGIN}, 9 entries" in output


def test_a_changed_record_does_not_hold(alone: Alone, tmp_path: Path) -> None:
    changed = tmp_path / "bundle"
    changed.write_text(alone.bundle.read_text().replace('\\"sis\\"', '\\"registrar\\"', 1))
    status, output = alone.run(changed, "--public-key", alone.public_key)
    assert status == DOES_NOT
    assert output.startswith("WRONG  entry 0 (event ")
    assert output.splitlines()[-1].startswith("NOT AS SIGNED: 9 entries")


def test_a_changed_proof_does_not_hold(alone: Alone, tmp_path: Path) -> None:
    changed = tmp_path / "proof"
    changed.write_text(alone.proof.read_text().replace("k12_4", "k12_5"))
    status, output = alone.run(changed, "--public-key", alone.public_key)
    assert (status, output) == (DOES_NOT, "WRONG  the disclosure is not among those of the event\n")


def test_another_logs_key_proves_nothing(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(LogKey().pem)
    for file in (alone.bundle, alone.proof):
        assert alone.run(file, "--public-key", tmp_path / "key").status == DOES_NOT


def test_what_cannot_be_looked_at_is_told_from_what_is_wrong(alone: Alone, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    key = ("--public-key", alone.public_key)
    assert alone.run(missing, *key).status == CANNOT_LOOK
    assert alone.run(tmp_path, *key).status == CANNOT_LOOK
    assert alone.run(alone.bundle, *key, "--checkpoints", missing).status == CANNOT_LOOK
    assert alone.run(alone.bundle, *key, "--witness-file", missing).status == CANNOT_LOOK
    assert alone.run(alone.bundle, *key, "--stream", missing).status == CANNOT_LOOK
    assert alone.run(alone.bundle).status == CANNOT_LOOK
    assert alone.run().status == CANNOT_LOOK


@pytest.mark.parametrize("option", ["--public-key", "--witness-key"])
def test_without_a_key_nothing_is_verified(alone: Alone, tmp_path: Path, option: str) -> None:
    (tmp_path / "empty").touch()
    for name, status in (("missing", CANNOT_LOOK), ("empty", DOES_NOT)):
        ended = alone.run(alone.bundle, "--public-key", alone.public_key, option, tmp_path / name)
        assert ended.status == status
        assert "verified" not in ended.output


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"b', b'{"bundle"}\n', b"\x00" * 100])
def test_a_file_that_is_neither_never_holds(alone: Alone, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert alone.run(file, "--public-key", alone.public_key).status in (DOES_NOT, CANNOT_LOOK)


# Words


def _said(file: Path, key: Path) -> list[str]:
    lines: list[str] = []
    assert main([str(file), "--public-key", str(key)], lines.append) == DOES_NOT
    return lines


@pytest.mark.parametrize("text", ["x\nverified: 3", "x\rverified", "\x1b[2Jverified", "\x00", "\u202e", "\x85x"])
def test_a_record_cannot_write_lines_of_its_own_into_the_report(tmp_path: Path, text: str) -> None:
    """A terminal shows what the verifier says, not what a forger had it say."""
    book = Book()
    book.add()
    (tmp_path / "key").write_text(book.key.pem)
    for record in ({"orphan": text, "id": text, "what": text}, {**book.items[0], "entry": 1, "id": text}):
        records = book.records()
        records.insert(-1, record)
        for line in _said(write_bundle(tmp_path / "bundle", records), tmp_path / "key"):
            assert line.isprintable(), line


def test_a_record_that_no_terminal_can_show_is_told_all_the_same(alone: Alone, tmp_path: Path) -> None:
    file = tmp_path / "bundle"
    first, *rest = alone.bundle.read_text().splitlines(keepends=True)
    file.write_text(first + json.dumps({"orphan": "event", "id": "\ud800", "what": "lost"}) + "\n" + "".join(rest))
    ended = alone.run(file, "--public-key", alone.public_key)
    assert ended.status == DOES_NOT
    assert ended.output.splitlines()[-1].startswith("NOT AS SIGNED")


# Keys


def test_keys_of_all_versions_are_read_in_their_order(tmp_path: Path) -> None:
    keys = [LogKey() for _ in range(3)]
    file = tmp_path / "keys"
    file.write_text("the log's keys\n" + "\n".join(key.pem for key in keys))
    assert read_keys(file).log == [key.public for key in keys]


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unknown = "MCowBQYDK2VwAyEA" + "A" * 43 + "="
    for text in (
        "",
        "x",
        LogKey().pem[:60],
        rsa.decode(),
        LogKey().pem + rsa.decode(),
        f"-----BEGIN PUBLIC KEY-----\n{unknown.replace('K2Vw', 'K2V3')}\n-----END PUBLIC KEY-----\n",
        LogKey().pem.replace("PUBLIC", "PRIVATE"),
    ):
        (tmp_path / "key").write_text(text)
        with pytest.raises(InvalidError):
            read_keys(tmp_path / "key")


def test_what_is_no_witness_key_is_refused(tmp_path: Path) -> None:
    witness, other, log = WitnessKey(), WitnessKey(), LogKey()
    (tmp_path / "key").write_text(log.pem)
    name, identifier, encoded = witness.vkey.split("+", 2)
    _, their_identifier, theirs = other.vkey.split("+", 2)
    (tmp_path / "vkey").write_text(witness.vkey + "\n")
    assert read_keys(tmp_path / "key", tmp_path / "vkey").witness == (witness.name, witness.public)
    for text in (
        "",
        name,
        f"{name}+{identifier}",
        f"{name}x+{identifier}+{encoded}",
        f"{name}+{their_identifier}+{encoded}",
        f"{name}+{identifier}+{theirs}",
        f"{name}+{identifier.upper()}x+{encoded}",
        f"{name}+{identifier}+{encoded[:-4]}",
        f"{name}+{identifier}+é",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # a log's, not a witness's
    ):
        (tmp_path / "vkey").write_text(text)
        with pytest.raises(InvalidError):
            read_keys(tmp_path / "key", tmp_path / "vkey")
