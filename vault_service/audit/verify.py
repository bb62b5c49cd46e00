"""Verifies an ssn-vault disclosure record. One file: Python 3.11 and the `cryptography` package are all it needs.

    python ssn_vault_verify.py BUNDLE --public-key FILE [--checkpoints FILE] [--witness-key FILE] ..
    python ssn_vault_verify.py PROOF --public-key FILE

What comes in is untrusted: records as docs/audit-log.md describes them, from an export or straight from a
database. Trusted are the log's public keys, a witness's key, and checkpoints that were kept elsewhere. It
recomputes every leaf, every event's root over its disclosure rows, the tree at every checkpoint, and every
signature, in memory that does not grow with the log, and says which entry or checkpoint is wrong and how.

It shares no code with the service that writes the record, and imports nothing of it. Hashing and proofs are
those of RFC 6962 (checked as RFC 9162, 2.1.3.2 and 2.1.4.2, say), notes those of C2SP signed-note,
tlog-checkpoint, tlog-cosignature and tlog-proof. It is longer than other files on purpose: it is meant to be
copied and read alone (docs/adr/0017).
"""

import argparse
import base64
import binascii
import json
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

BUNDLE_FORMATS: Final = ("ssn-vault-audit 1", "ssn-vault-audit 2")  # the first knows no texts and no orders
PROOF_FORMAT: Final = "ssn-vault-disclosure-proof 1"
EMPTY_ROOT: Final = sha256().hexdigest()
SILENCE_MS: Final = 300_000  # between two checkpoints, from which on it is told
_TEXTS: Final = {"event": ("justification",), "order": ("reason", "justification")}  # that people wrote
_ROW: Final = ("event_id", "position", "domain", "token", "outcome", "salt")
_LOG_SIGNATURE, _COSIGNATURE = b"\x01", b"\x04"
_HASH_BYTES: Final = 32
_MOST_SIGNATURES: Final = 32  # under one note
_MOST_NAMED: Final = 10  # events that no stream announced
_MOST_KEPT: Final = 200  # findings and notes that are kept; findings are all counted
_CLOCK_MS: Final = 60_000  # between an event's making and the checkpoint that covers it, where an export is older
_FOREVER: Final = 2**62
_LAST_MS: Final = 253_402_300_800_000  # the end of the year 9999
_HIGHEST_LEVEL: Final = 7  # of nodes: more entries than any log has


class InvalidError(ValueError):
    """Something is not what it has to be; the text says what."""


class Finding(NamedTuple):
    """What is wrong, and where."""

    where: str
    what: str


@dataclass
class Report:
    """What a verification found. Nothing is wrong when `count` is 0."""

    entries: int = 0
    disclosures: int = 0
    checkpoints: int = 0
    covered: int = 0  # entries under the newest checkpoint that fits
    cosigned: int = 0  # entries under the newest checkpoint that the witness has cosigned
    gone: int = 0  # texts that were removed
    unsealed: int = 0  # events that have no place in the log yet
    newest_ms: int = 0  # when the newest checkpoint was signed
    made_ms: int = 0  # when the records were read, by their own words
    origin: str = ""  # the log's name, by its own words
    count: int = 0
    losses: "list[Loss]" = field(default_factory=list)  # declared, and under a checkpoint
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth knowing, not wrong

    def found(self, where: str, what: str) -> None:
        """Count a finding, and keep it while there is room."""
        self.count += 1
        if len(self.findings) < _MOST_KEPT:
            self.findings.append(Finding(where, what))

    def noted(self, note: str) -> None:
        """Keep a note while there is room."""
        if len(self.notes) < _MOST_KEPT:
            self.notes.append(note)


# Hashes


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data): RFC 6962, section 2.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right): RFC 6962, section 2.1."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that only grows: the roots of its complete subtrees, largest first, are all it remembers."""

    def __init__(self) -> None:
        self.size = 0
        self.subtrees: list[bytes] = []  # one for each 1 in the size's binary form
        self.completed: list[bytes] = []  # roots of the subtrees of 256, 65536 .. leaves that the last leaf completed

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        count, height = self.size, 0
        self.completed = []
        while count & 1:
            leaf = node_hash(self.subtrees.pop(), leaf)
            count, height = count >> 1, height + 1
            if height % 8 == 0:
                self.completed.append(leaf)
        self.subtrees.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle Tree Hash of what was added."""
        if not self.subtrees:
            return bytes.fromhex(EMPTY_ROOT)
        root = self.subtrees[-1]
        for left in reversed(self.subtrees[:-1]):
            root = node_hash(left, root)
        return root


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that `proof` leads to from leaf hash `leaf` at `index` of `size` (RFC 9162, section 2.1.3.2).

    InvalidError when the proof has not the length that index and size ask for.
    """
    if not 0 <= index < size:
        raise InvalidError("the index is not in the tree")
    _need_hashes([leaf, *proof])
    at, last, root = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise InvalidError("the proof is too long")
        if at & 1 or at == last:
            root = node_hash(part, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, part)
        at, last = at >> 1, last >> 1
    if last:
        raise InvalidError("the proof is too short")
    return root


