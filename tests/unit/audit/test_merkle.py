"""The writer's tree and the verifier's are RFC 6962's: known answers, and another library at every size that matters.

Two implementations stand here side by side, `audit.merkle` and `audit.verify`; what one makes, the other checks.
"""

import math
import random
from collections.abc import Callable
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from tests.support.auditlog import StoredTree, grown, leaves_of
from vault_service.audit.merkle import EMPTY_ROOT, WIDTH, Tree, inclusion_in, leaf_hash, root_of
from vault_service.audit.verify import Frontier, check_consistency, root_from_inclusion
from vault_service.audit.verify import leaf_hash as verifiers_leaf_hash
from vault_service.errors import LogDamagedError

# The reference implementation's vectors: google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc, and
# transparency-dev/merkle, cmd/proofgen/main.go (which adds the consistency of 6 and 7).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_1 = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
LEAF_2 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
LEAF_5 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
LEAF_7 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
PAIR_1, PAIR_2 = ROOTS[2], "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
PAIR_3 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
PAIR_4 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
HALF_1, HALF_2 = ROOTS[4], "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = [  # index from 0, size, proof
    (0, 1, []),
    (0, 8, [LEAF_2, PAIR_2, HALF_2]),
    (5, 8, [LEAF_5, PAIR_4, HALF_1]),
    (2, 3, [PAIR_1]),
    (1, 5, [LEAF_1, PAIR_2, LEAF_5]),
]
CONSISTENCY = [  # old size, size, proof
    (1, 1, []),
    (1, 8, [LEAF_2, PAIR_2, HALF_2]),
    (6, 8, [PAIR_3, PAIR_4, HALF_1]),
    (2, 5, [PAIR_2, LEAF_5]),
    (6, 7, [PAIR_3, LEAF_7, HALF_1]),
]
EDGES = [*range(1, 70), 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000]
LARGE = [65_535, 65_536, 65_537]  # around the first node of level 2


def _raw(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


@pytest.fixture
def reference() -> StoredTree:
    stored = StoredTree()
    stored.append([leaf_hash(data) for data in _raw(INPUTS)])
    return stored


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference_implementation(reference: StoredTree, size: int) -> None:
    frontier = Frontier()
    for data in _raw(INPUTS[:size]):
        frontier.append(verifiers_leaf_hash(data))
    found = [reference.tree.root(size), root_of(reference.levels[0][:size]), frontier.root()]
    assert [root.hex() for root in found] == [ROOTS[size]] * 3


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference_implementation(
    reference: StoredTree, index: int, size: int, proof: list[str]
) -> None:
    assert reference.tree.inclusion(index, size) == _raw(proof)
    assert inclusion_in(reference.levels[0][:size], index) == _raw(proof)
    assert root_from_inclusion(reference.levels[0][index], index, size, _raw(proof)).hex() == ROOTS[size]


@pytest.mark.parametrize(("old", "size", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference_implementation(
    reference: StoredTree, old: int, size: int, proof: list[str]
) -> None:
    assert reference.tree.consistency(old, size) == _raw(proof)
    check_consistency(old, size, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size]), _raw(proof))


def test_a_node_cannot_pass_for_a_leaf() -> None:
    one, two = leaf_hash(b"one"), leaf_hash(b"two")
    assert root_of([leaf_hash(one + two)]) != root_of([one, two])


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=12), st.data())
def test_another_order_or_number_of_leaves_has_another_root(leaves: list[bytes], data: st.DataObject) -> None:
    other = data.draw(st.permutations(leaves) | st.lists(st.binary(max_size=4), max_size=12))
    roots = [root_of([leaf_hash(leaf) for leaf in some]) for some in (leaves, other)]
    assert (roots[0] == roots[1]) is (leaves == other)


# Against pymerkle


@cache
def _library(size: int) -> InmemoryTree:
    library = InmemoryTree(algorithm="sha256")
    for number in range(size):
        library.append_entry(b"entry %d" % number)
    return library


