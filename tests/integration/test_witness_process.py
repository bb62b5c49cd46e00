"""The witness as a process: killed at any moment it never cosigns a fork, and it serves nobody in the clear.

`ssn-vault audit witness --config FILE`, as an operator on another host starts it.
"""

import http.client
import ipaddress
import itertools
import os
import random
import ssl
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.auditlog import ORIGIN, LogKey, StoredTree
from tests.support.authority import Authority
from tests.support.disks import small_disk
from tests.support.witnessing import KEY, STORED, Caller, Running, WitnessProcess, fork, note_of, write_config
from vault_service.audit.sinks import SinkError, VerifierKey, Witness
from vault_service.audit.verify import Head, check_note, notes_in, read_keys
from vault_service.audit.witness import WitnessServer, WitnessState

KILLS = 20
FILE = f"{sha256(ORIGIN.encode()).hexdigest()}.checkpoints"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.pem"
    file.write_text(KEY.pem)
    return file


def cosigned(directory: Path, keys: Path) -> list[Head]:
    """All that stands in the witness's file, each log signature and cosignature checked."""
    trusted = read_keys(keys, directory / "witness" / "witness.vkey")
    heads = [check_note(note, trusted) for note in notes_in(directory / "witness" / FILE, trusted)]
    assert all(head.cosigned for head in heads)
    return heads


def consistent(heads: list[Head]) -> bool:
    """Whether the heads are those of one log that only grows."""
    sizes = [head.size for head in heads]
    return sizes == sorted(sizes) and len({(head.size, head.root) for head in heads}) == len(set(sizes))


# Killed


class Submitter(threading.Thread):
    """Submits heads of two histories, as fast as they are answered, and remembers what was cosigned."""

    def __init__(self, url: str, logs: list[StoredTree], chance: random.Random) -> None:
        super().__init__()
        self._caller, self._logs, self._chance = Caller(url), logs, chance
        self.answered: list[tuple[int, bytes]] = []
        self.statuses: set[int] = set()

    def run(self) -> None:
        known = 0
        try:
            while known < 600:
                log = self._chance.choice(self._logs)
                size = min(600, known + self._chance.choice([0, 1, 1, 2, 3]))
                answer = self._caller.submit(known, log.tree.consistency(known, size), note_of(size, log))
                self.statuses.add(answer.status)
                if answer.status == 200:
                    self.answered.append((size, log.tree.root(size)))
                    known = size
                elif answer.status == 409:
                    known = int(answer.text)
        except (OSError, http.client.HTTPException):
            return  # killed


def test_killed_at_any_moment_it_never_cosigns_two_histories(tmp_path: Path, keys: Path) -> None:
    config, chance = write_config(tmp_path, keys), random.Random(9)
    answered: list[tuple[int, bytes]] = []
    statuses: set[int] = set()
    for number in itertools.count():
        if number >= KILLS and len({size for size, _ in answered}) > KILLS and {200, 409, 422} <= statuses:
            break
        assert number < 20 * KILLS  # a busy machine gives few answers between two kills
        with WitnessProcess(config) as witness:
            submitters = [Submitter(witness.url, [STORED, fork()], random.Random(10 * number + at)) for at in range(2)]
            for submitter in submitters:
                submitter.start()
            time.sleep(chance.uniform(0.0, 0.12))
            witness.kill()
        for submitter in submitters:
            submitter.join()
            answered += submitter.answered
            statuses |= submitter.statuses
        heads = cosigned(tmp_path, keys) if (tmp_path / "witness" / FILE).exists() else []
        assert consistent(heads)
        # What was answered stands on the disk: no cosignature is given out that is forgotten.
        assert set(answered) <= {(head.size, head.root) for head in heads}
    assert len({root for _, root in answered}) == len({size for size, _ in answered})


