"""The Merkle log over the events: what waits, leaves, nodes, checkpoints, who seals, and what sinks acknowledged."""

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"

# Events of before wait for the log like new ones do.
_TABLES: Final = """
CREATE TABLE log_pending (event_id TEXT NOT NULL PRIMARY KEY);
CREATE TABLE log_leaf (
    position BIGINT NOT NULL PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, hash {bytes} NOT NULL,
    CONSTRAINT log_begins_at_0 CHECK (position >= 0)
);
CREATE TABLE log_node (
    level INTEGER NOT NULL, position BIGINT NOT NULL, hash {bytes} NOT NULL, PRIMARY KEY (level, position)
);
CREATE TABLE log_checkpoint (
    number BIGINT NOT NULL PRIMARY KEY, size BIGINT NOT NULL, at BIGINT NOT NULL, note TEXT NOT NULL
);
CREATE TABLE log_lease (
    id INTEGER NOT NULL PRIMARY KEY, holder TEXT NOT NULL, held_until BIGINT NOT NULL,
    CONSTRAINT log_lease_has_one_row CHECK (id = 1)
);
CREATE TABLE log_sink (name TEXT NOT NULL PRIMARY KEY, size BIGINT NOT NULL, acknowledged_at BIGINT NOT NULL);
INSERT INTO log_lease (id, holder, held_until) VALUES (1, '', 0);
INSERT INTO log_pending (event_id) SELECT id FROM event
"""
_APPEND_ONLY: Final = ("log_leaf", "log_node", "log_checkpoint")

_POSTGRESQL_TRIGGER: Final = """
CREATE TRIGGER {table}_inserts_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""
_GRANTS: Final = """
GRANT SELECT ON log_pending, log_leaf, log_node, log_checkpoint, log_lease, log_sink TO ssn_vault_server;
GRANT INSERT ON log_pending, log_leaf, log_node, log_checkpoint, log_sink TO ssn_vault_server;
GRANT DELETE ON log_pending TO ssn_vault_server;
GRANT UPDATE ON log_lease, log_sink TO ssn_vault_server;
GRANT SELECT ON log_pending, log_leaf, log_node, log_checkpoint, log_lease, log_sink TO ssn_vault_auditor;
GRANT SELECT ON log_checkpoint, log_lease, log_sink TO ssn_vault_admin
"""

_SQLITE_TRIGGER: Final = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""
_SQLITE_SAME: Final = {
    "log_leaf": "position = NEW.position OR event_id = NEW.event_id",
    "log_node": "level = NEW.level AND position = NEW.position",
    "log_checkpoint": "number = NEW.number",
}
_SQLITE_NO_REPLACE: Final = """
CREATE TRIGGER {table}_no_{what} BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""


def upgrade() -> None:
    """Add everything."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    statements = _TABLES.format(bytes="BYTEA" if postgresql else "BLOB").split(";")
    if postgresql:
        statements += [_POSTGRESQL_TRIGGER.format(table=table) for table in _APPEND_ONLY]
        statements += _GRANTS.split(";")
    else:
        for table, same in _SQLITE_SAME.items():
            statements += [_SQLITE_TRIGGER.format(table=table, verb=verb) for verb in ("update", "delete")]
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="replace", same=same))
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="rowid", same="rowid = NEW.rowid"))
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