@cache
def _stored(size: int) -> StoredTree:
    return grown(size, seed=size)


def _split(count: int) -> int:
    return 1 << math.ceil(math.log2(count)) - 1


def _subproof(old: int, start: int, end: int, whole: bool, mth: Callable[[int, int], bytes]) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2, word for word."""
    if old == end - start:
        return [] if whole else [mth(start, end)]
    split = _split(end - start)
    if old <= split:
        return [*_subproof(old, start, start + split, whole, mth), mth(start + split, end)]
    return [*_subproof(old - split, start + split, end, False, mth), mth(start, start + split)]


@pytest.mark.parametrize("total", [1000, *LARGE])
def test_a_log_that_grew_in_batches_of_any_size_has_the_librarys_roots(total: int) -> None:
    library, tree = _library(LARGE[-1]), _stored(total).tree
    sizes = EDGES if total == 1000 else [*EDGES, total]
    assert [tree.root(size) for size in sizes] == [library.get_root(size) for size in sizes]
    assert tree.root(0) == EMPTY_ROOT == library.get_root(0)


def test_the_verifiers_frontier_has_the_librarys_root_after_every_leaf() -> None:
    library, frontier = _library(LARGE[-1]), Frontier()
    for size, leaf in enumerate(leaves_of(LARGE[-1]), 1):
        frontier.append(leaf)
        if size <= 600 or size in LARGE:
            assert frontier.root() == library.get_root(size)
        assert len(frontier.subtrees) == size.bit_count() <= 64


def test_the_verifiers_frontier_completes_the_nodes_that_the_writer_stores() -> None:
    stored, frontier = _stored(LARGE[-1]), Frontier()
    completed: dict[int, list[bytes]] = {1: [], 2: []}
    for leaf in stored.levels[0]:
        frontier.append(leaf)
        for level, node in enumerate(frontier.completed, 1):
            completed[level].append(node)
    assert completed == {1: stored.levels[1], 2: stored.levels[2]}
    assert [len(row) for row in completed.values()] == [256, 1]


@pytest.mark.parametrize("size", [*EDGES, *LARGE])
def test_inclusion_proofs_are_the_librarys_and_lead_to_its_root(size: int) -> None:
    library, stored = _library(LARGE[-1]), _stored(max(size, 1000))
    chance = random.Random(size)
    indexes = range(size) if size < 70 else [0, 1, size - 2, size - 1, *chance.sample(range(size), 12)]
    for index in indexes:
        proof = stored.tree.inclusion(index, size)
        assert proof == library.prove_inclusion(index + 1, size).path[1:]
        assert root_from_inclusion(stored.levels[0][index], index, size, proof) == library.get_root(size)
        if size < 600:
            assert inclusion_in(stored.levels[0][:size], index) == proof


@pytest.mark.parametrize("size", [*EDGES, *LARGE])
def test_consistency_proofs_are_the_rfcs_over_the_librarys_hashes(size: int) -> None:
    library, stored = _library(LARGE[-1]), _stored(max(size, 1000))
    chance = random.Random(size)
    edges = [old for old in (1, 255, 256, 257, 65_535, 65_536, size - 1, size) if 0 < old <= size]
    for old in range(1, size + 1) if size < 70 else [*edges, *chance.sample(range(1, size), 12)]:
        proof = stored.tree.consistency(old, size)
        assert proof == _subproof(old, 0, size, True, library._get_root)
        check_consistency(old, size, library.get_root(old), library.get_root(size), proof)


def test_what_is_consistent_with_nothing_needs_no_proof() -> None:
    tree = _stored(1000).tree
    assert tree.consistency(0, 1000) == tree.consistency(0, 0) == []
    check_consistency(0, 1000, EMPTY_ROOT, tree.root(1000), [])
    check_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (6, 5), (0, 0)])
def test_no_leaf_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="not that of a leaf"):
        _stored(1000).tree.inclusion(index, size)


@pytest.mark.parametrize(("old", "size"), [(-1, 5), (6, 5)])
def test_a_log_is_not_consistent_with_its_future(old: int, size: int) -> None:
    with pytest.raises(ValueError, match="not with what it will be"):
        _stored(1000).tree.consistency(old, size)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_the_same_leaves_make_the_same_nodes_whatever_the_batches(batches: list[int]) -> None:
    at_once, in_batches = StoredTree(), StoredTree()
    at_once.append(leaves_of(sum(batches)))
    for batch in batches:
        in_batches.append(leaves_of(batch, in_batches.size))
    assert at_once.levels == in_batches.levels


# Over a stored log


class _Endless:
    """Twenty million entries that nobody stored: every hash is made when it is read, and every read is counted."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.reads: list[tuple[int, int]] = []
        self.hashes = 0

    def read(self, level: int, first: int, count: int) -> list[bytes]:
        there = range(first, min(first + count, self._size // WIDTH**level))
        self.reads.append((level, first))
        self.hashes += len(there)
        return [sha256(b"%d/%d" % (level, position)).digest() for position in there]


@pytest.mark.parametrize("size", [20_000_000, 2**24 - 1, 2**24, 2**24 + 1])
def test_a_proof_of_a_long_log_reads_a_few_hundred_hashes_and_each_once(size: int) -> None:
    levels = math.ceil(math.log(size, WIDTH))
    chance = random.Random(size)
    for at in [0, 1, size // 2, size - 1, *(chance.randrange(1, size) for _ in range(20))]:
        for ask in (
            lambda tree, at=at: tree.inclusion(at, size),
            lambda tree, at=at: tree.consistency(max(at, 1), size),
            lambda tree, at=at: [tree.root(at), tree.root(size)],
        ):
            log = _Endless(size)
            ask(Tree(log.read))
            assert log.hashes <= 2 * levels * WIDTH  # a tile a level, along the leaf and along the log's end
            assert len(log.reads) == len(set(log.reads))


def test_a_batch_reads_only_the_tiles_at_the_logs_end() -> None:
    log = _Endless(20_000_000)
    nodes = Tree(log.read).edge(20_000_000).add(leaves_of(2000))
    assert log.hashes <= 4 * WIDTH
    assert [(node.level, node.position) for node in nodes] == [
        (1, 20_000_000 // 256 + at) for at in range((20_000_000 % 256 + 2000) // 256)
    ]


@pytest.mark.parametrize("start", [0, 1, 255, 256, 257, 300, 65_535, 65_536, 70_000])
def test_the_edge_of_a_tree_has_its_root_and_goes_on_to_that_of_every_longer_one(start: int) -> None:
    stored = grown(start)
    edge = stored.tree.edge(start)
    for more in (0, 1, 1, 254, 255, 256, 700):
        leaves = leaves_of(more, stored.size)
        stored.append(leaves)
        assert [node.hash for node in edge.add(leaves)] == [
            hash_
            for level in sorted(stored.levels)[1:]
            for hash_ in stored.levels[level][(stored.size - more) >> 8 * level :]
        ]
        assert (edge.size, edge.root()) == (stored.size, stored.tree.root(stored.size))


@pytest.mark.parametrize("level", [0, 1])
def test_a_missing_hash_damages_the_log_and_is_named(level: int) -> None:
    stored = grown(1000)
    missing = 900 if level == 0 else 1
    del stored.levels[level][missing:]
    named = rf"hash {missing} of level {level} is missing"
    with pytest.raises(LogDamagedError, match=named):
        stored.tree.root(1000)
    with pytest.raises(LogDamagedError, match=named):
        stored.tree.inclusion(950 if level == 0 else 3, 1000)
    with pytest.raises(LogDamagedError, match=named):
        stored.tree.consistency(950 if level == 0 else 250, 1000)


def test_a_batch_after_a_missing_hash_is_not_hashed_over_it() -> None:
    stored = grown(1000)
    del stored.levels[0][900:]
    with pytest.raises(LogDamagedError, match="hash 900 of level 0"):
        stored.tree.edge(1000)
