"""The tables, as SQLAlchemy Core sees them. Migrations make them; repositories read and write them.

Times are milliseconds since 1970 UTC, dates are `YYYY-MM-DD`. No column ever holds a number in the clear.
On PostgreSQL every text of a key or an index has the collation C, as SQLite's has: a new one is made so.
Tables marked append-only refuse UPDATE and DELETE by trigger, and the server's role has no right to either.
"""

from typing import Final

import sqlalchemy as sa

metadata: Final = sa.MetaData()

# One row. `epoch` is the position of the last control order in force; every call's transaction reads it.
control: Final = sa.Table(
    "control",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="control_has_one_row"),
)

# Orders as people signed them. Append-only; admins insert.
admin_order: Final = sa.Table(
    "admin_order",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # canonical JSON (RFC 8785): what was signed
)
order_signature: Final = sa.Table(
    "order_signature",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("admin_order.id"), primary_key=True),
    sa.Column("person", sa.Text, primary_key=True),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),  # Ed25519 (RFC 8032), 64 bytes
)

# What people wrote into orders: form 2 carries hashes of these. Append-only; admins insert.
order_text: Final = sa.Table(
    "order_text",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("admin_order.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

# Orders in force, densely numbered from 1: the state of policy, keys, freezes and approvals is their fold.
control_log: Final = sa.Table(
    "control_log",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("order_id", sa.Text, sa.ForeignKey("admin_order.id"), nullable=False, unique=True),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
)
# What became of each order that was decided: done, or refused with the reason in words.
order_outcome: Final = sa.Table(
    "order_outcome",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("admin_order.id"), primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

# One row a number and domain. `blind_index` is unique in its domain and key version: promise 4 rests on it.
token_record: Final = sa.Table(
    "token_record",
    metadata,
    sa.Column("token", sa.Text, primary_key=True),
    sa.Column("domain", sa.Text, nullable=False),
    sa.Column("index_version", sa.Integer, nullable=False),
    sa.Column("blind_index", sa.LargeBinary, nullable=False),  # HMAC-SHA-256, 32 bytes
    sa.Column("data_version", sa.Integer, nullable=False),
    sa.Column("ciphertext", sa.LargeBinary, nullable=False),  # nonce, AES-256-GCM of the payload, tag
    sa.Column("destroy_by", sa.Text, nullable=False),
    sa.Column("set_aside", sa.Text),  # the order that says: it does not open, and keeps no key version in use
    sa.UniqueConstraint("domain", "index_version", "blind_index", name="one_token_per_number"),
    sa.Index("token_record_by_data_version", "domain", "data_version"),
)

# Servers that run, and the epoch whose keys each has loaded: a new key version waits for them.
replica: Final = sa.Table(
    "replica",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)
# Long work that an order asked for. One server at a time holds a job; where it stands is committed with each batch.
job: Final = sa.Table(
    "job",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("admin_order.id"), primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),  # rows to move when it began
    sa.Column("moved", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),  # rows that did not open
    sa.Column("step", sa.Text, nullable=False),  # which table is walked
    sa.Column("version", sa.Integer, nullable=False),  # of the index that is walked
    sa.Column("position", sa.LargeBinary, nullable=False),  # the walk is behind this key
    sa.Column("holder", sa.Text, nullable=False),  # a replica; empty for none
    sa.Column("held_until", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
)
# Rows that a job met and that did not open: a token of a domain, or the event of an agreement's list. `set_aside` is
# the order that set the row aside.
damaged_row: Final = sa.Table(
    "damaged_row",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("found_at", sa.BigInteger, nullable=False),
    sa.Column("set_aside", sa.Text),
)
# Encryptions under each data key, counted ahead in blocks: never less than there were.
encryption_count: Final = sa.Table(
    "encryption_count",
    metadata,
    sa.Column("domain", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
)

# The disclosure record. Append-only. `hash` is SHA-256 of `body`, which is canonical JSON.
event: Final = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # UUIDv7 (RFC 9562): sorts by time
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
# One row a token that was asked for (misses too) or matched from the other side. Append-only.
disclosure: Final = sa.Table(
    "disclosure",
    metadata,
    sa.Column("event_id", sa.Text, sa.ForeignKey("event.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("domain", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),  # `invalid` for one that does not exist
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),  # hides the row from who sees only its hash
    sa.Index("disclosure_by_token", "token"),
)

# What people wrote into calls: events of form 3 carry hashes of these. Append-only.
event_text: Final = sa.Table(
    "event_text",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

# The Merkle log over the events (RFC 6962, section 2.1). An event's id waits in `log_pending`, put there by the
# transaction that inserts the event; the sequencer moves it to `log_leaf`, at a dense position from 0. No foreign
# keys: checking them would cost every call, and who could break them could drop them.
log_pending: Final = sa.Table("log_pending", metadata, sa.Column("event_id", sa.Text, primary_key=True))
log_leaf: Final = sa.Table(
    "log_leaf",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),  # SHA-256(0x00 || body)
    sa.CheckConstraint("position >= 0", name="log_begins_at_0"),
)
# Roots of complete subtrees of 256^level leaves: with them a proof reads a few hundred hashes of any log.
log_node: Final = sa.Table(
    "log_node",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
# Signed tree heads (C2SP tlog-checkpoint), with the witness's cosignature if it gave one. Dense from 1.
log_checkpoint: Final = sa.Table(
    "log_checkpoint",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
# One row: the server that seals the log, and until when it may.
log_lease: Final = sa.Table(
    "log_lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("held_until", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="log_lease_has_one_row"),
)
# What each place outside the database has acknowledged: entries, and when.
log_sink: Final = sa.Table(
    "log_sink",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("acknowledged_at", sa.BigInteger, nullable=False),
)

# Spending of the rolling day, in buckets of a minute. `budget_account` is the row that races wait for.
budget_account: Final = sa.Table("budget_account", metadata, sa.Column("key", sa.Text, primary_key=True))
budget_spend: Final = sa.Table(
    "budget_spend",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
)
approval_spend: Final = sa.Table(
    "approval_spend",
    metadata,
    sa.Column("approval_id", sa.Text, primary_key=True),
    sa.Column("spent", sa.BigInteger, nullable=False),
)
# Request ids of the last 24 hours, with a keyed digest of the tokens.
request_seen: Final = sa.Table(
    "request_seen",
    metadata,
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("method", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

# Linkage ids: random, under the agreement's own key, which no other agreement nor the database can join.
linkage_id: Final = sa.Table(
    "linkage_id",
    metadata,
    sa.Column("agreement", sa.Text, primary_key=True),
    sa.Column("key_version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("blind_index", sa.LargeBinary, primary_key=True),
    sa.Column("linkage_id", sa.Text, nullable=False, unique=True),
)
# The tokens that a linkage call asked about, readable under the agreement's key only. A rotation of that key seals
# them anew; nothing is ever deleted.
linkage_record: Final = sa.Table(
    "linkage_record",
    metadata,
    sa.Column("event_id", sa.Text, sa.ForeignKey("event.id"), primary_key=True),
    sa.Column("agreement", sa.Text, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    sa.Column("set_aside", sa.Text),  # as in token_record
    sa.Index("linkage_record_by_version", "agreement", "key_version"),
)

APPEND_ONLY: Final = (
    "admin_order",
    "order_signature",
    "control_log",
    "order_outcome",
    "order_text",
    "event",
    "event_text",
    "disclosure",
    "log_leaf",
    "log_node",
    "log_checkpoint",
)
