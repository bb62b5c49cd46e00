"""A sealed record under a test's hands: its rows, mutations of them as the database's superuser, and verification.

A mutation happens in a transaction that is rolled back, and is verified from inside it, so that a thousand of
them take a minute and each begins from the same record.
"""

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from tests.support.stack import Stack
from vault_service.audit import export, verify
from vault_service.audit.checkpoint import ED25519, Checkpoint, signature_line
from vault_service.audit.merkle import Edge, Tree, leaf_hash
from vault_service.keys.log_signer import LogSigner
from vault_service.storage import log
from vault_service.storage.tables import disclosure, event, linkage_record, log_checkpoint, log_leaf, log_node

_PLACE = re.compile(r"(?:entry|entries)(?: from)? (\d+)(?: to (\d+))?")


@dataclass
class Record:
    """The rows of a record as they were when nothing had been touched, and what verifies them."""

    stack: Stack
    origin: str = "ssn-vault.dev/audit"
    leaves: list[Any] = field(default_factory=list)
    bodies: dict[str, str] = field(default_factory=dict)
    disclosures: list[Any] = field(default_factory=list)
    checkpoints: list[Any] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    signer: LogSigner | None = None

    def load(self) -> None:
        """Read everything once."""
        self.leaves = self.stack.query("SELECT position, event_id, hash FROM log_leaf ORDER BY position")
        self.bodies = {row[0]: row[1] for row in self.stack.query("SELECT id, body FROM event")}
        self.disclosures = self.stack.query(
            "SELECT event_id, position, token FROM disclosure ORDER BY event_id, position"
        )
        self.checkpoints = self.stack.query("SELECT number, size, at, note FROM log_checkpoint ORDER BY number")
        self.linked = [row[0] for row in self.stack.query("SELECT event_id FROM linkage_record ORDER BY event_id")]
        self.signer = LogSigner(self.stack.root())

    @property
    def covered(self) -> int:
        """Entries under the newest checkpoint."""
        return int(self.checkpoints[-1].size)

    @property
    def keys(self) -> verify.Keys:
        """The log's keys, from the file that was kept."""
        return verify.read_keys(self.stack.home.directory / "audit.pub.pem")

    def position_of(self, event_id: str) -> int:
        """Where an event stood."""
        return next(int(leaf.position) for leaf in self.leaves if leaf.event_id == event_id)

    def verify(self, connection: sa.Connection) -> verify.Report:
        """As `audit verify --home` does it."""
        records = export.records(connection, self.origin, live=True)
        return verify.verify_all(records, self.keys, [self.stack.home.checkpoint_file])

    @contextmanager
    def superuser(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """A transaction in which no trigger and no foreign key stands in the way; rolled back."""
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                connection.exec_driver_sql("ALTER TABLE log_leaf DROP CONSTRAINT log_begins_at_0")
            else:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA foreign_keys = OFF")
                driver.execute("PRAGMA ignore_check_constraints = ON")
                for (name,) in connection.exec_driver_sql(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                ).all():
                    connection.exec_driver_sql(f"DROP TRIGGER {name}")
            try:
                yield connection
            finally:
                connection.rollback()


def places(report: verify.Report) -> list[tuple[int, int]]:
    """The entries that findings name, as ranges."""
    found = []
    for finding in report.findings:
        for first, last in _PLACE.findall(f"{finding.where} {finding.what}"):
            found.append((int(first), int(last or first)))
    return found


def names(report: verify.Report, position: int) -> bool:
    """Whether some finding names this entry, or a range that it lies in."""
    return any(first <= position <= last for first, last in places(report))


class Mutations:
    """Ways to falsify a record. Each does one to `connection`, and gives what the report must name."""

    def __init__(self, record: Record, seed: int) -> None:
        self.record = record
        self.random = random.Random(seed)

    def all(self) -> list[str]:
        """Their names."""
        return [name for name in dir(self) if name.startswith("do_")]

    # One field of one row

    def do_edit_body(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._set(c, event, event.c.id == leaf.event_id, body=self._other_body(leaf.event_id))
        return int(leaf.position)

    def do_edit_body_with_its_hash(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        body = self._other_body(leaf.event_id)
        self._set(c, event, event.c.id == leaf.event_id, body=body, hash=sha256(body.encode()).digest())
        return int(leaf.position)

    def do_edit_body_hash_and_leaf(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._rewrite(c, leaf, self._other_body(leaf.event_id))
        return int(leaf.position)

    def do_edit_body_and_the_whole_tree(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._rewrite(c, leaf, self._other_body(leaf.event_id))
        self._regrow(c)
        return int(leaf.position)

    def do_edit_event_hash(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._set(c, event, event.c.id == leaf.event_id, hash=self._bytes())
        return int(leaf.position)

    def do_edit_event_id(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._set(c, event, event.c.id == leaf.event_id, id=leaf.event_id[:-6] + f"{self.random.randrange(16**6):06x}")
        return int(leaf.position)

    def do_edit_leaf_hash(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._set(c, log_leaf, log_leaf.c.position == leaf.position, hash=self._bytes())
        return int(leaf.position)

    def do_edit_disclosure(self, c: sa.Connection) -> int:
        row = self._disclosure()
        column = self.random.choice(["event_id", "position", "domain", "token", "outcome", "salt"])
        value: object = {
            "event_id": self._leaf().event_id,
            "position": 500 + self.random.randrange(500),
            "domain": "highered",
            "token": f"k12_{self.random.randrange(10**6)}",
            "outcome": "missing",
            "salt": f"{self.random.getrandbits(128):032x}",
        }[column]
        same = (disclosure.c.event_id == row.event_id) & (disclosure.c.position == row.position)
        self._set(c, disclosure, same, **{column: value})
        return self.record.position_of(row.event_id)

    # Rows that go, come, or change places

    def do_delete_event(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        c.execute(sa.delete(event).where(event.c.id == leaf.event_id))
        if self.random.random() < 0.5:
            c.execute(sa.delete(disclosure).where(disclosure.c.event_id == leaf.event_id))
        return int(leaf.position)

    def do_delete_event_and_leaf(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        return self._delete(c, leaf)

    def do_delete_entry_and_close_the_gap(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        self._delete(c, leaf)
        c.execute(sa.update(log_leaf).where(log_leaf.c.position > leaf.position).values(position=-log_leaf.c.position))
        c.execute(sa.update(log_leaf).where(log_leaf.c.position < 0).values(position=-log_leaf.c.position - 1))
        if self.random.random() < 0.5:
            self._regrow(c)
        return int(leaf.position)

    def do_delete_disclosure(self, c: sa.Connection) -> int:
        row = self._disclosure()
        same = disclosure.c.position == row.position if self.random.random() < 0.5 else disclosure.c.position >= 0
        c.execute(sa.delete(disclosure).where(disclosure.c.event_id == row.event_id, same))
        return self.record.position_of(row.event_id)

    def do_insert_disclosure(self, c: sa.Connection) -> int:
        leaf = self._leaf()
        row = (leaf.event_id, 700, "k12", "k12_INVENTED", "found", "00" * 16)
        c.execute(sa.insert(disclosure), dict(zip(disclosure.c.keys(), row, strict=True)))
        return int(leaf.position)

    def do_insert_event(self, c: sa.Connection) -> str:
        body = self._other_body(self._leaf().event_id)
        identifier = f"01a20f78-0000-7000-8000-{self.random.randrange(16**12):012x}"
        values = {"id": identifier, "body": body, "hash": sha256(body.encode()).digest()}
        c.execute(sa.insert(event), values)
        return identifier

    def do_insert_before_the_first_entry(self, c: sa.Connection) -> str:
        identifier = self.do_insert_event(c)
        c.execute(sa.insert(log_leaf), {"position": -1, "event_id": identifier, "hash": self._bytes()})
        return identifier

    def do_delete_linkage_record(self, c: sa.Connection) -> int:
        event_id = self.random.choice(self.record.linked)
        c.execute(sa.delete(linkage_record).where(linkage_record.c.event_id == event_id))
        return self.record.position_of(event_id)

    def do_insert_disclosures_of_nobody(self, c: sa.Connection) -> str:
        identifier = f"01a20f78-0000-7000-8000-{self.random.randrange(16**12):012x}"
        row = (identifier, 0, "k12", "k12_INVENTED", "found", "00" * 16)
        c.execute(sa.insert(disclosure), dict(zip(disclosure.c.keys(), row, strict=True)))
        return identifier

    def do_swap_bodies(self, c: sa.Connection) -> int:
        one, two = self.random.sample(self.record.leaves[: self.record.covered], 2)
        for to, source in ((one, two), (two, one)):
            body = self.record.bodies[source.event_id]
            self._set(c, event, event.c.id == to.event_id, body=body, hash=sha256(body.encode()).digest())
        return int(one.position)

    def do_swap_positions(self, c: sa.Connection) -> int:
        one, two = self.random.sample(self.record.leaves[: self.record.covered], 2)
        self._set(c, log_leaf, log_leaf.c.position == one.position, position=10**9)
        self._set(c, log_leaf, log_leaf.c.position == two.position, position=one.position)
        self._set(c, log_leaf, log_leaf.c.position == 10**9, position=two.position)
        if self.random.random() < 0.5:
            self._regrow(c)
        return int(max(one.position, two.position)) if self.random.random() < 0.5 else int(one.position)

    def do_swap_disclosures(self, c: sa.Connection) -> int:
        row = self._disclosure(at_least=2)
        same = disclosure.c.event_id == row.event_id
        self._set(c, disclosure, same & (disclosure.c.position == 0), position=900)
        self._set(c, disclosure, same & (disclosure.c.position == 1), position=0)
        self._set(c, disclosure, same & (disclosure.c.position == 900), position=1)
        return self.record.position_of(row.event_id)

    def do_edit_node(self, c: sa.Connection) -> int:
        self._set(c, log_node, log_node.c.position == 0, hash=self._bytes())
        return self.random.randrange(256)

    # The end of the log, and whole histories

    def do_truncate(self, c: sa.Connection) -> int:
        """The last entries go, with or without the checkpoints over them: a rollback is the second."""
        left = self.random.randrange(self.record.covered)
        self._cut(c, left, checkpoints=self.random.random() < 0.7)
        return left

    def do_roll_back_to_a_checkpoint(self, c: sa.Connection) -> int:
        row = self.random.choice(self.record.checkpoints[:-1])
        if row.size == self.record.covered:
            row = self.record.checkpoints[0]
        self._cut(c, row.size, checkpoints=True)
        return int(row.size)

    def do_fork_under_the_real_key(self, c: sa.Connection) -> int:
        """An operator of the server goes on from an old state: every hash and every signature is right."""
        left = self.random.randrange(self.record.covered)
        self._cut(c, left, checkpoints=True)
        position = left
        for _ in range(self.random.randrange(1, 12)):
            body = self._other_body(self._leaf().event_id)
            fields = json.loads(body)
            fields["id"] = identifier = f"01a20f78-0000-7000-8000-{self.random.randrange(16**12):012x}"
            fields["disclosures"], fields["root"] = 0, verify.EMPTY_ROOT
            body = verify.canonical(fields)
            c.execute(sa.insert(event), {"id": identifier, "body": body, "hash": sha256(body.encode()).digest()})
            leaf = {"position": position, "event_id": identifier, "hash": leaf_hash(body.encode())}
            c.execute(sa.insert(log_leaf), leaf)
            position += 1
        self._regrow(c)
        self._sign(c, position)
        return left

    # Checkpoints

    def do_delete_checkpoint(self, c: sa.Connection) -> str:
        row = self.random.choice(self.record.checkpoints)
        c.execute(sa.delete(log_checkpoint).where(log_checkpoint.c.number == row.number))
        return "checkpoint"

    def do_delete_all_checkpoints(self, c: sa.Connection) -> str:
        c.execute(sa.delete(log_checkpoint))
        return "checkpoint"

    def do_edit_checkpoint(self, c: sa.Connection) -> str:
        row = self.random.choice(self.record.checkpoints)
        at = self.random.randrange(len(row.note))
        other = self.random.choice("0123456789abcdefXYZ+/=\n")
        column = self.random.choice(["size", "at", "note", "note", "note"])
        value: object = row.note[:at] + other + row.note[at + 1 :] if column == "note" else self.random.randrange(10**6)
        if value == row.note:
            value = row.note[::-1]
        self._set(c, log_checkpoint, log_checkpoint.c.number == row.number, **{column: value})
        return "checkpoint"

    def do_replace_checkpoint_by_another(self, c: sa.Connection) -> str:
        one, two = self.random.sample(self.record.checkpoints, 2)
        values = {"size": two.size, "at": two.at, "note": two.note}
        self._set(c, log_checkpoint, log_checkpoint.c.number == one.number, **values)
        return "checkpoint"

    # Helpers

    def _delete(self, c: sa.Connection, leaf: Any) -> int:
        c.execute(sa.delete(event).where(event.c.id == leaf.event_id))
        c.execute(sa.delete(disclosure).where(disclosure.c.event_id == leaf.event_id))
        c.execute(sa.delete(log_leaf).where(log_leaf.c.position == leaf.position))
        return int(leaf.position)

    def _leaf(self) -> Any:
        return self.random.choice(self.record.leaves[: self.record.covered])

    def _disclosure(self, at_least: int = 1) -> Any:
        counts: dict[str, int] = {}
        for row in self.record.disclosures:
            counts[row.event_id] = counts.get(row.event_id, 0) + 1
        return self.random.choice([row for row in self.record.disclosures if counts[row.event_id] >= at_least])

    def _bytes(self) -> bytes:
        return self.random.randbytes(32)

    def _other_body(self, event_id: str) -> str:
        """The event with one fact changed; canonical as before."""
        fields = json.loads(self.record.bodies[event_id])
        name = self.random.choice(sorted(fields))
        value = fields[name]
        fields[name] = (
            value + 1 if isinstance(value, int) else [*value, "x"] if isinstance(value, list) else value + "x"
        )
        return verify.canonical(fields)

    def _rewrite(self, c: sa.Connection, leaf: Any, body: str) -> None:
        self._set(c, event, event.c.id == leaf.event_id, body=body, hash=sha256(body.encode()).digest())
        self._set(c, log_leaf, log_leaf.c.position == leaf.position, hash=leaf_hash(body.encode()))

    @staticmethod
    def _regrow(c: sa.Connection) -> None:
        """Make the stored nodes those of the leaves that are there now."""
        c.execute(sa.delete(log_node))
        hashes = [bytes(row[0]) for row in c.execute(sa.select(log_leaf.c.hash).order_by(log_leaf.c.position))]
        nodes = Edge().add(hashes)
        if nodes:
            c.execute(sa.insert(log_node), [node._asdict() for node in nodes])

    @staticmethod
    def _set(c: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], **values: object) -> None:
        assert c.execute(sa.update(table).where(where).values(**values)).rowcount == 1

    def _cut(self, c: sa.Connection, left: int, *, checkpoints: bool) -> None:
        gone = [leaf.event_id for leaf in self.record.leaves if leaf.position >= left]
        for table, column in (
            (event, event.c.id),
            (disclosure, disclosure.c.event_id),
            (log_leaf, log_leaf.c.event_id),
        ):
            c.execute(sa.delete(table).where(column.in_(gone)))
        self._regrow(c)
        if checkpoints:
            c.execute(sa.delete(log_checkpoint).where(log_checkpoint.c.size > left))

    def _sign(self, c: sa.Connection, size: int) -> None:
        assert self.record.signer is not None
        root = Tree(lambda level, first, count: log.stored_hashes(c, level, first, count)).root(size)
        newest = log.newest_checkpoint(c)
        number, at = (newest.number + 1, newest.at + 1) if newest else (1, int(self.record.checkpoints[0].at))
        head = Checkpoint(self.record.origin, size, root, at)
        signed = self.record.signer.sign(head.text.encode())
        note = head.note([signature_line(head.origin, ED25519, signed.public_key, signed.signature)])
        c.execute(sa.insert(log_checkpoint), log.CheckpointRow(number, size, at, note)._asdict())
