"""More than ten thousand forged proofs of a disclosure, as whole files: the verifier accepts none.

The true ones are what `audit.proof` writes from a real store. Forged ones are written as the verifier wants them
spelled, so that it is never the spelling alone that gives them away, and spelled otherwise, too.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.auditlog import ORIGIN, START, LogKey, WitnessKey, b64
from tests.support.forging import changed_character, changed_hashes, flipped_bit, other_base64
from tests.support.sealed import add_event, new_store, place, seal
from vault_service.audit.checkpoint import Checkpoint
from vault_service.audit.event import Disclosed, record
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.proof import disclosure_proof
from vault_service.audit.verify import InvalidError, Keys, check_proof
from vault_service.errors import NotFoundError, NotSealedError

LOG, OTHER = LogKey(), LogKey()
WITNESS, OTHER_WITNESS = WitnessKey(), WitnessKey()
SIGNED = Keys([LOG.public])
COSIGNED = Keys([LOG.public], (WITNESS.name, WITNESS.public))
TRIED = 11_000

Proof = dict[str, Any]


class Made(NamedTuple):
    """Proofs of several disclosures, some of one event, under two checkpoints; the note of another log's head."""

    texts: list[str]
    newer: list[str]
    stranger: str


def _token(event: int, at: int) -> str:
    return f"k12_{event:02}_{at}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    store = new_store(tmp_path_factory.mktemp("proofs"))
    wanted = {}
    for number in range(40):
        disclosed = [Disclosed("k12", _token(number, at), "found") for at in range(number % 9)]
        wanted[add_event(store, number, START + number, disclosed)] = [one.token for one in disclosed]
    place(store)
    seal(store, LOG, START + 1000, WITNESS)
    pairs = [(event, token) for event, tokens in wanted.items() for token in tokens]
    with store.reading() as connection:
        texts = [disclosure_proof(connection, event, token) for event, token in pairs]
    add_event(store, 40, START + 40)
    place(store)
    seal(store, LOG, START + 2000, WITNESS)
    with store.reading() as connection:
        newer = [disclosure_proof(connection, event, token) for event, token in pairs]
    yield Made(texts, newer, seal(store, OTHER, START + 3000, OTHER_WITNESS))
    store.close()


