"""Tens of thousands of forged Merkle proofs and checkpoints, made from true ones: the verifier accepts none.

Every forger takes what is true and a source of chance and gives something else; what comes out as it was is not
counted. Whole proof files are forged in test_verify_forged_files.py.
"""

import base64
import random
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.auditlog import ORIGIN, START, LogKey, StoredTree, WitnessKey, b64, grown
from tests.support.forging import changed_character, changed_hashes, flipped_bit, other_base64
from vault_service.audit.checkpoint import COSIGNATURE, ED25519, Checkpoint, key_id
from vault_service.audit.merkle import leaf_hash
from vault_service.audit.verify import InvalidError, Keys, check_consistency, check_note, node_hash, root_from_inclusion

TRIED = 12_000  # forgeries of each kind
SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 13, 31, 32, 33, 100, 255, 256, 257, 600]


@pytest.fixture(scope="module")
def stored() -> StoredTree:
    return grown(SIZES[-1])


# Inclusion


class _Inclusion(NamedTuple):
    leaf: bytes
    position: int
    size: int
    root: bytes
    proof: list[bytes]

    @property
    def holds(self) -> bool:
        try:
            return root_from_inclusion(self.leaf, self.position, self.size, self.proof) == self.root
        except InvalidError:
            return False


def _forged_inclusion(true: _Inclusion, stored: StoredTree, chance: random.Random) -> _Inclusion:
    forgers: list[Callable[[], _Inclusion]] = [
        *[lambda: true._replace(proof=changed_hashes(true.proof, chance))] * 4,
        lambda: true._replace(leaf=flipped_bit(true.leaf, chance)),
        lambda: true._replace(leaf=chance.choice(stored.levels[0])),
        lambda: true._replace(root=chance.choice([true.leaf, *true.proof, bytes(32), b""])),
        lambda: true._replace(position=true.position ^ 1 << chance.randrange(10)),
        lambda: true._replace(
            position=chance.choice([true.position - 1, true.position + 1, -true.position, true.size])
        ),
        lambda: true._replace(size=chance.choice([true.size * 2, true.size // 2, 0, -true.size])),
        # Under another signed head: its size comes with its root.
        lambda: true._replace(size=(other := chance.randrange(stored.size)), root=stored.tree.root(other)),
        # Of another leaf of the same tree.
        lambda: true._replace(proof=stored.tree.inclusion(chance.randrange(true.size), true.size)),
        lambda: true._replace(leaf=true.root, proof=[]),
    ]
    return chance.choice(forgers)()


def test_no_forged_inclusion_proof_is_accepted(stored: StoredTree) -> None:
    chance, tried = random.Random(6962), 0
    while tried < TRIED:
        size = chance.choice(SIZES)
        index = chance.randrange(size)
        tree = stored.tree
        true = _Inclusion(stored.levels[0][index], index, size, tree.root(size), tree.inclusion(index, size))
        assert true.holds
        for _ in range(20):
            forged = _forged_inclusion(true, stored, chance)
            # One leaf is the whole tree: it needs no proof, and is its own root.
            if forged != true and (forged.size, forged.leaf) != (1, forged.root):
                assert not forged.holds, (true, forged)
                tried += 1
    assert tried >= 10_000


# Consistency


class _Consistency(NamedTuple):
    old: int
    size: int
    old_root: bytes
    root: bytes
    proof: list[bytes]

    @property
    def holds(self) -> bool:
        try:
            check_consistency(self.old, self.size, self.old_root, self.root, self.proof)
        except InvalidError:
            return False
        return True


def _forged_consistency(true: _Consistency, stored: StoredTree, chance: random.Random) -> _Consistency:
    fork = stored.levels[0][: true.size]
    fork[chance.randrange(true.old)] = bytes(32)  # an entry that was signed already, changed
    forked = StoredTree()
    forked.append(fork)
    forgers: list[Callable[[], _Consistency]] = [
        *[lambda: true._replace(proof=changed_hashes(true.proof, chance))] * 4,
        lambda: true._replace(proof=[]),
        lambda: true._replace(old=true.old ^ 1 << chance.randrange(10)),
        lambda: true._replace(old=chance.choice([true.old - 1, true.old + 1, -true.old])),
        lambda: true._replace(size=chance.choice([true.size * 2, true.size // 2, true.old, true.old - 1])),
        lambda: true._replace(old=true.size, size=true.old),
        lambda: true._replace(old_root=true.root, root=true.old_root),
        lambda: true._replace(old_root=chance.choice([true.root, bytes(32), b"", *true.proof])),
        lambda: true._replace(root=chance.choice([true.old_root, bytes(32), b"", *true.proof])),
        lambda: true._replace(size=(other := chance.randrange(stored.size)), root=stored.tree.root(other)),
        lambda: true._replace(old=(other := chance.randrange(1, true.size)), old_root=stored.tree.root(other)),
        lambda: true._replace(root=forked.tree.root(true.size)),
        lambda: true._replace(
            root=forked.tree.root(true.size), proof=list(forked.tree.consistency(true.old, true.size))
        ),
    ]
    return chance.choice(forgers)()


def test_no_forged_consistency_proof_is_accepted(stored: StoredTree) -> None:
    chance, tried = random.Random(9162), 0
    while tried < TRIED:
        size = chance.choice(SIZES[1:])
        old = chance.randrange(1, size)
        tree = stored.tree
        true = _Consistency(old, size, tree.root(old), tree.root(size), tree.consistency(old, size))
        assert true.holds
        for _ in range(20):
            forged = _forged_consistency(true, stored, chance)
            if forged != true and (forged.old, forged.old_root) != (0, b""):
                assert not forged.holds, (true, forged)
                tried += 1
    assert tried >= 10_000


ANY, EMPTY = b"\x01" * 32, sha256().digest()


@pytest.mark.parametrize(
    ("old", "size", "old_root", "root", "proof"),
    [
        (0, 0, EMPTY, EMPTY, [EMPTY]),
        (0, 0, ANY, ANY, []),
        (0, 0, EMPTY, ANY, []),  # nothing has one root
        (0, 0, ANY, EMPTY, []),
        (0, 1, EMPTY, EMPTY, [EMPTY]),
        (0, 1, ANY, EMPTY, []),
        (1, 0, ANY, EMPTY, []),
        (1, 1, EMPTY, ANY, []),
        (1, 1, ANY, ANY, [ANY]),
        (1, 2, ANY, ANY, []),
        (2, 1, ANY, ANY, []),
        (-1, 1, EMPTY, ANY, []),
    ],
    ids=range(12),
)
def test_nothing_is_consistent_at_the_edges_but_what_is_equal_or_came_after_nothing(
    old: int, size: int, old_root: bytes, root: bytes, proof: list[bytes]
) -> None:
    """Those of transparency-dev/merkle, testdata/consistency/additional, and some more."""
    assert not _Consistency(old, size, old_root, root, proof).holds
    assert _Consistency(1, 1, ANY, ANY, []).holds
    assert _Consistency(0, 1, EMPTY, ANY, []).holds


def test_no_entry_is_replaced_under_hashes_of_another_length() -> None:
    """Bytes that are hashed together, cut elsewhere: a log of three entries goes on as one whose third is another.

    Both proofs have a "hash" of 64 bytes; with it they lead from the signed root to the forged one.
    """
    tree = StoredTree()
    tree.append([leaf_hash(b"one"), leaf_hash(b"two"), leaf_hash(b"three")])
    left, third = tree.tree.root(2), tree.levels[0][2]
    forged, more = leaf_hash(b"another third"), leaf_hash(b"four")
    wide = left + third
    root = node_hash(wide, node_hash(forged, more))
    inclusion = _Inclusion(forged, 2, 4, root, [more, wide])
    consistency = _Consistency(3, 4, tree.tree.root(3), root, [b"", forged + more, wide])
    assert not inclusion.holds
    assert not consistency.holds


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_what_is_not_32_bytes_long_is_no_hash(length: int) -> None:
    """In a tree of two, a proof is one hash: whatever root other bytes lead to, they are none."""
    leaf, strange = leaf_hash(b"one"), bytes(length)
    assert not _Inclusion(leaf, 0, 2, node_hash(leaf, strange), [strange]).holds
    assert not _Consistency(1, 2, leaf, node_hash(leaf, strange), [strange]).holds


# Checkpoints

LOG, OTHER = LogKey(), LogKey()
WITNESS, OTHER_WITNESS = WitnessKey(), WitnessKey()


class _Signed(NamedTuple):
    """A head with all signatures that a forger may have of it."""

    head: Checkpoint
    lines: list[str]
    foreign: list[str]


def _signed(head: Checkpoint) -> _Signed:
    return _Signed(head, [LOG.line(head), WITNESS.cosign(head)], [OTHER.line(head), OTHER_WITNESS.cosign(head)])


@pytest.fixture(scope="module")
def heads(stored: StoredTree) -> list[_Signed]:
    return [_signed(stored.checkpoint(START + size, size)) for size in SIZES]


def _accepted(note: str, keys: Keys) -> bool:
    try:
        head = check_note(note, keys)
    except InvalidError:
        return False
    return head.cosigned or keys.witness is None


def _forged_note(heads: list[_Signed], cosigned: bool, chance: random.Random) -> tuple[str, str]:
    (head, lines, foreigners), (other, others, _) = chance.sample(heads, 2)
    lines, others = lines[: 1 + cosigned], others[: 1 + cosigned]
    at = chance.randrange(len(lines))
    mark, name, encoded = lines[at][:-1].split(" ")
    raw = base64.b64decode(encoded)
    wrong = b64(flipped_bit(raw, chance))
    foreign = foreigners[at][:-1].split(" ")[2]

    def with_line(line: str) -> str:
        return head.note([*lines[:at], line, *lines[at + 1 :]])

    field = chance.choice(["origin", "size", "root", "at_ms"])
    changed = Checkpoint(
        head.origin + chance.choice(["x", ".", "/audit"]) if field == "origin" else head.origin,
        chance.choice([head.size + 1, head.size * 2, 0]) if field == "size" else head.size,
        flipped_bit(head.root, chance) if field == "root" else head.root,
        head.at_ms + chance.choice([-1, 1, 60_000]) if field == "at_ms" else head.at_ms,
    )
    true = head.note(lines)
    forgers: list[Callable[[], str]] = [
        *[lambda: changed_character(true, chance)] * 3,
        lambda: changed.note(lines),
        lambda: other.note(lines),
        lambda: head.note([*lines[:at], others[at], *lines[at + 1 :]]),
        lambda: with_line(f"{mark} {name} {wrong}\n"),
        lambda: with_line(f"{mark} {name} {other_base64(encoded, chance)}\n"),
        lambda: with_line(f"{mark} {name} {foreign}\n"),
        lambda: with_line(f"{mark} {name} {b64(raw[:4] + base64.b64decode(foreign)[4:])}\n"),
        lambda: with_line(f"{mark} {name} {b64(raw[:4])}\n"),
        lambda: with_line(f"{mark} {name}x {encoded}\n"),
        lambda: with_line(f"{mark} {name}  {encoded}\n"),
        lambda: with_line(f"- {name} {encoded}\n"),
        lambda: with_line(f"{mark} {name} {encoded}\r\n"),
        lambda: with_line(""),
        lambda: with_line("\n"),
        # The witness's signature in the log's place, and the other way round.
        lambda: with_line(f"{mark} {ORIGIN} {b64(key_id(ORIGIN, ED25519, LOG.public) + raw[-64:])}\n") if at else "",
        lambda: (
            with_line(f"{mark} {WITNESS.name} {b64(key_id(WITNESS.name, COSIGNATURE, WITNESS.public) + raw[4:])}\n")
            if not at
            else ""
        ),
        lambda: true.replace(f"\n{head.size}\n", f"\n0{head.size}\n", 1),
        lambda: true.replace(f"\n{head.size}\n", f"\n+{head.size}\n", 1),
        lambda: true.replace("\ntime ", "\ntime  ", 1),
        lambda: true.replace(f"time {head.at_ms}\n", f"time {head.at_ms}\nmore\n", 1),
        lambda: true.replace(f"time {head.at_ms}\n", "", 1),
        lambda: true.replace("\n\n", "\n", 1),
        lambda: true.replace("\n\n", "\n\n\n", 1),
        lambda: true.replace("\n", "\r\n"),
        lambda: true[: chance.randrange(len(true))],
        lambda: true + chance.choice(["\n", " ", "x", "\n\n", "— \n"]),
        lambda: chance.choice(["\n", " ", "\ufeff"]) + true,
    ]
    return true, chance.choice(forgers)()


@pytest.mark.parametrize("demanded", [False, True], ids=["signed", "cosigned"])
def test_no_forged_checkpoint_is_accepted(heads: list[_Signed], demanded: bool) -> None:
    keys = Keys([LOG.public], (WITNESS.name, WITNESS.public) if demanded else None)
    chance, tried = random.Random(f"note {demanded}"), 0
    assert all(_accepted(one.head.note(one.lines), keys) for one in heads)
    while tried < TRIED:
        true, forged = _forged_note(heads, demanded, chance)
        if forged != true:
            assert not _accepted(forged, keys), forged
            tried += 1
    assert tried >= 10_000


EDITED = _signed(Checkpoint(ORIGIN, 5, bytes(range(32)), START))


@given(st.data())
def test_no_edit_of_a_checkpoint_is_accepted(data: st.DataObject) -> None:
    true = EDITED.head.note(EDITED.lines)
    start = data.draw(st.integers(0, len(true)))
    end = data.draw(st.integers(start, min(len(true), start + 80)))
    forged = true[:start] + data.draw(st.text(max_size=8)) + true[end:]
    assume(forged != true)
    assert not _accepted(forged, Keys([LOG.public], (WITNESS.name, WITNESS.public)))


def test_signatures_of_strangers_are_passed_over_and_their_order_is_free() -> None:
    head, own, foreign = EDITED
    lines = [*foreign, *own]
    keys = Keys([LOG.public], (WITNESS.name, WITNESS.public))
    assert _accepted(head.note(lines), keys)
    assert _accepted(head.note(reversed(lines)), keys)
    assert check_note(LOG.note(head), keys).cosigned is False