def test_its_memory_and_its_key_survive_a_kill(tmp_path: Path, keys: Path) -> None:
    config = write_config(tmp_path, keys)
    with WitnessProcess(config) as witness:
        key = Path(witness.key_file).read_text()
        assert Caller(witness.url).grow(STORED, KEY, 0, 300).status == 200
    with WitnessProcess(config) as witness:
        caller = Caller(witness.url)
        assert Path(witness.key_file).read_text() == key
        assert caller.submit(0, [], note_of(5, fork())).text == "300\n"
        assert caller.submit(300, [], note_of(300, fork())).status == 422
        assert caller.grow(STORED, KEY, 300, 600).status == 200
        assert witness.terminate() == 0
    assert [head.size for head in cosigned(tmp_path, keys)] == [300, 600]


def test_a_checkpoint_that_was_cut_off_on_the_disk_is_not_what_it_goes_on_from(tmp_path: Path, keys: Path) -> None:
    config = write_config(tmp_path, keys)
    with WitnessProcess(config) as witness:
        caller = Caller(witness.url)
        assert [caller.grow(STORED, KEY, *sizes).status for sizes in ((0, 5), (5, 9))] == [200, 200]
    file = tmp_path / "witness" / FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with WitnessProcess(config) as witness:
        caller = Caller(witness.url)
        assert caller.grow(STORED, KEY, 9, 12).text == "5\n"
        assert caller.grow(STORED, KEY, 5, 12).status == 200
        assert caller.grow(STORED, KEY, 12, 13).status == 200
    assert [head.size for head in cosigned(tmp_path, keys)] == [5, 12, 13]


# One process a directory


def _started(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vault_service", "audit", "witness", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_second_witness_on_the_same_directory_is_refused(tmp_path: Path, keys: Path) -> None:
    config = write_config(tmp_path, keys)
    with WitnessProcess(config) as witness:
        ended = _started(config)
        assert ended.returncode == 2
        assert "another witness runs on" in ended.stderr
        assert Caller(witness.url).grow(STORED, KEY, 0, 5).status == 200
    with WitnessProcess(config) as witness:
        assert Caller(witness.url).grow(STORED, KEY, 5, 6).status == 200


def test_its_private_key_is_nobody_elses_to_read(tmp_path: Path, keys: Path) -> None:
    with WitnessProcess(write_config(tmp_path, keys)):
        directory = tmp_path / "witness"
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "witness.key").stat().st_mode & 0o777 == 0o600


def test_a_key_file_that_holds_none_is_no_reason_to_make_another(tmp_path: Path, keys: Path) -> None:
    config = write_config(tmp_path, keys)
    (tmp_path / "witness").mkdir()
    for text in ("", "x", LogKey().pem):
        (tmp_path / "witness" / "witness.key").write_text(text)
        ended = _started(config)
        assert ended.returncode == 2
        assert "witness.key" in ended.stderr.replace("\n", "")
        assert (tmp_path / "witness" / "witness.key").read_text() == text


# TLS


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "witness.example.net"])
def test_plain_http_beyond_this_machine_is_refused(tmp_path: Path, keys: Path, host: str) -> None:
    ended = _started(write_config(tmp_path, keys, host=host))
    assert ended.returncode == 2
    assert "beyond this machine a witness needs cert and key" in ended.stderr


def test_a_certificate_without_its_key_is_refused(tmp_path: Path, keys: Path) -> None:
    ended = _started(write_config(tmp_path, keys, cert=tmp_path / "cert.pem"))
    assert ended.returncode == 2
    assert "cert and key belong together" in ended.stderr


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def _certificate(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("witness", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])