def written(proof: object) -> str:
    """A proof as the verifier wants it spelled."""
    return json.dumps(proof, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def accepted(text: str, keys: Keys = COSIGNED) -> bool:
    try:
        check_proof(text, keys)
    except InvalidError:
        return False
    return True


def test_every_proof_of_the_store_is_accepted(made: Made) -> None:
    assert len(made.texts) == len(made.newer) == sum(number % 9 for number in range(40))
    assert all(accepted(text, keys) for text in (*made.texts, *made.newer) for keys in (SIGNED, COSIGNED))
    assert not set(made.texts) & set(made.newer)


def test_what_was_proven_is_what_the_event_says(made: Made) -> None:
    proof = json.loads(made.texts[-1])
    event, row, head = check_proof(made.texts[-1], COSIGNED)
    assert event == json.loads(proof["event"])
    assert row == proof["disclosure"]
    assert (head.size, head.cosigned) == (40, True)


# Forging


def _in_disclosure(proof: Proof, other: Proof, chance: random.Random) -> None:
    row = proof["disclosure"]
    name = chance.choice(list(row))
    changes: list[Callable[[], object]] = [
        lambda: row.update({name: other["disclosure"][name]}),
        lambda: row.update(token=row["token"] + "A"),
        lambda: row.update(domain="higher_ed"),
        lambda: row.update(outcome="matched"),
        lambda: row.update(position=row["position"] + chance.choice([-1, 1, 256])),
        lambda: row.update(position=str(row["position"])),
        lambda: row.update(position=float(row["position"])),
        lambda: row.update(position=[row["position"]]),
        lambda: row.update(salt=row["salt"].upper()),
        lambda: row.update(salt=flipped_bit(bytes.fromhex(row["salt"]), chance).hex()),
        lambda: row.update({name: None}),
        lambda: row.update(more=1),
        lambda: row.pop(name),
        lambda: proof.update(disclosure=other["disclosure"]),
        lambda: proof.update(disclosure=list(row.values())),
    ]
    chance.choice(changes)()


def _in_path(proof: Proof, other: Proof, chance: random.Random) -> None:
    path: list[str] = proof["disclosure_path"]
    hashes = [bytes.fromhex(part) for part in path]
    at = chance.randrange(len(path)) if path else 0
    changes: list[Callable[[], object]] = [
        *[lambda: proof.update(disclosure_path=[part.hex() for part in changed_hashes(hashes, chance)])] * 4,
        lambda: proof.update(disclosure_path=other["disclosure_path"]),
        lambda: proof.update(disclosure_path=[part.upper() for part in path]),
        lambda: proof.update(disclosure_path="".join(path)),
        lambda: path.insert(at, json.loads(proof["event"])["root"]),
        lambda: path.__setitem__(slice(at, at + 1), [" ".join(part) for part in path[at : at + 1]]),
        lambda: path.__setitem__(slice(at, at + 1), [part[:-1] for part in path[at : at + 1]]),
    ]
    chance.choice(changes)()


def _in_event(proof: Proof, other: Proof, chance: random.Random) -> None:
    event = json.loads(proof["event"])
    theirs = json.loads(other["event"])
    name = chance.choice(list(event))
    body = json.dumps(event, separators=(",", ":"))
    changes: list[Callable[[], object]] = [
        lambda: proof.update(event=other["event"]),
        *[lambda: proof.update(event=changed_character(proof["event"], chance))] * 2,
        lambda: event.update({name: theirs[name]}),
        lambda: event.update(client="registrar"),
        lambda: event.update(purpose="research"),
        lambda: event.update(at=event["at"] + 1),
        lambda: event.update(disclosures=event["disclosures"] + chance.choice([-1, 1])),
        lambda: event.update(disclosures=chance.choice([None, "2", 2.0, [], True])),
        lambda: event.update(root=event["root"].upper()),
        lambda: event.update(more=1),
        lambda: event.pop(name),
        lambda: proof.update(event=event),
        lambda: proof.update(event=json.dumps(event)),
        lambda: proof.update(event=body.replace("{", '{"client":"other",', 1)),  # a name twice
        lambda: proof.update(event=body[:-1]),
        lambda: proof.update(event=f"[{body}]"),
    ]
    before = proof["event"]
    chance.choice(changes)()
    if proof["event"] == before:
        proof["event"] = json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _in_log_proof(proof: Proof, other: Proof, chance: random.Random) -> None:
    text: str = proof["log_proof"]
    top, _, note = text.partition("\n\n")
    header, index, *path = top.split("\n")
    number = int(index.split(" ")[1])
    hashes = [base64.b64decode(line) for line in path]
    at = chance.randrange(len(path))
    their_top, _, their_note = str(other["log_proof"]).partition("\n\n")
    head, _, signatures = note.partition("\n\n")
    lines = head.split("\n")

    def put(*, header: str = header, index: str = index, path: list[str] = path, note: str = note) -> None:
        proof["log_proof"] = "\n".join([header, index, *path, "", note])

    def with_head(line: int, value: str) -> None:
        put(note="\n".join([*lines[:line], value, *lines[line + 1 :]]) + "\n\n" + signatures)

    other_note = their_note if their_note != note else note.replace("time ", "time 1")
    changes: list[Callable[[], object]] = [
        *[lambda: put(path=[b64(part) for part in changed_hashes(hashes, chance)])] * 3,
        *[lambda: put(note=changed_character(note, chance))] * 3,
        lambda: put(path=[*path[:at], other_base64(path[at], chance), *path[at + 1 :]]),
        lambda: put(path=their_top.split("\n")[2:]),
        lambda: put(index=f"index {chance.choice([number - 1, number + 1, number ^ 8, number + 64])}"),
        lambda: put(index=chance.choice([f"index 0{number}", f"index  {number}", f"index +{number}", str(number)])),
        lambda: put(index=f"index {number} "),
        lambda: put(header=chance.choice(["c2sp.org/tlog-proof@v2", "", header + " ", header.upper()])),
        lambda: put(header=f"{header}\nextra AAAA"),
        lambda: put(note=other_note),
        lambda: put(note=head + "\n\n" + their_note.partition("\n\n")[2] if their_note != note else other_note),
        lambda: with_head(0, chance.choice([lines[0] + "x", "other.example/audit", ""])),
        lambda: with_head(1, chance.choice([str(int(lines[1]) + 1), "0" + lines[1], "0", ""])),
        lambda: with_head(2, chance.choice([b64(bytes(32)), path[at], lines[2][:-1]])),
        lambda: with_head(3, chance.choice([lines[3] + "0", "time 1", lines[3].replace("time", "Time"), ""])),
        lambda: put(note=head + "\n\n"),
        lambda: put(note=head + "\n\n" + signatures.split("\n")[1] + "\n"),
        lambda: proof.update(log_proof=text[: chance.randrange(len(text))]),
        lambda: proof.update(log_proof=text.replace("\n", "\r\n")),
        lambda: proof.update(log_proof=text + chance.choice(["\n", " ", "\n\n", "x"])),
        lambda: proof.update(log_proof=text.split("\n")),
        lambda: proof.update(log_proof=other["log_proof"]),
    ]
    chance.choice(changes)()


def _in_frame(proof: Proof, other: Proof, chance: random.Random) -> None:
    name = chance.choice(list(proof))
    changes: list[Callable[[], object]] = [
        lambda: proof.pop(name),
        lambda: proof.update({name: chance.choice([None, True, 0, "", [], {}, 1.5, [proof[name]]])}),
        lambda: proof.update(more=1),
        lambda: proof.update(format=chance.choice(["ssn-vault-disclosure-proof 2", "", "ssn-vault-audit 1"])),
        lambda: proof.update({name: other[name] if other[name] != proof[name] else None}),
    ]
    chance.choice(changes)()


def _spelled_otherwise(text: str, chance: random.Random) -> str:
    proof = json.loads(text)
    reverse = dict(reversed(proof.items()))
    first = text.index("\n") + 1
    return chance.choice(
        [
            *[changed_character(text, chance)] * 4,
            json.dumps(proof, sort_keys=True) + "\n",
            json.dumps(proof, indent=2, sort_keys=True),
            json.dumps(reverse, ensure_ascii=False, indent=2) + "\n",
            text.replace("\n", "\r\n"),
            text[:first] + '  "event": "{}",\n' + text[first:],
            text.replace("k12_", "k12\\u005f", 1),
            text[:-1],
            text + "\n",
            "\ufeff" + text,
            f"[{text}]",
            text + text,
            text[: chance.randrange(len(text))],
        ]
    )


_FORGERS = (_in_disclosure, _in_path, _in_event, *[_in_log_proof] * 2, _in_frame)


def _without_cosignature(text: str) -> str:
    proof = json.loads(text)
    proof["log_proof"] = proof["log_proof"].partition("\n— " + WITNESS.name)[0] + "\n"
    return written(proof)


@pytest.mark.parametrize("keys", [SIGNED, COSIGNED], ids=["signed", "cosigned"])
def test_no_forged_proof_file_is_accepted(made: Made, keys: Keys) -> None:
    chance, tried = random.Random(99), 0
    # To change a cosignature that nobody demands is no forgery: then there is none.
    true = [text if keys.witness else _without_cosignature(text) for text in (*made.texts, *made.newer)]
    assert all(accepted(text, keys) for text in true)
    for _ in range(TRIED):
        text, other = chance.sample(true, 2)
        if chance.random() < 0.2:
            forged = _spelled_otherwise(text, chance)
        else:
            proof = json.loads(text)
            chance.choice(_FORGERS)(proof, json.loads(other), chance)
            forged = written(proof)
        if forged not in true:
            assert not accepted(forged, keys), forged
            tried += 1
    assert tried >= 10_000


def test_a_proof_under_another_logs_checkpoint_is_not_accepted(made: Made) -> None:
    proof = json.loads(made.newer[0])
    top = proof["log_proof"].partition("\n\n")[0]
    forged = written({**proof, "log_proof": f"{top}\n\n{made.stranger}"})
    assert not accepted(forged)
    assert accepted(forged, Keys([OTHER.public]))


def test_a_proof_without_the_cosignature_that_is_demanded_is_not_accepted(made: Made) -> None:
    text = _without_cosignature(made.texts[0])
    assert accepted(text, SIGNED)
    assert not accepted(text, COSIGNED)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_whatever_stands_where_something_stood_is_refused_and_never_an_accident(
    made: Made, data: st.DataObject
) -> None:
    proof: Any = json.loads(made.texts[0])
    place_of, value = data.draw(st.sampled_from(_places(proof))), data.draw(_JSON)
    inside = proof
    for key in place_of[:-1]:
        inside = inside[key]
    assume(json.dumps(inside[place_of[-1]]) != json.dumps(value))
    inside[place_of[-1]] = value
    assert not accepted(written(proof))


def _places(value: Any) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in ((key,), *((key, *rest) for rest in _places(one)))]


