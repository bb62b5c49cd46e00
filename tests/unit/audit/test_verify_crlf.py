"""Files that were copied by way of Windows, with CRLF line ends, say what they said before, and hide no more."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.auditlog import ORIGIN, START, LogKey, WitnessKey
from tests.support.sealed import add_event, new_store, place, seal
from vault_service.audit import export
from vault_service.audit.checkpoint_file import CheckpointFile
from vault_service.audit.event import Disclosed
from vault_service.audit.proof import disclosure_proof
from vault_service.audit.sinks import VerifierKey
from vault_service.audit.verify import main
from vault_service.storage.engine import Store
from vault_service.storage.log import entries

KEY, WITNESS = LogKey(), WitnessKey()
HOLDS, DOES_NOT = 0, 1


def exported(store: Store, file: Path) -> str:
    """An export of the log as it is now, made when the last part was sealed."""
    with store.reading() as connection, file.open("w") as out:
        made, *others = export.records(connection, ORIGIN, live=False)
        list(export.write(out, iter([{**made, "made_ms": START + 2000}, *others])))
    return file.read_text()


def crlf(text: str) -> bytes:
    assert "\r" not in text
    return text.replace("\n", "\r\n").encode()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, one of the log before its second part, a proof, a checkpoint file, a stream and keys: all CRLF."""
    directory = tmp_path_factory.mktemp("crlf")
    store = new_store(directory)
    notes: list[str] = []
    events: list[str] = []
    texts = {"key": KEY.pem, "vkey": f"{WITNESS.vkey}\n"}
    for part, name in enumerate(("shorter", "bundle")):
        events = [
            add_event(store, 4 * part + n, START + 1000 * part + n, [Disclosed("k12", f"k12_{part}_{n}", "found")])
            for n in range(4)
        ]
        place(store)
        notes.append(seal(store, KEY, START + 1000 * part + 500, WITNESS))
        texts[name] = exported(store, directory / "lf")
    with store.reading() as connection:
        texts["proof"] = disclosure_proof(connection, events[3], "k12_1_3")
        announced = [
            [row.event_id, sha256((row.body or "").encode()).hexdigest()] for row in entries(connection, 0, 99)
        ]
    store.close()
    texts["kept"] = "".join(f"{note}\n" for note in notes)
    texts["stream"] = json.dumps({"logger": "ssn_vault.events", "events": announced}) + "\n"
    for name, text in texts.items():
        (directory / name).write_bytes(crlf(text))
    return directory


def told(files: Path, what: str, *more: object) -> tuple[int, list[str]]:
    lines: list[str] = []
    keys = ["--public-key", files / "key", "--witness-key", files / "vkey"]
    return main([str(one) for one in (files / what, *keys, *more)], lines.append), lines


def test_a_copied_record_holds_against_all_that_was_copied(files: Path) -> None:
    kept = files / "kept"
    status, lines = told(
        files, "bundle", "--checkpoints", kept, "--witness-file", kept, "--stream", files / "stream", "--older"
    )
    assert status == HOLDS, lines
    assert f"note   {kept}: 2 checkpoints fit, the last over 8 entries" in lines


def test_a_copied_proof_holds(files: Path) -> None:
    status, lines = told(files, "proof")
    assert status == HOLDS, lines


@pytest.mark.parametrize("mixed", [False, True])
def test_a_copied_checkpoint_file_still_finds_what_is_missing(files: Path, tmp_path: Path, mixed: bool) -> None:
    kept = tmp_path / "kept"
    whole = (files / "kept").read_bytes()
    half = len(whole) // 2
    kept.write_bytes(whole[:half].replace(b"\r\n", b"\n") + whole[half:] if mixed else whole)
    status, lines = told(files, "shorter", "--checkpoints", kept)
    assert status == DOES_NOT
    assert lines[0].startswith(f"WRONG  entries 4 to 7, by 1 checkpoints in {kept}"), lines


@pytest.mark.parametrize("behind", [b"\r\n", b"\r", b"\n\r\n", b"\r\n\r\n\r\n"])
def test_line_ends_behind_a_note_do_not_take_it_back(files: Path, tmp_path: Path, behind: bytes) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes((files / "kept").read_bytes() + behind)
    status, lines = told(files, "bundle", "--checkpoints", kept)
    assert status == HOLDS, lines
    assert f"note   {kept}: 2 checkpoints fit, the last over 8 entries" in lines


def test_a_note_that_was_changed_does_not_hold_in_a_copy_either(files: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes((files / "kept").read_bytes().replace(b"\r\n8\r\n", b"\r\n7\r\n"))
    status, lines = told(files, "bundle", "--checkpoints", kept)
    assert status == DOES_NOT
    assert any("signature does not hold" in line for line in lines), lines


def test_a_server_reads_a_copied_checkpoint_file_and_goes_on_with_it(files: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes((files / "kept").read_bytes())
    own = CheckpointFile(kept, lambda note: True)
    last = own.last()
    assert last is not None
    assert last.startswith(f"{ORIGIN}\n8\n")
    assert "\r" not in last
    size = kept.stat().st_size
    own.append(last)
    assert kept.stat().st_size == size  # it is there already
    later = last.replace(f"time {START + 1500}", f"time {START + 9000}")
    assert later != last
    own.append(later)
    assert own.last() == later


def test_a_servers_copy_of_the_witness_key_is_read(files: Path) -> None:
    assert VerifierKey.read(files / "vkey") == (WITNESS.name, WITNESS.public)
