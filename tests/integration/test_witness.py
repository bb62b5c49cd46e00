"""The witness answers as C2SP tlog-witness has it, and never cosigns two histories of a log.

A real server on a port of its own, asked by hand and by the log's own client.
"""

import base64
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.auditlog import ORIGIN, START, WITNESS, LogKey, StoredTree, WitnessKey, b64
from tests.support.witnessing import KEY, STORED, Answered, Running, fork, note_of
from vault_service.audit.checkpoint import Checkpoint
from vault_service.audit.merkle import EMPTY_ROOT, leaf_hash
from vault_service.audit.verify import check_note, node_hash, read_keys


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.server.close()


# Answers


def test_a_first_checkpoint_is_cosigned_and_the_cosignature_is_its_own(running: Running) -> None:
    answer = running.caller.grow(STORED, KEY, 0, 5)
    assert answer.status == 200
    assert answer.text.startswith(f"— {WITNESS} ")
    assert answer.text.count("\n") == 1
    keys = read_keys(running.keys, running.state.key_file)
    assert check_note(note_of(5) + answer.text, keys).cosigned
    raw = base64.b64decode(answer.text.split(" ")[2])
    assert len(raw) == 4 + 8 + 64
    assert int.from_bytes(raw[4:12]) > 1_700_000_000


def test_a_log_that_grows_is_cosigned_again_and_again(running: Running) -> None:
    sizes = [0, 0, 1, 2, 3, 7, 8, 255, 256, 257, 600]
    for old, size in pairwise(sizes):
        assert running.caller.grow(STORED, KEY, old, size).status == 200
    assert running.cosigned() == [(size, STORED.tree.root(size)) for size in sizes[1:]]


def test_the_same_size_again_is_cosigned_again(running: Running) -> None:
    assert [running.caller.grow(STORED, KEY, old, 5).status for old in (0, 5, 5)] == [200] * 3
    later = KEY.note(Checkpoint(ORIGIN, 5, STORED.tree.root(5), START + 9))
    assert running.caller.submit(5, [], later).status == 200


def test_a_larger_head_that_is_not_later_is_not_cosigned(running: Running) -> None:
    """What cannot be kept behind the newest is forgotten: the next fork of that size would be cosigned too."""
    assert running.caller.grow(STORED, KEY, 0, 100).status == 200
    at = STORED.checkpoint(size=100).at_ms
    for earlier in (at - 1, at):
        head = STORED.checkpoint(earlier, size=150)
        assert running.caller.submit(100, STORED.tree.consistency(100, 150), KEY.note(head)).status == 400
    assert running.cosigned() == [(100, STORED.tree.root(100))]
    assert running.caller.grow(STORED, KEY, 100, 150).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\n\n",
        b"old 0\n",
        b"new 0\n\n" + note_of(5).encode(),
        b"old\n\n" + note_of(5).encode(),
        b"old x\n\n" + note_of(5).encode(),
        b"old -1\n\n" + note_of(5).encode(),
        b"old 6\n\n" + note_of(5).encode(),
        b"old 0\nnot base64!\n\n" + note_of(5).encode(),
        b"old 0\n" + b64(bytes(32)).encode() * 64 + b"\n\n" + note_of(5).encode(),
        b"old 0\n" + (b64(bytes(32)).encode() + b"\n") * 64 + b"\n" + note_of(5).encode(),
        b"old " + b"9" * 5000 + b"\n\n" + note_of(5).encode(),
    ],
)
def test_what_is_no_request_is_400(running: Running, body: bytes) -> None:
    assert running.caller.call("POST", "/add-checkpoint", body).status in ({400} if b"vault" in body else {400, 404})
    assert running.cosigned() == []


@pytest.mark.parametrize("old", ["00", "+0", " 0", "0 ", "\u0660", "0_0", "-0"])
def test_an_old_size_in_another_spelling_is_400(running: Running, old: str) -> None:
    assert running.caller.submit(old, [], note_of(5)).status == 400


