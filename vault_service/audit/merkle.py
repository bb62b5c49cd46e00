"""The Merkle tree of RFC 6962, section 2.1: hashing, growing by appending, roots and proofs.

Hashes come in through a reader of what is stored (leaves at level 0, roots of complete subtrees of 256^level
leaves above); hashes go out. No I/O of its own, no keys. The verifier has an implementation of its own
(`audit.verify`) and shares nothing with this one.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from vault_service.errors import LogDamagedError
from vault_service.storage.log import NodeRow

_BITS: Final = 8
WIDTH: Final = 1 << _BITS  # children of a stored node
EMPTY_ROOT: Final = sha256().digest()

ReadHashes = Callable[[int, int, int], Sequence[bytes]]  # level, first position, count -> at most count hashes


def leaf_hash(data: bytes) -> bytes:
    """The hash of an entry: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root of a tree of these leaf hashes; that of an empty tree when there are none."""
    if not hashes:
        return EMPTY_ROOT
    level = hashes
    while len(level) > 1:
        # Pairing from the left and carrying the odd one up gives the tree of the RFC's recursive definition.
        paired = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)]
        level = [*paired, *level[len(paired) * 2 :]]
    return level[0]


def inclusion_in(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion proof (RFC 6962, section 2.1.1) of leaf `index` among these leaf hashes, all of them in memory."""
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if index < split:
        return [*inclusion_in(hashes[:split], index), root_of(hashes[split:])]
    return [*inclusion_in(hashes[split:], index - split), root_of(hashes[:split])]


class Edge:
    """The right edge of a tree: at each level the hashes of the tile that is not complete yet, fewer than 256.

    Its root is computed from these hashes alone. Where that is the root that was signed for its size, everything
    it gives from then on rests on the signature and on the leaves that are added, and on nothing that is stored.
    """

    def __init__(self, size: int = 0, rows: Sequence[list[bytes]] = ()) -> None:
        """`rows` by level, as `Tree.edge` reads them."""
        self.size = size
        self._rows = list(rows)

    def root(self) -> bytes:
        """The root of the tree of all leaves so far."""
        below: list[bytes] = []  # the root of what is incomplete on the levels below
        for row in self._rows:
            if row or below:
                below = [root_of([*row, *below])]
        return below[0] if below else EMPTY_ROOT

    def add(self, leaves: Sequence[bytes]) -> list[NodeRow]:
        """Append leaves (their hashes); the nodes that become complete with them."""
        nodes: list[NodeRow] = []
        level, first, new = 0, self.size, list(leaves)
        self.size += len(new)
        while new:
            if level == len(self._rows):
                self._rows.append([])
            row = self._rows[level] + new
            complete = len(row) - len(row) % WIDTH
            parents = [root_of(row[at : at + WIDTH]) for at in range(0, complete, WIDTH)]
            self._rows[level] = row[complete:]
            level, first, new = level + 1, first // WIDTH, parents
            nodes += [NodeRow(level, first + at, parent) for at, parent in enumerate(parents)]
        return nodes


class Tree:
    """A log of any length as it is stored. Reads a few hundred hashes for each answer, and each of them once."""

    def __init__(self, read: ReadHashes) -> None:
        self._read = read
        self._tiles: dict[tuple[int, int], Sequence[bytes]] = {}

    def root(self, size: int) -> bytes:
        """The root of the tree of the first `size` leaves. LogDamagedError when a stored hash is missing."""
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[size]) of RFC 6962, section 2.1.1: from the leaf's sibling upwards."""
        if not 0 <= index < size:
            raise ValueError("the index is not that of a leaf")
        return self._path(index, 0, size)

    def consistency(self, old: int, size: int) -> list[bytes]:
        """PROOF(old, D[size]) of RFC 6962, section 2.1.2; empty when `old` is 0 or `size`."""
        if not 0 <= old <= size:
            raise ValueError("a log is consistent with what it was, not with what it will be")
        return self._subproof(old, 0, size, whole=True) if 0 < old < size else []

    def edge(self, size: int) -> "Edge":
        """What the tree of the first `size` leaves is extended from: the stored hashes of its incomplete tiles."""
        rows: list[list[bytes]] = []
        first = size
        while first:
            start = first - first % WIDTH
            rows.append(list(self._stored(len(rows), start, first - start)))
            first //= WIDTH
        return Edge(size, rows)

    def _hash(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]) of a range that the RFC's recursion meets."""
        count = end - start
        if count & (count - 1) == 0:  # a complete subtree, whose start is a multiple of its width
            level, rest = divmod(count.bit_length() - 1, _BITS)
            return root_of(self._stored(level, start >> _BITS * level, 1 << rest))
        middle = start + _split(count)
        return root_of([self._hash(start, middle), self._hash(middle, end)])

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._hash(middle, end)]
        return [*self._path(index, middle, end), self._hash(start, middle)]

    def _subproof(self, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        if old == end:
            return [] if whole else [self._hash(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._subproof(old, start, middle, whole=whole), self._hash(middle, end)]
        return [*self._subproof(old, middle, end, whole=False), self._hash(start, middle)]

    def _stored(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """`count` hashes of a level, all within one tile of 256."""
        if not count:
            return []
        tile, offset = divmod(first, WIDTH)
        found = self._tiles.get((level, tile))
        if found is None or len(found) < offset + count:
            found = self._tiles[level, tile] = self._read(level, tile * WIDTH, WIDTH)
        if len(found) < offset + count:
            raise LogDamagedError(f"hash {tile * WIDTH + len(found)} of level {level} is missing from the log")
        return found[offset : offset + count]


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1
