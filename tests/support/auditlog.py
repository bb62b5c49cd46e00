"""A log, its keys and a witness's, in a test's memory: leaves and nodes as they are stored, notes as they are signed.

Times and ids are given, never looked up, so that every run makes the same record.
"""

import base64
import copy
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vault_service.audit.checkpoint import COSIGNATURE, ED25519, Checkpoint, signature_line, verifier_key
from vault_service.audit.event import Disclosed, record
from vault_service.audit.merkle import Tree, leaf_hash

ORIGIN = "vault.example.org/audit"
WITNESS = "witness.example.net/w1"
START = 1_900_000_000_000  # ms

Records = list[dict[str, Any]]


class LogKey:
    """An Ed25519 key that signs heads of logs."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.pem = self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, text: str) -> bytes:
        return self._private.sign(text.encode())

    def line(self, checkpoint: Checkpoint) -> str:
        """The log's signature line under a checkpoint."""
        return signature_line(checkpoint.origin, ED25519, self.public, self.sign(checkpoint.text))

    def note(self, checkpoint: Checkpoint, *more: str) -> str:
        """The checkpoint signed, with other lines below."""
        return checkpoint.note([self.line(checkpoint), *more])


class WitnessKey(LogKey):
    """An Ed25519 key that cosigns."""

    def __init__(self, name: str = WITNESS) -> None:
        super().__init__()
        self.name = name
        self.vkey = verifier_key(name, COSIGNATURE, self.public)

    def cosign(self, checkpoint: Checkpoint, seconds: int = START // 1000) -> str:
        """The cosignature line under a checkpoint (C2SP tlog-cosignature)."""
        signature = self.sign(f"cosignature/v1\ntime {seconds}\n{checkpoint.text}")
        return signature_line(self.name, COSIGNATURE, self.public, seconds.to_bytes(8) + signature)


class StoredTree:
    """What the database has of a log: leaves at level 0, nodes above. Counts the hashes that are read."""

    def __init__(self) -> None:
        self.levels: dict[int, list[bytes]] = {0: []}
        self.hashes_read = 0

    @property
    def size(self) -> int:
        return len(self.levels[0])

    @property
    def tree(self) -> Tree:
        return Tree(self.read)

    def read(self, level: int, first: int, count: int) -> Sequence[bytes]:
        found = self.levels.get(level, [])[first : first + count]
        self.hashes_read += len(found)
        return found

    def append(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes, and the nodes that the writer says are complete now."""
        for node in self.tree.edge(self.size).add(leaves):
            row = self.levels.setdefault(node.level, [])
            assert node.position == len(row)
            row.append(node.hash)
        self.levels[0] += leaves

    def checkpoint(self, at_ms: int | None = None, size: int | None = None, origin: str = ORIGIN) -> Checkpoint:
        """The head of the first `size` leaves; a larger one is later."""
        covered = self.size if size is None else size
        return Checkpoint(origin, covered, self.tree.root(covered), START + covered if at_ms is None else at_ms)


def leaves_of(count: int, start: int = 0) -> list[bytes]:
    """Leaf hashes of made-up entries."""
    return [leaf_hash(b"entry %d" % number) for number in range(start, start + count)]


def grown(count: int, seed: int = 1) -> StoredTree:
    """A stored log of made-up entries, appended in batches of any size."""
    stored, chance = StoredTree(), random.Random(seed)
    while stored.size < count:
        batch = min(count - stored.size, chance.choice((1, 2, 3, 100, 255, 256, 257, 700, 2000)))
        stored.append(leaves_of(batch, stored.size))
    return stored


def event_id(number: int, at_ms: int) -> str:
    """A UUIDv7 of a given time, the `number`-th."""
    moment = f"{at_ms:012x}"
    return f"{moment[:8]}-{moment[8:]}-7000-8000-{number:012x}"


class Book:
    """Builds the records of an export, one after another, as `audit.export.records` gives them."""

    def __init__(self, origin: str = ORIGIN, key: LogKey | None = None) -> None:
        self.origin = origin
        self.key = key or LogKey()
        self.now = START
        self.stored = StoredTree()
        self.live = False
        self.items: Records = []
        self.waiting: Records = []
        self.notes: list[str] = []
        self._events = 0

    def event(self, *disclosed: Disclosed, kind: str = "detokenize") -> dict[str, Any]:
        """An event of now with its disclosure rows, without a place."""
        self.now += 10
        self._events += 1
        texts = {"justification": f"asked by hand, {self._events}"} if kind == "detokenize" else {}
        recorded = record(event_id(self._events, self.now), kind, self.now, {"client": "sis"}, disclosed, texts)
        return {
            "id": recorded.event.id,
            "hash": recorded.event.hash.hex(),
            "event": recorded.event.body,
            "disclosures": [list(row[1:]) for row in recorded.disclosures],
            "texts": [list(row[1:]) for row in recorded.texts],
        }

    def add(self, count: int = 1, tokens: int = 2) -> None:
        """Entries, each of which disclosed `tokens` tokens."""
        for _ in range(count):
            made = self.event(*(Disclosed("k12", f"k12_{self._events}_{at}", "found") for at in range(tokens)))
            position = self.stored.size
            before = {level: len(row) for level, row in self.stored.levels.items()}
            leaf = leaf_hash(str(made["event"]).encode())
            self.stored.append([leaf])
            self.items.append({"entry": position, "id": made.pop("id"), "leaf": leaf.hex(), **made})
            for level, row in self.stored.levels.items():
                if self.live and level and len(row) > before.get(level, 0):
                    self.items.append({"node": [level, len(row) - 1, row[-1].hex()]})

    def wait(self) -> None:
        """An event that has no place in the log yet."""
        made = self.event()
        self.waiting.append({"unsealed": made.pop("id"), **made})

    def seal(self, *more: str, by: LogKey | None = None, witness: WitnessKey | None = None, after: int = 1000) -> str:
        """A checkpoint over what is there, `after` ms later; the note."""
        self.now += after
        head = self.stored.checkpoint(self.now, origin=self.origin)
        lines = [witness.cosign(head)] if witness else []
        note = (by or self.key).note(head, *lines, *more)
        self.notes.append(note)
        number = len(self.notes)
        self.items.append({"checkpoint": number, "size": head.size, "at": head.at_ms, "note": note})
        return note

    def records(self) -> Records:
        """Everything, in copies that a test may change."""
        made = self.now + 1000
        header = {"bundle": "ssn-vault-audit 2", "origin": self.origin, "made_ms": made, "size": self.stored.size}
        end = {"end": True, "entries": self.stored.size, "checkpoints": len(self.notes)}
        return copy.deepcopy([{**header, "live": self.live}, *self.items, *self.waiting, end])


def write_bundle(path: Path, records: Iterable[Any]) -> Path:
    """Records as the lines of an export."""
    path.write_text("".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in records))
    return path


def entry_at(records: Records, position: int) -> dict[str, Any]:
    """The record of one entry."""
    return next(one for one in records if one.get("entry") == position)


def checkpoint_at(records: Records, number: int) -> dict[str, Any]:
    """The record of one checkpoint."""
    return next(one for one in records if one.get("checkpoint") == number)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