@pytest.mark.parametrize(
    "note",
    [
        note_of(5, key=LogKey()),
        KEY.note(STORED.checkpoint(size=5)).replace("\n5\n", "\n6\n"),
        STORED.checkpoint(size=5).note([WitnessKey("stranger.example.net").cosign(STORED.checkpoint(size=5))]),
        STORED.checkpoint(size=5).note([KEY.line(STORED.checkpoint(size=6))]),
    ],
    ids=["another key", "another size", "no signature of the log", "signature of another head"],
)
def test_a_checkpoint_that_the_log_did_not_sign_is_403(running: Running, note: str) -> None:
    assert running.caller.submit(0, [], note).status == 403
    assert running.cosigned() == []


def test_a_log_that_it_does_not_know_is_404(running: Running) -> None:
    unknown = KEY.note(STORED.checkpoint(size=5, origin="stranger.example.org/audit"))
    assert running.caller.submit(0, [], unknown).status == 404
    assert running.caller.call("POST", "/", b"x").status == 404
    assert running.caller.call("GET", "/").status == 404


@pytest.mark.parametrize("old", [0, 4, 6])
def test_another_old_size_is_409_with_the_size_that_it_knows(running: Running, old: int) -> None:
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    answer = running.caller.submit(old, STORED.tree.consistency(old, 7), note_of(7))
    assert answer == Answered(409, "5\n", "text/x.tlog.size")


def test_the_first_old_size_is_0(running: Running) -> None:
    assert running.caller.grow(STORED, KEY, 3, 5) == Answered(409, "0\n", "text/x.tlog.size")