def check_consistency(old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """InvalidError unless the tree of `size` begins with that of `old` (RFC 9162, section 2.1.4.2)."""
    if not 0 <= old <= size:
        raise InvalidError("a tree cannot be consistent with a larger one")
    _need_hashes([old_root, root, *proof])
    if old == 0 or old == size:
        if proof or (old == size and old_root != root) or (old == 0 and old_root.hex() != EMPTY_ROOT):
            raise InvalidError("the roots differ")
        return
    if not proof:
        raise InvalidError("the proof is empty")
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for part in path[1:]:
        if last == 0:
            raise InvalidError("the proof is too long")
        if at & 1 or at == last:
            first, second = node_hash(part, first), node_hash(part, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, part)
        at, last = at >> 1, last >> 1
    if last or first != old_root or second != root:
        raise InvalidError("the proof does not lead to these roots")


def _need_hashes(values: Iterable[bytes]) -> None:
    """InvalidError unless all are 32 bytes: two hashes side by side could be cut at another place."""
    if any(len(value) != _HASH_BYTES for value in values):
        raise InvalidError("a hash has not 32 bytes")


# Signed notes


class Keys(NamedTuple):
    """Whose signatures count: the log's public keys, and a witness's name and key where one is demanded."""

    log: Sequence[bytes]
    witness: tuple[str, bytes] | None = None


@dataclass(frozen=True)
class Head:
    """A checkpoint whose log signature holds. `cosigned` says whether the demanded witness's does, too."""

    origin: str
    size: int
    root: bytes
    at_ms: int
    text: str
    signed: tuple[str, ...]  # the log's signature lines that hold
    cosigned: bool


def read_keys(public_key: Path, witness_key: Path | None = None) -> Keys:
    """The log's public keys (PEM, one block or more) and the witness's (signed-note's vkey), from files.

    InvalidError when a file does not hold them, OSError when it cannot be read.
    """
    try:
        text = public_key.read_text("utf-8")
        blocks = [part + "-----END PUBLIC KEY-----\n" for part in text.split("-----END PUBLIC KEY-----")[:-1]]
        loaded = [load_pem_public_key(block.encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidError("the public key file holds no PEM of a key that is known here") from None
    if not loaded or not all(isinstance(key, Ed25519PublicKey) for key in loaded):
        raise InvalidError("the public key file holds no Ed25519 keys")
    log = [key.public_bytes(Encoding.Raw, PublicFormat.Raw) for key in loaded]
    if witness_key is None:
        return Keys(log)
    try:
        name, identifier, encoded = witness_key.read_text("utf-8").strip().split("+", 2)
        raw = _base64(encoded)
    except ValueError:
        raise InvalidError("the witness key file holds no verifier key") from None
    if len(raw) != 33 or raw[:1] != _COSIGNATURE or _key_id(name, raw[:1], raw[1:]).hex() != identifier:
        raise InvalidError("the witness key file holds no key for Ed25519 cosignatures")
    return Keys(log, (name, raw[1:]))


def check_note(note: str, keys: Keys) -> Head:
    """The checkpoint in `note`. InvalidError unless it has the form and one of the log's keys has signed it.

    A signature that names a known key and does not hold makes the whole note invalid (signed-note).
    """
    text, separator, signatures = note.rpartition("\n\n")
    lines = text.split("\n")
    if not separator or not signatures.endswith("\n") or len(lines) != 4 or not all(lines):
        raise InvalidError("it has not the form of a checkpoint")
    if not note.replace("\n", "").isprintable() or signatures.count("\n") > _MOST_SIGNATURES:
        raise InvalidError("it has not the form of a signed note")
    origin, size, root, time = lines
    text += "\n"
    try:
        head = Head(origin, _decimal(size), _base64(root), _decimal(time.removeprefix("time ")), text, (), False)
    except ValueError:
        raise InvalidError("it has not the form of a checkpoint") from None
    if not time.startswith("time ") or len(head.root) != 32:
        raise InvalidError("it has not the form of a checkpoint")
    signed: list[str] = []
    cosigned = False
    for line in signatures[:-1].split("\n"):
        mark, name, raw = _signature_line(line)
        if not mark:
            raise InvalidError("it has a malformed signature line")
        if name == origin:
            for key in keys.log:
                if raw[:4] == _key_id(name, _LOG_SIGNATURE, key):
                    _check_signature(key, raw[4:], text.encode(), "the log's signature does not hold")
                    signed.append(line + "\n")
        if keys.witness and name == keys.witness[0]:
            key = keys.witness[1]
            if raw[:4] == _key_id(name, _COSIGNATURE, key):
                message = f"cosignature/v1\ntime {int.from_bytes(raw[4:12])}\n{text}".encode()
                _check_signature(key, raw[12:], message, "the witness's cosignature does not hold")
                cosigned = True
    if not signed:
        raise InvalidError("it is not signed by a key of the log")
    return Head(origin, head.size, head.root, head.at_ms, text, tuple(signed), cosigned)


def holds(note: str, keys: Keys) -> bool:
    """Whether `check_note` has nothing against a note."""
    try:
        check_note(note, keys)
    except InvalidError:
        return False
    return True


def notes_in(path: Path, keys: Keys) -> Iterator[str]:
    """The whole notes of a checkpoint file, as many as it holds when this is called.

    A piece that is set apart was cut off, unless its signatures say that it is whole: otherwise one newline behind a
    note would take it back. Line ends may be CRLF, as a copy by way of Windows has them: no note holds a CR, so that
    what is signed is known all the same.
    """
    end = path.stat().st_size
    return (note for note, set_apart in _notes(path, end) if not set_apart or holds(note, keys))


def _notes(path: Path, end: int) -> Iterator[tuple[str, bool]]:
    """Each note with whether it is set apart."""
    note, ended = "", False
    with path.open("rb") as file:
        for raw in file:
            end -= len(raw)
            if end < 0:
                break
            line = raw.decode("utf-8", "replace")
            line = line[:-2] + "\n" if line.endswith("\r\n") else line
            if line != "\n":
                if ended:
                    yield note, False
                    note, ended = "", False
                note += line
            elif ended or note.endswith("\n\n"):  # two empty lines: a piece that was cut off, and set apart
                if ended:
                    yield note, True
                note, ended = "", False
            elif "\n\n— " in note:
                ended = True
            elif note:
                note += line
    if ended:
        yield note, False


def _signature_line(line: str) -> tuple[bool, str, bytes]:
    mark, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        raw = _base64(encoded)
    except ValueError:
        return False, "", b""
    good_name = name.isprintable() and not any(c.isspace() or c == "+" for c in name) and bool(name)
    return mark == "—" and good_name and len(raw) > 4, name, raw


def _check_signature(key: bytes, signature: bytes, message: bytes, complaint: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise InvalidError(complaint) from None


def _key_id(name: str, kind: bytes, key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + kind + key).digest()[:4]


def _base64(text: str) -> bytes:
    """Strictly: what is not the one way to write these bytes is refused."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidError("it is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise InvalidError("it is not base64")
    return raw


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0") or len(text) > 18:
        raise InvalidError("it is not a decimal number")
    return int(text)


# Events and proofs


def canonical(value: Mapping[str, Any]) -> str:
    """Canonical JSON (RFC 8785) of ASCII names, strings, integers and lists, which is all that a record holds."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def check_event(body: str, event_id: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """What is wrong with an event and its disclosure rows (position, domain, token, outcome, salt), in words."""
    try:
        event = json.loads(body)
        if not isinstance(event, dict) or canonical(event) != body:
            raise ValueError
    except (ValueError, RecursionError):
        return ["the event is not canonical JSON"]
    wrong = []
    if event.get("id") != event_id:
        wrong.append("the event says another id")
    if not _is_time(event.get("at")) or not isinstance(event.get("kind"), str):
        wrong.append("the event has no time, or no kind: no server wrote it")
    if [row[0] for row in rows] != list(range(len(rows))):
        wrong.append("its disclosure rows are not numbered from 0 on")
    if event.get("disclosures") != len(rows):
        wrong.append(f"the event says {event.get('disclosures')} disclosure rows, {len(rows)} are there")
    tree = Frontier()
    for row in rows:
        tree.append(leaf_hash(canonical(dict(zip(_ROW, (event_id, *row), strict=True))).encode()))
    if event.get("root") != tree.root().hex():
        wrong.append("its disclosure rows are not those that the event's root was made from")
    return wrong


def check_texts(
    of: str, names: Sequence[str], hashes: Mapping[str, Any], rows: Sequence[Any]
) -> tuple[list[str], list[str]]:
    """What is wrong with the texts (name, salt, text) of an event or order, in words; and which of them are gone.

    `hashes` is what was signed: under NAME_sha256 the hash of a text's row. A text that is gone was removed, which
    its hash allows: that is no change of the record.
    """
    if not isinstance(rows, list) or not all(isinstance(r, list) and list(map(type, r)) == [str] * 3 for r in rows):
        raise ValueError
    wrong = []
    for name, salt, text in rows:
        row = {"of": of, "name": name, "salt": salt, "text": text}
        if hashes.get(f"{name}_sha256") != sha256(canonical(row).encode()).hexdigest():
            wrong.append(f"its {name} is not the text that was recorded")
    there = {row[0] for row in rows}
    return wrong, [name for name in names if f"{name}_sha256" in hashes and name not in there]


def check_proof(text: str, keys: Keys) -> tuple[dict[str, Any], dict[str, Any], Head]:
    """Event, disclosure row and checkpoint of a proof that one disclosure stands in the log.

    InvalidError says which part does not hold. Another spelling of the same proof is refused.
    """
    try:
        proof = json.loads(text)
        if json.dumps(proof, ensure_ascii=False, indent=2, sort_keys=True) + "\n" != text:
            raise ValueError
        row = {name: proof["disclosure"][name] for name in _ROW}
        path = [bytes.fromhex(part) for part in proof["disclosure_path"]]
        if [part.hex() for part in path] != proof["disclosure_path"]:
            raise ValueError
        body = str(proof["event"])
        event = json.loads(body)
        size, position = int(event["disclosures"]), int(row["position"])
        if proof["format"] != PROOF_FORMAT or canonical(event) != body or row != proof["disclosure"]:
            raise ValueError
        if not _is_time(event["at"]):
            raise ValueError
        header, *lines = str(proof["log_proof"]).partition("\n\n")[0].split("\n")
        note = str(proof["log_proof"]).partition("\n\n")[2]
        index = _decimal(lines[0].removeprefix("index "))
        hashes = [_base64(line) for line in lines[1:]]
        if header != "c2sp.org/tlog-proof@v1" or not lines[0].startswith("index ") or len(proof) != 5:
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RecursionError):
        raise InvalidError("the file has not the form of a disclosure proof") from None
    head = check_note(note, keys)
    if row["event_id"] != event.get("id"):
        raise InvalidError("the disclosure is of another event")
    if root_from_inclusion(leaf_hash(canonical(row).encode()), position, size, path).hex() != event.get("root"):
        raise InvalidError("the disclosure is not among those of the event")
    if root_from_inclusion(leaf_hash(body.encode()), index, head.size, hashes) != head.root:
        raise InvalidError("the event does not stand in the log under this checkpoint")
    if keys.witness and not head.cosigned:
        raise InvalidError("the checkpoint is not cosigned by the witness")
    return event, row, head


# The whole record


@dataclass
class Kept:
    """Checkpoints that were kept outside the database, in any order. The log's own must stand in it as well."""

    name: str
    notes: Iterable[str]
    own: bool = True


class Announced:
    """The events and checkpoints of servers' log streams, on disk while they wait to be met in the record."""

    def __init__(self) -> None:
        self._known = sqlite3.connect("", isolation_level=None)  # a temporary file
        self._known.execute("CREATE TABLE event (id TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID")
        self._known.execute("CREATE TABLE note (text TEXT PRIMARY KEY) WITHOUT ROWID")
        self.events = 0
        self.first = self.last = ""  # ids: UUIDv7, in the order of their making
        self.contradictions: list[str] = []

    def read(self, path: Path) -> None:
        """Take in one file of JSON lines, whatever a log collector put before them; other lines are passed over."""
        with path.open("rb") as file:
            for line in file:
                if b"ssn_vault." not in line:
                    continue
                try:
                    content = json.loads(line[line.index(b"{") :])
                    if content.get("logger") == "ssn_vault.checkpoints":
                        self._known.execute("INSERT OR IGNORE INTO note VALUES (?)", (str(content["note"]),))
                    elif content.get("logger") == "ssn_vault.events":
                        for event_id, digest in content["events"]:
                            self._add(str(event_id), str(digest))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue  # cut off, or not ours

    @property
    def notes(self) -> Iterator[str]:
        """The checkpoints that were announced."""
        return (row[0] for row in self._known.execute("SELECT text FROM note"))

    def meet(self, event_id: str, digest: str) -> bool | None:
        """Whether the stream says the same of this event; None when it says nothing of it."""
        row = self._known.execute("SELECT hash FROM event WHERE id = ?", (event_id,)).fetchone()
        if row is None:
            return None
        self._known.execute("DELETE FROM event WHERE id = ?", (event_id,))
        return bool(row[0] == digest)

    def left(self) -> Iterator[str]:
        """Ids of the events that were not met."""
        return (row[0] for row in self._known.execute("SELECT id FROM event ORDER BY id"))

    def _add(self, event_id: str, digest: str) -> None:
        if self._known.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", (event_id, digest)).rowcount:
            self.events += 1
            self.first = min(self.first or event_id, event_id)
            self.last = max(self.last, event_id)
            return
        row = self._known.execute("SELECT hash FROM event WHERE id = ?", (event_id,)).fetchone()
        if row[0] != digest:
            self.contradictions.append(event_id)


class Loss(NamedTuple):
    """Entries behind the first `entries`, up to `lost_entries`, that people declared as lost in an order."""

    order: str
    signers: tuple[str, ...]
    entries: int
    root: str  # hex
    lost_entries: int
    lost_root: str  # hex
    lost_at: int  # ms
    since: int  # ms: what was made before is under the last checkpoint that is left, or waited for its place then
    until: int  # ms
    position: int  # of the entry that declares it

    @property
    def line(self) -> str:
        """What is lost, on one line, as `audit accept-loss` prints it and as whoever knows of the loss says it here."""
        return f"{self.entries} {self.root} {self.lost_entries} {self.lost_root} {self.lost_at}"

    def covers(self, size: int, root: bytes, at_ms: int) -> bool:
        """Whether a checkpoint was signed over what is declared as lost."""
        if size == self.lost_entries and root.hex() != self.lost_root:
            return False
        return self.entries < size <= self.lost_entries and at_ms <= self.lost_at


class _KeptHead(NamedTuple):
    """One kept checkpoint whose signature holds."""

    size: int
    at_ms: int
    root: bytes
    cosigned: bool


@dataclass
class _Source:
    """Kept checkpoints of one place by size, the next one first. `fits`: entries under the last that fitted."""

    name: str
    heads: Iterator[_KeptHead]
    head: _KeptHead | None = None
    fits: int = 0
    fitted: int = 0
    lost: int = 0

    def advance(self) -> None:
        """Go to the next one."""
        self.head = next(self.heads, None)


class _Memory:
    """Checkpoints on disk: those kept elsewhere, to be met in the order of their size, and the log's own."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file
        self._database.execute(
            "CREATE TABLE kept (source TEXT, own INTEGER, size INTEGER, at INTEGER, root BLOB, cosigned INTEGER,"
            " text BLOB, PRIMARY KEY (source, size, at, text)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE own (text BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE unfit (source TEXT, size INTEGER, at INTEGER, root BLOB, fits INTEGER)")

    def keep(self, source: str, own: bool, head: Head) -> None:
        """A checkpoint that was kept in `source`."""
        row = (source, own, head.size, head.at_ms, head.root, head.cosigned, _digest(head))
        self._database.execute("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def meet(self, head: Head) -> None:
        """A checkpoint of the log itself."""
        self._database.execute("INSERT OR IGNORE INTO own VALUES (?)", (_digest(head),))

    def of(self, source: str) -> Iterator[_KeptHead]:
        """What was kept in a source, by size."""
        query = "SELECT size, at, root, cosigned FROM kept WHERE source = ? ORDER BY size, at"
        return (_KeptHead(row[0], row[1], row[2], bool(row[3])) for row in self._database.execute(query, (source,)))

    def missing(self, size: int, at_ms: int) -> Iterator[tuple[str, int, int, bytes]]:
        """Source, size, time and root of what should be among the log's own: over `size` entries, signed at `at_ms`,
        at most.
        """
        query = (
            "SELECT source, size, at, root FROM kept LEFT JOIN own USING (text)"
            " WHERE kept.own AND own.text IS NULL AND size <= ? AND at <= ? ORDER BY size, at"
        )
        return ((row[0], row[1], row[2], row[3]) for row in self._database.execute(query, (size, at_ms)))

    def doubt(self, source: "_Source", head: _KeptHead) -> None:
        """A kept checkpoint that does not fit: told at the end, unless a loss explains it."""
        row = (source.name, head.size, head.at_ms, head.root, source.fits)
        self._database.execute("INSERT INTO unfit VALUES (?, ?, ?, ?, ?)", row)

    def doubts(self) -> Iterator[tuple[str, int, int, bytes, int]]:
        """Source, size, time, root of each of them, and how many entries the last one that fitted covered."""
        return iter(self._database.execute("SELECT source, size, at, root, fits FROM unfit ORDER BY rowid"))


def _digest(head: Head) -> bytes:
    return sha256(head.text.encode()).digest()


class Verifier:
    """Takes the records of a log one after another and keeps only the edge of its tree in memory."""

    def __init__(
        self,
        keys: Keys,
        kept: Sequence[Kept] = (),
        announced: Announced | None = None,
        *,
        older: bool = False,
        known_losses: Sequence[str] = (),
    ) -> None:
        """`older` says that an export may be older than what was kept: what is behind its end is then not asked for.

        `known_losses` are lines of losses that whoever verifies knows of: what such a one covers is not missed. What
        the record says of losses excuses nothing by itself.
        """
        self.report = Report()
        self._keys = keys
        self._announced = announced
        self._older = older
        self._known_losses = frozenset(known_losses)
        self._excusing: list[Loss] = []  # declared in the record, and known to whoever verifies
        self._memory = _Memory()
        self._sources = [self._load(source) for source in kept]
        self._witnessed = any(not source.own for source in kept)
        self._tree = Frontier()
        self._next = 0  # position
        self._gap = False  # a position was missing: roots cannot be compared any more
        self._own = _Source("the log itself", iter(()))
        self._number = 0
        self._last: Head | None = None
        self._cosigned = False  # whether any fitting checkpoint is
        self._begun = self._ended = False
        self._live = False  # straight from the database
        self._placed_ms = 0  # when the youngest event that has a place was made
        self._unannounced = 0
        self._losses: list[Loss] = []  # declared
        self._decided: dict[str, tuple[str, bool]] = {}  # by order: its hash, and whether it was done; until it is met
        if announced is not None:
            if not announced.events:
                self.report.found("the log stream", "it announces no event")
            self._sources.append(self._load(Kept("the log stream", announced.notes), may_be_empty=True))

    def take(self, record: Mapping[str, Any]) -> None:
        """One record; what is wrong with it goes into the report."""
        try:
            kind = next(iter(record))
            if (kind == "bundle") is self._begun or self._ended:
                self.report.found("the export", "its first record is no header, or a record stands where none may")
            if kind == "entry":
                self._take_entry(record)
            elif kind == "checkpoint":
                self._take_checkpoint(record)
            elif kind == "node":
                self._take_node(*record["node"])
            elif kind == "unsealed":
                self._take_unsealed(str(record["unsealed"]), record)
            elif kind == "order":
                self._take_order(str(record["order"]), record["body"], record["texts"])
            elif kind == "orphan":
                self.report.found(f"{record['orphan']} {record['id']}", str(record["what"]))
            elif kind == "bundle":
                self._take_header(record)
            elif kind == "end":
                self._ended = True
                if (record["entries"], record["checkpoints"]) != (self._tree.size, self._number):
                    self.report.found("the export", "it says another number of entries or checkpoints at its end")
            else:
                self.report.found("the export", "it has a record of an unknown kind")
        except (
            StopIteration,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            self.report.found(f"the record after entry {self._tree.size - 1}", "it has not the form of a record")
        self._begun = True

    def finish(self) -> Report:
        """The report, when every record was taken."""
        report = self.report
        self._meet_kept()
        self._judge_losses()
        report.entries = self._tree.size
        if not self._ended:
            report.found("the export", "its end is missing")
        for source in self._sources:
            self._check_beyond(source)
        newest_ms = self._last.at_ms if self._last else 0
        for name, size, at_ms, root in self._memory.missing(self._tree.size, _FOREVER if self._live else newest_ms):
            if not self._is_lost(size, root, at_ms) and not self._is_lost_repeat(size, at_ms):
                report.found(f"the checkpoint of {_time(at_ms)} in {name}", "it is not among the log's own checkpoints")
        if report.covered == 0 < report.entries and not self._gap:
            report.found("the checkpoints", "none covers an entry")
        if report.newest_ms - report.made_ms > _CLOCK_MS:
            report.found("the export", "it says that it was made before its newest checkpoint was")
        if self._keys.witness and (report.cosigned < report.covered or not self._cosigned):
            what = f"the witness has cosigned {report.cosigned} entries, the newest checkpoint covers {report.covered}"
            report.found(f"entries {report.cosigned} to {report.covered - 1}", what)
        if report.covered < report.entries:
            report.noted(f"entries {report.covered} to {report.entries - 1} stand under no checkpoint yet")
        if report.newest_ms and report.made_ms - report.newest_ms > SILENCE_MS:
            silence = f"no checkpoint since {_time(report.newest_ms)}"
            # A record that was cut back looks like this, too, whoever cosigned it then; the witness's file would tell.
            if self._live and self._keys.witness and not self._witnessed:
                report.found("the checkpoints", f"{silence}: nobody seals, or the record was cut back (--witness-file)")
            else:
                report.noted(silence)
        for order_id in self._decided:
            report.found(f"order {order_id}", "the record says that it was decided, but it is gone")
        if report.unsealed:
            report.noted(f"{report.unsealed} events wait for their place in the log")
        self._check_announced(newest_ms)
        return report

    def _take_header(self, record: Mapping[str, Any]) -> None:
        if record["bundle"] not in BUNDLE_FORMATS:
            self.report.found("the export", "it is of a form that this verifier does not know")
        self.report.origin = str(record["origin"])
        self.report.made_ms, self._live = int(record["made_ms"]), record.get("live") is True

    def _take_entry(self, record: Mapping[str, Any]) -> None:
        position, event_id = record["entry"], str(record["id"])
        where = f"entry {position} (event {event_id})"
        if position != self._next:
            self._gap = True
            self.report.found(f"entry {self._next}", f"it is missing: the log goes on with entry {position}")
        self._next = position + 1
        stored = bytes.fromhex(record["leaf"])
        _need_hashes([stored])
        leaf = self._check_event(where, event_id, record)
        if leaf is not None and leaf != stored:
            self.report.found(where, "the event was changed: it is not the one that this entry was made of")
        made_ms = _made_ms(event_id)
        if made_ms < self._overtaken_ms:
            self.report.noted(f"{where} got its place long after much younger events: was it held back?")
        self._placed_ms = max(self._placed_ms, made_ms)
        # With the stored leaf the tree goes on as it was signed, so that every later fault is named by itself.
        self._meet_kept()
        self._tree.append(stored)

    @property
    def _overtaken_ms(self) -> int:
        """What was made before this, and has no place yet, was kept out. No id from the future counts for more."""
        return min(self._placed_ms, self._last.at_ms if self._last else 0) - SILENCE_MS

    def _take_unsealed(self, event_id: str, record: Mapping[str, Any]) -> None:
        where = f"event {event_id}, not in the log yet"
        self.report.unsealed += 1
        self._check_event(where, event_id, record)
        if _made_ms(event_id) < self._overtaken_ms:
            self.report.found(where, "it was kept out of the log: much younger events have their places")

    def _check_event(self, where: str, event_id: str, record: Mapping[str, Any]) -> bytes | None:
        """Check an event with its rows; its leaf hash, None when it is gone."""
        body, rows = record["event"], record["disclosures"]
        if body is None:
            self.report.found(where, "its event is gone")
            return None
        if not isinstance(rows, list) or not all(map(_is_row, rows)):
            raise ValueError
        digest = sha256(body.encode()).hexdigest()
        if record["hash"] != digest:
            self.report.found(where, "the event's hash is not that of its body")
        for wrong in check_event(body, event_id, rows):
            self.report.found(where, wrong)
        event = json.loads(body) if '_sha256":' in body else {}
        self._check_texts("event", where, event_id, event if isinstance(event, dict) else {}, record.get("texts", []))
        if event.get("kind") == "order" and "order_sha256" in event:
            decided = str(event["order_sha256"]), event.get("outcome") == "done"
            if self._decided.setdefault(str(event["order"]), decided) != decided:
                self.report.found(where, f"order {event['order']} was decided before, otherwise")
            if "loss_entries" in event and event.get("outcome") == "done":
                self._take_loss(event)
        if '"asked_sha256":' in body and not record["linkage"]:
            self.report.found(where, "its sealed list of the tokens asked about is gone")
        if self._announced is not None:
            met = self._announced.meet(event_id, digest)
            if met is False:
                self.report.found(where, "the log stream announced another event under this id")
            elif met is None and self._announced.first < event_id < self._announced.last:
                self._unannounced += 1
                if self._unannounced <= _MOST_NAMED:
                    self.report.noted(f"the log stream: it never announced {where}")
        self.report.disclosures += len(rows)
        return leaf_hash(body.encode())

    def _check_texts(self, what: str, where: str, of: str, hashes: Mapping[str, Any], rows: Sequence[Any]) -> None:
        wrong, gone = check_texts(of, _TEXTS[what], hashes, rows)
        for words in wrong:
            self.report.found(where, words)
        for name in gone:
            self.report.gone += 1
            self.report.noted(f"{where}: its {name} is gone; what it was is not known any more, that it was is")

    def _take_loss(self, event: Mapping[str, Any]) -> None:
        numbers = [event[name] for name in ("loss_entries", "loss_lost_entries", "loss_lost_at", "loss_until", "at")]
        if not all(type(number) is int for number in numbers):
            raise ValueError
        entries, lost_entries, lost_at, until, at_ms = numbers
        where = f"entry {self._tree.size} (order {event['order']})"
        if not lost_at - _CLOCK_MS <= until <= at_ms + _CLOCK_MS or not 0 <= entries < lost_entries:
            self.report.found(where, "it declares as lost what can not have been signed by then")
            return
        signers = tuple(map(str, event["signed_by"]))
        since = self._last.at_ms - _CLOCK_MS if self._last else 0  # since then nothing was signed
        roots = str(event["loss_root_sha256"]), str(event["loss_lost_root_sha256"])
        span = (entries, roots[0], lost_entries, roots[1], lost_at, since, until)
        self._losses.append(Loss(str(event["order"]), signers, *span, position=self._tree.size))

    def _judge_losses(self) -> None:
        """Tell what is declared. It excuses only what whoever verifies knows of, and once a checkpoint covers it."""
        self.report.losses = [loss for loss in self._losses if loss.position < self.report.covered]
        self._excusing = [loss for loss in self.report.losses if loss.line in self._known_losses]
        for loss in self.report.losses:
            by = " and ".join(loss.signers)
            self.report.noted(
                f"DECLARED LOSS: what was signed over entries {loss.entries} to {loss.lost_entries - 1} until "
                f"{_time(loss.lost_at)} is gone; entry {loss.position} declares it, order {loss.order}, signed by {by}"
            )
            if loss not in self._excusing:
                self.report.noted(f"if you know of this loss, from those who signed: --known-loss '{loss.line}'")
        for line in self._known_losses - {loss.line for loss in self.report.losses}:
            self.report.found("the known losses", f"the record declares no loss {line}, under a checkpoint")
        for name, size, at_ms, root, fits in self._memory.doubts():
            if self._is_lost(size, root, at_ms):
                for source in self._sources:
                    source.lost += source.name == name
            else:
                where = f"the checkpoint of {_time(at_ms)} in {name}"
                span = f"an entry from {fits} to {size - 1}"
                self.report.found(where, f"its root is another: {span} was changed, or it is of another history")

    def _is_lost(self, size: int, root: bytes, at_ms: int) -> bool:
        return any(loss.covers(size, root, at_ms) for loss in self._excusing)

    def _is_lost_repeat(self, size: int, at_ms: int) -> bool:
        """Whether it fits, and was signed after the last checkpoint that is left and before the last that was lost."""
        return any(size <= loss.entries and loss.since < at_ms <= loss.lost_at for loss in self._excusing)

    def _take_order(self, order_id: str, body: str, rows: Sequence[Any]) -> None:
        """An order as it was signed, met after the events of all that were decided."""
        where = f"order {order_id}"
        decided, done = self._decided.pop(order_id, ("", False))
        if decided and sha256(body.encode()).hexdigest() != decided:
            self.report.found(where, "it is not the order that was decided")
        elif done:  # of what waits or was refused anybody may have made anything
            signed = json.loads(body)["arguments"]
            ours = [row for row in rows if f"{row[0]}_sha256" in signed]  # anybody who may ask can put others there
            self._check_texts("order", where, order_id, signed, ours)

    def _take_checkpoint(self, record: Mapping[str, Any]) -> None:
        where = f"checkpoint {record['checkpoint']}"
        self._number += 1
        if record["checkpoint"] != self._number:
            self.report.found(f"checkpoint {self._number}", f"it is missing: the next one is {record['checkpoint']}")
            self._number = int(record["checkpoint"])
        head = self._head(where, str(record["note"]))
        if head is None:
            return
        self.report.checkpoints += 1
        if (head.size, head.at_ms) != (record["size"], record["at"]):
            self.report.found(where, "the size or time beside it is not the signed one")
        if self._last is not None:
            if head.at_ms <= self._last.at_ms or head.size < self._last.size:
                self.report.found(where, "it is not later than the one before it")
            elif head.at_ms - self._last.at_ms > SILENCE_MS:
                self.report.noted(f"no checkpoint between {_time(self._last.at_ms)} and {_time(head.at_ms)}")
            if head.origin != self._last.origin:
                self.report.noted(f"from {where} on the log is called {head.origin}: was it restored?")
        self._last = head
        self._memory.meet(head)
        self._compare(where, _KeptHead(head.size, head.at_ms, head.root, head.cosigned), self._own)

    def _take_node(self, level: int, position: int, stored: str | None) -> None:
        """A stored subtree root, met when its last leaf was taken."""
        if type(level) is not int or type(position) is not int or not 1 <= level <= _HIGHEST_LEVEL or position < 0:
            raise ValueError
        size = 256**level
        where = f"node {position} of level {level} (entries {position * size} to {(position + 1) * size - 1})"
        if self._gap or self._tree.size != (position + 1) * size:
            return
        if stored is None:
            self.report.found(where, "it is missing")
        elif self._tree.completed[level - 1].hex() != stored:
            self.report.found(where, "it is not the root of its entries")

    def _head(self, where: str, note: str) -> Head | None:
        try:
            return check_note(note, self._keys)
        except InvalidError as error:
            self.report.found(where, str(error))
            return None

    def _compare(self, where: str, head: _KeptHead, source: _Source) -> None:
        """Hold a signed head against the tree, which has as many entries, or tell why it cannot be."""
        if self._gap:
            return
        if head.size != self._tree.size:
            if head.size > self._tree.size:
                gone = head.size - self._tree.size
                self.report.found(where, f"it covers {head.size} entries: the last {gone} were removed")
            else:
                self.report.found(where, f"it covers {head.size} entries, but comes after one of more")
        elif head.root != self._tree.root():
            if source is not self._own:
                self._memory.doubt(source, head)
                return
            span = f"an entry from {source.fits} to {head.size - 1}"
            self.report.found(where, f"its root is another: {span} was changed, or it is of another history")
        else:
            source.fits = self.report.covered = head.size
            source.fitted += 1
            self.report.newest_ms = max(self.report.newest_ms, head.at_ms)
            if head.cosigned:
                self._cosigned = True
                self.report.cosigned = head.size

    def _load(self, kept: Kept, *, may_be_empty: bool = False) -> _Source:
        """Take in what was kept, each checkpoint checked by itself; a place that holds none proves nothing."""
        empty = True
        for note in kept.notes:
            empty = False
            if head := self._head(f"a checkpoint in {kept.name}", note):
                self._memory.keep(kept.name, kept.own, head)
        if empty and not may_be_empty:
            self.report.found(kept.name, "it holds no checkpoint")
        source = _Source(kept.name, self._memory.of(kept.name))
        source.advance()
        return source

    def _meet_kept(self) -> None:
        """Compare the kept checkpoints, and known losses, over as many entries as there are now."""
        for line in self._known_losses:
            entries, root = line.split(" ")[:2]
            if entries == str(self._tree.size) and root != self._tree.root().hex():
                self.report.found("the known losses", f"the record's first {entries} entries are not those of a loss")
        for source in self._sources:
            while source.head is not None and source.head.size <= self._tree.size:
                self._compare(f"the checkpoint of {_time(source.head.at_ms)} in {source.name}", source.head, source)
                source.advance()

    def _check_beyond(self, source: _Source) -> None:
        """Kept checkpoints over more entries than there are: the log lost its end, or the export is older."""
        furthest, count, newer = None, 0, 0
        while source.head is not None:
            if self._is_lost(source.head.size, source.head.root, source.head.at_ms):
                source.lost += 1
            elif self._older and not self._live and self._last and source.head.at_ms > self._last.at_ms:
                newer += 1
            else:
                furthest, count = source.head, count + 1
            source.advance()
        self.report.noted(f"{source.name}: {source.fitted} checkpoints fit, the last over {source.fits} entries")
        if source.lost:
            self.report.noted(f"{source.name}: {source.lost} checkpoints cover entries that are declared as lost")
        if newer:
            self.report.noted(f"{source.name}: {newer} checkpoints are newer than the export, and were not asked for")
        if furthest is not None:
            signed = f"{furthest.size} entries were signed at {_time(furthest.at_ms)}, {self._tree.size} are there"
            where = f"entries {source.fits} to {furthest.size - 1}, by {count} checkpoints in {source.name}"
            older = "" if self._live else ", or the export is older (--older)"
            self.report.found(where, f"{signed}: the end was removed, another history begins{older}")

    def _check_announced(self, newest_ms: int) -> None:
        if self._announced is None:
            return
        for event_id in self._announced.contradictions:
            self.report.found(f"event {event_id}", "the log stream announced it twice, with different hashes")
        newer = left = lost = 0
        for event_id in self._announced.left():
            left += 1
            if self._older and not self._live and _made_ms(event_id) > newest_ms - _CLOCK_MS:
                newer += 1
            elif any(loss.since <= _made_ms(event_id) <= loss.until for loss in self._excusing):
                lost += 1
                if lost <= _MOST_NAMED:
                    self.report.noted(f"the log stream: event {event_id} was lost, as declared")
            else:
                self.report.found(f"event {event_id}", "the log stream announced it, but it is not in the record")
        self.report.noted(f"the log stream: {self._announced.events - left} of {self._announced.events} events met")
        if lost:
            self.report.noted(f"the log stream: {lost} events that it announced are in the span declared as lost")
        if self._unannounced:
            self.report.noted(
                f"the log stream: {self._unannounced} events were never announced: their server's log was not given or "
                "copied earlier than another's, or the server was killed or cut off while it committed, or no server "
                "made them"
            )
        if newer:
            self.report.noted(f"the log stream: {newer} events are newer than the export, and were not asked for")


def _is_row(row: object) -> bool:
    """Whether it is a disclosure row: a position, and four texts."""
    return isinstance(row, list) and list(map(type, row)) == [int, str, str, str, str]


def _is_time(value: object) -> bool:
    """Whether it is a time in milliseconds since 1970, before the year 10000."""
    return type(value) is int and 0 <= value < _LAST_MS


def _made_ms(event_id: str) -> int:
    """When an event was made, by its id (UUIDv7: RFC 9562, section 5.7); 0 for what is none."""
    try:
        return int(event_id[:8] + event_id[9:13], 16)
    except ValueError:
        return 0


def _time(milliseconds: int) -> str:
    if not 0 <= milliseconds < _LAST_MS:
        return f"{milliseconds} ms"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_bundle(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of an export, line by line; a line that is no JSON object comes as an empty record."""
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = {}
            yield record if isinstance(record, dict) else {}


def words(report: Report) -> Iterator[str]:
    """A report for people, a line each; what stands in the record cannot write lines of its own."""
    for finding in report.findings:
        yield _plain(f"WRONG  {finding.where}: {finding.what}")
    if report.count > len(report.findings):
        yield f"WRONG  .. and {report.count - len(report.findings)} more"
    yield from (_plain(f"note   {note}") for note in report.notes)
    covered = f"the newest checkpoint, of {_time(report.newest_ms)}, covers {report.covered}"
    verdict = "NOT AS SIGNED" if report.count else "verified"
    yield _plain(
        f"{verdict}: {report.entries} entries with {report.disclosures} disclosure rows, "
        f"{report.checkpoints} checkpoints; {covered if report.newest_ms else 'no checkpoint covers them'}"
    )


def _plain(text: str) -> str:
    """Text with everything that a terminal could take for more than text written out."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def proof_words(event: Mapping[str, Any], row: Mapping[str, Any], head: Head) -> Iterator[str]:
    """What a proof proves, for people, a line each."""
    yield _plain(f"proven: token {row['token']} of domain {row['domain']}, {row['outcome']}")
    for name in ("id", "kind", "client", "person", "purpose", "agreement", "view", "justification"):
        if event.get(name):
            yield _plain(f"  {name:14} {event[name]}")
    yield f"  {'at':14} {_time(int(event['at']))}"
    yield _plain(f"  {'sealed':14} {_time(head.at_ms)}, {head.origin}, {head.size} entries")


def main(arguments: Sequence[str], write: Callable[[str], object] = print) -> int:
    """Verify an export or a proof; 0 when it holds, 1 when it does not, 2 when it cannot be looked at."""
    parser = argparse.ArgumentParser(description="Verify an ssn-vault export or disclosure proof, offline.")
    parser.add_argument("file", type=Path, help="what `audit export` or `audit prove` wrote")
    parser.add_argument("--public-key", type=Path, required=True, help="the log's public keys (PEM)")
    parser.add_argument("--witness-key", type=Path, help="demand this witness's cosignature (vkey)")
    parser.add_argument("--checkpoints", type=Path, action="append", default=[], help="the log's checkpoint file")
    parser.add_argument("--witness-file", type=Path, action="append", default=[], help="a witness's checkpoint file")
    parser.add_argument("--stream", type=Path, action="append", default=[], help="a server's log")
    parser.add_argument("--known-loss", action="append", default=[], help="a loss you know of: accept-loss's line")
    parser.add_argument("--older", action="store_true", help="the export is older than what was kept")
    given = parser.parse_args(arguments)
    try:
        keys = read_keys(given.public_key, given.witness_key)
        with given.file.open("rb") as file:
            is_proof = file.read(3) != b'{"b'
        if is_proof and (given.checkpoints or given.witness_file or given.stream):
            lines, status = ["a proof is checked against keys alone: leave the other files away"], 2
        elif is_proof:
            event, row, head = check_proof(given.file.read_text("utf-8"), keys)
            lines, status = list(proof_words(event, row, head)), 0
        else:
            kept = (given.checkpoints, given.witness_file, given.stream)
            report = verify_all(read_bundle(given.file), keys, *kept, older=given.older, known_losses=given.known_loss)
            lines, status = list(words(report)), int(report.count > 0)
    except InvalidError as error:
        lines, status = [f"WRONG  {error}"], 1
    except (OSError, UnicodeDecodeError) as error:
        lines, status = [f"a file cannot be read: {type(error).__name__}"], 2
    for line in lines:
        write(line)
    return status


def verify_all(
    records: Iterable[Mapping[str, Any]],
    keys: Keys,
    checkpoint_files: Sequence[Path] = (),
    witness_files: Sequence[Path] = (),
    streams: Sequence[Path] = (),
    *,
    older: bool = False,
    known_losses: Sequence[str] = (),
) -> Report:
    """Verify records against what was kept elsewhere. OSError when a file cannot be read.

    What was kept is looked at first: a log that goes on meanwhile has everything that stood there by then. An
    export that is older than what was kept needs `older`.
    """
    kept = [Kept(str(path), notes_in(path, keys)) for path in checkpoint_files]
    kept += [Kept(str(path), notes_in(path, keys), own=False) for path in witness_files]
    announced = Announced() if streams else None
    for path in streams:
        if announced is not None:
            announced.read(path)
    verifier = Verifier(keys, kept, announced, older=older, known_losses=known_losses)
    for record in records:
        verifier.take(record)
    return verifier.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