def test_over_tls_it_cosigns_for_those_who_trust_its_authority(
    tmp_path: Path, keys: Path, authority: Authority
) -> None:
    cert, key = _certificate(authority)
    with WitnessProcess(write_config(tmp_path, keys, cert=cert, key=key)) as witness:
        assert witness.url.startswith("https://")
        verifier = VerifierKey.read(Path(witness.key_file))
        client = Witness(witness.url, verifier, authority.ca, 10)
        head = STORED.checkpoint(size=5)
        assert check_note(
            KEY.note(head) + client.cosign(head, KEY.note(head), STORED.tree.consistency),
            read_keys(keys, Path(witness.key_file)),
        ).cosigned
        for ca in (None, Authority(tmp_path / "stranger").ca):
            with pytest.raises(SinkError, match="away"):
                Witness(witness.url, verifier, ca, 10).latest(ORIGIN)
        with pytest.raises(SinkError, match="away"):
            Witness(witness.url.replace("https", "http"), verifier, None, 10).latest(ORIGIN)
        with pytest.raises(SinkError, match="away"):
            Witness(witness.url.replace("127.0.0.1", "localhost"), verifier, authority.ca, 10).latest(ORIGIN)


def test_who_connects_and_says_nothing_keeps_nobody_out(tmp_path: Path, keys: Path, authority: Authority) -> None:
    cert, key = _certificate(authority)
    with WitnessProcess(write_config(tmp_path, keys, cert=cert, key=key)) as witness:
        host, _, port = witness.url.removeprefix("https://").partition(":")
        silent = [http.client.HTTPConnection(host, int(port), timeout=10) for _ in range(5)]
        try:
            for connection in silent:
                connection.connect()
            context = ssl.create_default_context(cafile=str(authority.ca))
            asked = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
            asked.request("GET", "/")
            assert asked.getresponse().status == 404
            asked.close()
        finally:
            for connection in silent:
                connection.close()


# A disk that is full


def test_on_a_full_disk_nothing_is_cosigned_and_nothing_forgotten(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        running = Running(disk.path)
        try:
            assert running.caller.grow(STORED, KEY, 0, 5).status == 200
            disk.fill(os.getpid())
            try:
                size = 6
                while (answer := running.caller.grow(STORED, KEY, size - 1, size)).status == 200:  # its last page
                    size += 1
                assert answer.status == 500
                assert "—" not in answer.text
                assert running.caller.grow(STORED, KEY, size - 1, size).status == 500
                assert [head for head, _ in running.cosigned()] == list(range(5, size))
            finally:
                disk.free(os.getpid())
            consistency = STORED.tree.consistency(size - 1, 40)
            assert running.caller.submit(size - 1, consistency, note_of(40, fork())).status == 422
            assert running.caller.grow(STORED, KEY, size - 1, 40).status == 200
        finally:
            running.server.close()


def test_on_a_device_that_takes_nothing_nothing_is_cosigned(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        running.file.symlink_to("/dev/full")
        answer = running.caller.grow(STORED, KEY, 0, 5)
        assert answer.status == 500
        assert "—" not in answer.text
        running.file.unlink()
        assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    finally:
        running.server.close()


def test_a_file_that_cannot_be_read_is_500_for_all(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        running.file.mkdir()
        assert running.caller.grow(STORED, KEY, 0, 5).status == 500
        assert running.caller.call("GET", f"/{running.file.stem}/checkpoint").status == 500
    finally:
        running.server.close()


def test_a_file_that_was_tampered_with_is_500_and_nothing_is_cosigned(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        assert running.caller.grow(STORED, KEY, 0, 5).status == 200
        running.file.write_text(running.file.read_text().replace("\n5\n", "\n4\n"))
        for old in (0, 4, 5):
            assert running.caller.grow(STORED, KEY, old, 9).status == 500
    finally:
        running.server.close()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path, keys: Path) -> None:
    state = WitnessState(tmp_path / "one", "one.example.net", {ORIGIN: keys})
    server = WitnessServer(state, "127.0.0.1", 0)
    try:
        ended = _started(write_config(tmp_path, keys, port=int(server.url.rpartition(":")[2])))
        assert ended.returncode == 2
        assert "cannot be served" in ended.stderr
    finally:
        server.close()