def test_a_request_that_is_too_large_is_413(running: Running) -> None:
    assert running.caller.call("POST", "/add-checkpoint", bytes(65_537)).status == 413
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "²", "9" * 5000])
def test_a_length_that_is_none_is_refused_and_answered(running: Running, length: str) -> None:
    host, port = running.caller.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(f"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
        assert raw.recv(12).decode() in ("HTTP/1.1 400", "HTTP/1.1 411", "HTTP/1.1 413")


def test_a_fork_is_422_and_never_cosigned(running: Running) -> None:
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    forked = fork()
    for size in (5, 6, 8, 600):
        assert running.caller.submit(5, forked.tree.consistency(5, size), note_of(size, forked)).status == 422
        assert running.caller.submit(5, STORED.tree.consistency(5, size), note_of(size, forked)).status == 422
    assert running.cosigned() == [(5, STORED.tree.root(5))]
    assert running.caller.grow(STORED, KEY, 5, 600).status == 200


def test_a_proof_that_does_not_belong_is_422(running: Running) -> None:
    strange = [bytes(32)]
    assert running.caller.submit(0, strange, note_of(5)).status == 422
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    proof = STORED.tree.consistency(5, 9)
    for wrong in ([], proof[:-1], proof[1:], [*proof, *strange], [*strange, *proof], proof[::-1]):
        assert running.caller.submit(5, wrong, note_of(9)).status == 422
    assert running.caller.submit(5, strange, note_of(5)).status == 422
    assert len(running.cosigned()) == 1


def test_a_log_of_nothing_has_one_root(running: Running) -> None:
    wrong = KEY.note(Checkpoint(ORIGIN, 0, bytes(32), START))
    assert running.caller.submit(0, [], wrong).status == 422
    assert running.caller.submit(0, [], KEY.note(Checkpoint(ORIGIN, 0, EMPTY_ROOT, START))).status == 200
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200


def test_logs_are_kept_apart(running: Running) -> None:
    other = "other.example.org/audit"
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    assert running.caller.grow(STORED, KEY, 0, 9, origin=other).status == 200
    assert running.caller.grow(STORED, KEY, 5, 9).status == 200
    assert running.cosigned() == [(5, STORED.tree.root(5)), (9, STORED.tree.root(9))]


def test_the_last_checkpoint_is_told_to_anybody(running: Running) -> None:
    path = f"/{sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
    assert running.caller.call("GET", path).status == 404
    line = running.caller.grow(STORED, KEY, 0, 5).text
    assert running.caller.call("GET", path)[:2] == (200, note_of(5) + line)
    for wrong in (path.upper(), path + "/", path.replace("checkpoint", "x"), "/" + "0" * 64 + "/checkpoint"):
        assert running.caller.call("GET", wrong).status == 404


# Attempts to make it forget


def _goes_on_from(running: Running, size: int) -> None:
    """It knows that size, and no other history of it."""
    assert running.caller.submit(0, [], note_of(3, fork())).text == f"{size}\n"
    assert running.caller.submit(size, [], note_of(size, fork())).status == 422
    assert running.caller.grow(STORED, KEY, size, 600).status == 200


def test_a_note_swollen_with_signatures_of_strangers_does_not_make_it_forget(running: Running) -> None:
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    stranger = WitnessKey("stranger.example.net").cosign(STORED.checkpoint(size=9))
    swollen = note_of(9) + stranger * 400
    known = 9 if running.caller.submit(5, STORED.tree.consistency(5, 9), swollen).status == 200 else 5
    _goes_on_from(running, known)


@pytest.mark.parametrize("name", ["a\0b", "\0", "\x1e", "a\x85b", "\u2028", "\x0b", "—"])
def test_a_strangers_name_does_not_make_it_forget(running: Running, name: str) -> None:
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    strange = note_of(9) + WitnessKey(name).cosign(STORED.checkpoint(size=9))
    known = 9 if running.caller.submit(5, STORED.tree.consistency(5, 9), strange).status == 200 else 5
    _goes_on_from(running, known)


def test_a_newline_behind_what_it_keeps_does_not_make_it_forget(running: Running) -> None:
    for old, size in ((0, 5), (5, 9)):
        assert running.caller.grow(STORED, KEY, old, size).status == 200
    with running.file.open("a") as file:
        file.write("\n")
    _goes_on_from(running, 9)


def test_hashes_of_another_length_do_not_replace_an_entry(running: Running) -> None:
    """What is hashed together, cut elsewhere: the old root comes out, and a new one in which entry 2 is another."""
    stored = StoredTree()
    stored.append([leaf_hash(b"one"), leaf_hash(b"two"), leaf_hash(b"three")])
    assert running.caller.grow(stored, KEY, 0, 3).status == 200
    pair, third = stored.tree.root(2), stored.levels[0][2]
    forged = next(leaf for n in range(10_000) if (leaf := leaf_hash(b"forged %d" % n))[:1] == third[-1:])
    wide, more = pair + third[:-1], leaf_hash(b"four")
    root = node_hash(wide, node_hash(forged, more))
    note = KEY.note(Checkpoint(ORIGIN, 4, root, START))
    assert running.caller.submit(3, [third[-1:], forged[1:] + more, wide], note).status in (400, 422)
    assert [size for size, _ in running.cosigned()] == [3]


def test_of_many_histories_at_once_one_is_cosigned(running: Running) -> None:
    """Two requests that both fit what is known: what was checked is what is kept (C2SP tlog-witness)."""
    together = threading.Barrier(8)

    def submit(log: StoredTree, old: int) -> int:
        body = f"old {old}\n" + "".join(f"{b64(part)}\n" for part in log.tree.consistency(old, old + 1))
        body += f"\n{note_of(old + 1, log)}"
        together.wait()
        return running.state.add_checkpoint(body).status

    common = StoredTree()
    with ThreadPoolExecutor(8) as threads:
        for size in range(30):
            logs = [StoredTree() for _ in range(8)]
            for number, log in enumerate(logs):
                log.append([*common.levels[0], bytes([number]) * 32])
            statuses = list(threads.map(submit, logs, [size] * 8))
            assert sorted(statuses) == [200] + [409] * 7
            common = logs[statuses.index(200)]
    assert running.cosigned() == [(size, common.tree.root(size)) for size in range(1, 31)]


# Keys


def test_a_rotated_key_of_the_log_is_known_as_soon_as_its_file_is(running: Running) -> None:
    newer = LogKey()
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    assert running.caller.grow(STORED, newer, 5, 7).status == 403
    running.keys.write_text(newer.pem + KEY.pem)
    assert running.caller.grow(STORED, newer, 5, 7).status == 200
    assert running.caller.grow(STORED, KEY, 7, 9).status == 200
    assert [size for size, _ in running.cosigned()] == [5, 7, 9]


def test_without_the_logs_key_nothing_is_cosigned(running: Running) -> None:
    assert running.caller.grow(STORED, KEY, 0, 5).status == 200
    running.keys.unlink()
    assert running.caller.grow(STORED, KEY, 5, 7).status == 500
    running.keys.write_text(KEY.pem)
    assert running.caller.grow(STORED, KEY, 5, 7).status == 200
