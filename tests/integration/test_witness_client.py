"""The log's client of a witness: what is cosigned is checked, and whatever else comes back is no acknowledgement.

Most of it against a real witness; where one has to lie, the real server says what it is told to say.
"""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.auditlog import ORIGIN, WITNESS, StoredTree, WitnessKey, b64
from tests.support.witnessing import KEY, STORED, Running, fork, note_of
from vault_service.audit.sinks import AheadError, ForkError, SinkError, VerifierKey, Witness
from vault_service.audit.verify import Keys, check_note, notes_in, read_keys
from vault_service.audit.witness import Answer


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.server.close()


def _cosign(client: Witness, size: int, stored: StoredTree = STORED) -> str:
    head = stored.checkpoint(size=size)
    return client.cosign(head, KEY.note(head), stored.tree.consistency)


def test_the_client_finds_out_what_the_witness_knows(running: Running) -> None:
    keys = read_keys(running.keys, running.state.key_file)
    for client in (running.client(), running.client(running.server.url + "/")):
        for size in (5, 5, 6, 300):
            if size >= (running.cosigned() or [(0, b"")])[-1][0]:
                assert check_note(note_of(size) + _cosign(client, size), keys).cosigned
    assert running.client().latest(ORIGIN) == list(notes_in(running.file, keys))[-1]
    assert running.client().latest("other.example.org/audit") is None


def test_the_client_is_told_when_the_witness_knows_more(running: Running) -> None:
    _cosign(running.client(), 300)
    with pytest.raises(AheadError, match="cosigned 300 entries, the log has 5"):
        _cosign(running.client(), 5)


def test_a_fork_is_refused_to_the_client(running: Running) -> None:
    client = running.client()
    _cosign(client, 5)
    forked = fork()
    for asked in (client, running.client()):
        for size in (5, 9):
            with pytest.raises(ForkError):
                _cosign(asked, size, forked)


def test_a_witness_that_is_away_is_no_acknowledgement(running: Running) -> None:
    client = running.client()
    running.server.close()
    with pytest.raises(SinkError, match="away"):
        _cosign(client, 5)
    with pytest.raises(SinkError, match="away"):
        client.latest(ORIGIN)


def test_a_cosignature_of_another_key_is_no_acknowledgement(running: Running) -> None:
    stranger = WitnessKey()
    client = Witness(running.server.url, VerifierKey(WITNESS, stranger.public), None, 10)
    with pytest.raises(SinkError, match="not signed by its key"):
        _cosign(client, 5)


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch, running: Running) -> Callable[[int, bytes], Witness]:
    """A client of a witness that answers anything."""

    def answering(status: int, body: bytes) -> Witness:
        monkeypatch.setattr(running.state, "add_checkpoint", lambda _: Answer(status, body.decode()))
        return running.client()

    return answering


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"\n"),
        (200, f"— {WITNESS} \n".encode()),
        (200, f"— {WITNESS} AAAA\n".encode()),
        (200, f"— {WITNESS} é\n".encode()),
        (200, f"— {WITNESS} {b64(bytes(76))}\n".encode()),
        pytest.param(200, KEY.line(STORED.checkpoint(size=5)).encode(), id="the log's own signature"),
        (409, b""),
        (409, b"x\n"),
        (409, b"-1\n"),
        (409, b"3\n"),
        (409, b"9" * 5000),
        (500, b"\xc3\xa9"),
        (302, b""),
    ],
    ids=repr,
)
def test_whatever_a_witness_answers_is_no_acknowledgement_and_never_an_accident(
    lying: Callable[[int, bytes], Witness], status: int, body: bytes
) -> None:
    client = lying(status, body)
    with pytest.raises(SinkError):
        _cosign(client, 5)


def test_a_cosignature_in_another_spelling_does_not_spoil_the_checkpoint(
    running: Running, lying: Callable[[int, bytes], Witness]
) -> None:
    """What the client takes stands in the log for good: the verifier has to read it."""
    own = running.state.add_checkpoint(f"old 0\n\n{note_of(5)}").text
    assert own.endswith("==\n")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = own[:-4] + last[last.index(own[-4]) + 1] + "==\n"
    assert base64.b64decode(other.split(" ")[2]) == base64.b64decode(own.split(" ")[2])
    try:
        taken = _cosign(lying(200, other.encode()), 5)
    except SinkError:
        return
    assert check_note(note_of(5) + taken, Keys([KEY.public])).size == 5


def test_a_cosignature_under_another_keys_id_is_no_acknowledgement(
    running: Running, lying: Callable[[int, bytes], Witness]
) -> None:
    """A verifier would pass it over as a stranger's."""
    mark, name, encoded = running.state.add_checkpoint(f"old 0\n\n{note_of(5)}").text.split(" ")
    renamed = f"{mark} {name} {b64(bytes(4) + base64.b64decode(encoded)[4:])}\n"
    with pytest.raises(SinkError, match="not signed by its key"):
        _cosign(lying(200, renamed.encode()), 5)


def test_a_size_that_was_told_wrong_once_is_asked_for_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client = running.client()
    with monkeypatch.context() as lie:
        lie.setattr(running.state, "add_checkpoint", lambda _: Answer(409, "700\n", "text/x.tlog.size"))
        with pytest.raises(AheadError):
            _cosign(client, 5)
    assert _cosign(client, 5)
