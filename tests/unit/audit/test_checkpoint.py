"""Checkpoints as text: the forms of C2SP signed-note, tlog-checkpoint and tlog-cosignature, by their own examples."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support.auditlog import ORIGIN, START, LogKey, WitnessKey
from vault_service.audit.checkpoint import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    key_id,
    parse_signed,
    signature_line,
    verifier_key,
)
from vault_service.audit.verify import Keys, check_note
from vault_service.errors import LogDamagedError

# C2SP signed-note.md, "Verifier keys", and the note that it verifies.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_TEXT = "This is an example message.\n"
EXAMPLE_LINE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# C2SP tlog-cosignature.md: its key is not published, its form is.
EXAMPLE_COSIGNATURE = (
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
)
KEY, OTHER, WITNESS = LogKey(), LogKey(), WitnessKey()
HEAD = Checkpoint(ORIGIN, 20852163, base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="), START)


def test_the_example_key_is_named_and_spelled_as_the_specification_has_it() -> None:
    name, identifier, encoded = EXAMPLE_KEY.split("+")
    raw = base64.b64decode(encoded)
    assert raw[:1] == ED25519
    assert key_id(name, ED25519, raw[1:]).hex() == identifier
    assert verifier_key(name, ED25519, raw[1:]) == EXAMPLE_KEY


def test_the_example_notes_signature_line_is_the_specifications() -> None:
    key = base64.b64decode(EXAMPLE_KEY.split("+")[2])[1:]
    signature = base64.b64decode(EXAMPLE_LINE.split(" ")[2])[4:]
    Ed25519PublicKey.from_public_bytes(key).verify(signature, EXAMPLE_TEXT.encode())
    assert signature_line("example.com/foo", ED25519, key, signature) == EXAMPLE_LINE


def test_a_key_has_another_id_for_another_purpose_or_name() -> None:
    ids = {key_id(name, kind, KEY.public) for name in ("a", "b") for kind in (ED25519, COSIGNATURE)}
    assert len(ids) == 4
    assert {len(one) for one in ids} == {4}


def test_a_checkpoints_text_is_three_lines_and_the_time() -> None:
    assert HEAD.text == (
        "vault.example.org/audit\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\ntime 1900000000000\n"
    )
    assert KEY.note(HEAD, "— x y\n") == f"{HEAD.text}\n{KEY.line(HEAD)}— x y\n"


def test_a_cosignature_has_the_examples_form_and_signs_its_time_with_the_text() -> None:
    example = base64.b64decode(EXAMPLE_COSIGNATURE)
    assert (len(example), int.from_bytes(example[4:12])) == (4 + 8 + 64, 1679315147)
    line = WITNESS.cosign(HEAD, 1679315147)
    mark, name, encoded = line.rstrip("\n").split(" ")
    raw = base64.b64decode(encoded)
    assert (mark, name, len(raw), raw[4:12]) == ("—", WITNESS.name, len(example), example[4:12])
    assert raw[:4] == key_id(WITNESS.name, COSIGNATURE, WITNESS.public)
    key = Ed25519PublicKey.from_public_bytes(WITNESS.public)
    key.verify(raw[12:], f"cosignature/v1\ntime 1679315147\n{HEAD.text}".encode())
    with pytest.raises(InvalidSignature):
        key.verify(raw[12:], HEAD.text.encode())


_HEADS = st.builds(
    Checkpoint,
    st.from_regex(r"[!-*,-~]{1,40}", fullmatch=True),
    st.integers(0, 10**18 - 1),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 10**18 - 1),
)


@given(_HEADS)
def test_what_is_written_is_read_back_by_the_log_and_by_the_verifier(head: Checkpoint) -> None:
    note = KEY.note(head, WITNESS.cosign(head))
    assert parse_signed(note, [OTHER.public, KEY.public]) == head
    read = check_note(note, Keys([KEY.public], (WITNESS.name, WITNESS.public)))
    assert Checkpoint(read.origin, read.size, read.root, read.at_ms) == head
    assert read.cosigned


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        HEAD.text,
        HEAD.text + "\n",
        HEAD.text + KEY.line(HEAD),
        OTHER.note(HEAD),
        HEAD.note([WITNESS.cosign(HEAD)]),
        HEAD.note([signature_line("other.example.org/audit", ED25519, KEY.public, KEY.sign(HEAD.text))]),
        KEY.note(HEAD).replace(ORIGIN, "other.example.org/audit"),
        KEY.note(HEAD).replace("20852163", "20852164"),
        KEY.note(HEAD).replace("20852163", "020852163"),
        KEY.note(HEAD).replace("20852163", "20_852_163"),
        KEY.note(HEAD).replace("20852163", " 20852163"),
        KEY.note(HEAD).replace("time 19", "time 18"),
        KEY.note(HEAD).replace("time ", ""),
        KEY.note(HEAD).replace("xq2I=", "xq2J="),
        KEY.note(HEAD).replace("— ", "- "),
        KEY.note(HEAD).replace("\ntime", "\nmore\ntime"),
        HEAD.note([f"— {ORIGIN} é\n"]),
        HEAD.note([f"— {ORIGIN} AAAA\n"]),
        HEAD.note([f"— {ORIGIN} \n"]),
        HEAD.note([f"— {ORIGIN}\n"]),
        "a\nb\nc\nd\n\n" + KEY.line(HEAD),
        f"{ORIGIN}\n{'9' * 5000}\n{'A' * 43}=\ntime 1\n\n" + KEY.line(HEAD),
    ],
)
def test_what_the_log_did_not_sign_damages_the_log(note: str) -> None:
    with pytest.raises(LogDamagedError):
        parse_signed(note, [KEY.public])


@given(st.text(max_size=80))
def test_whatever_is_read_back_instead_is_never_an_accident(text: str) -> None:
    for note in (text, HEAD.note([text]), HEAD.note([f"— {ORIGIN} {text}"]), text + KEY.note(HEAD)[1:]):
        if note != KEY.note(HEAD):
            with pytest.raises(LogDamagedError):
                parse_signed(note, [KEY.public])


def test_a_checkpoint_of_a_rotated_key_is_read_back_while_the_key_is_known() -> None:
    assert parse_signed(KEY.note(HEAD), [OTHER.public, KEY.public]) == HEAD
    with pytest.raises(LogDamagedError, match="not signed by the log's key"):
        parse_signed(KEY.note(HEAD), [OTHER.public])
    with pytest.raises(LogDamagedError):
        parse_signed(KEY.note(HEAD), [])