@given(st.data())
def test_whatever_an_event_says_instead_is_refused_and_never_an_accident(made: Made, data: st.DataObject) -> None:
    proof = json.loads(made.texts[0])
    event = json.loads(proof["event"])
    name, value = data.draw(st.sampled_from(sorted(event))), data.draw(_JSON)
    assume(json.dumps(event[name]) != json.dumps(value))
    event[name] = value
    proof["event"] = json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert not accepted(written(proof))


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 1e300, 10**400])
def test_numbers_beyond_all_bounds_are_refused_and_never_an_accident(made: Made, number: float) -> None:
    proof = json.loads(made.texts[0])
    event = {**json.loads(proof["event"]), "disclosures": number}
    body = json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert not accepted(written({**proof, "event": body}))
    assert not accepted(written({**proof, "disclosure": {**proof["disclosure"], "position": number}}))


@given(st.text(max_size=60) | _JSON.map(written))
def test_what_is_no_proof_is_refused_and_never_an_accident(text: str) -> None:
    assert not accepted(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"event":' + "9" * 5000 + "}"])
def test_what_overwhelms_a_reader_is_refused(text: str) -> None:
    assert not accepted(text)


def _sealed_alone(body: str, row: dict[str, Any]) -> str:
    """A proof under a true checkpoint over one entry, whatever that entry is: the log itself is the forger."""
    note = LOG.note(Checkpoint(ORIGIN, 1, leaf_hash(body.encode()), START))
    log_proof = f"c2sp.org/tlog-proof@v1\nindex 0\n\n{note}"
    form = "ssn-vault-disclosure-proof 1"
    return written({"format": form, "event": body, "disclosure": row, "disclosure_path": [], "log_proof": log_proof})


def test_a_log_cannot_prove_one_event_by_the_row_of_another_nor_by_a_body_of_two_readings() -> None:
    made = record("event-1", "detokenize", START, {"client": "sis"}, [Disclosed("k12", "k12_1_1", "found")])
    row = made.disclosures[0]._asdict()
    assert accepted(_sealed_alone(made.event.body, row), SIGNED)
    assert not accepted(_sealed_alone(made.event.body.replace("event-1", "event-2"), row), SIGNED)
    for at in ("-1", "100000000000000000", '"now"', "true"):
        assert not accepted(_sealed_alone(made.event.body.replace(str(START), at), row), SIGNED)
    for body in (made.event.body + " ", made.event.body.replace("{", '{"client":"other",', 1)):
        assert not accepted(_sealed_alone(body, row), SIGNED)


def test_only_what_is_sealed_can_be_proven(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    event = add_event(store, 1, START, [Disclosed("k12", _token(1, 1), "found")])

    def proof(of: str = event, token: str = _token(1, 1)) -> str:
        with store.reading() as connection:
            return disclosure_proof(connection, of, token)

    for step in (lambda: None, lambda: seal(store, LOG, START + 1), lambda: place(store)):
        step()
        with pytest.raises(NotSealedError):
            proof()
    seal(store, LOG, START + 2)
    assert accepted(proof(), SIGNED)
    for of, token in ((event, _token(1, 2)), (event[:-1] + "f", _token(1, 1))):
        with pytest.raises(NotFoundError):
            proof(of, token)
    store.close()
