"""The first schema: tables, append-only triggers and, on PostgreSQL, the rights of the three roles."""

from typing import Final

from alembic import op

revision = "0001"
down_revision = None

_TABLES: Final = """
CREATE TABLE control (
    id INTEGER NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, CONSTRAINT control_has_one_row CHECK (id = 1)
);
CREATE TABLE admin_order (id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE order_signature (
    order_id TEXT NOT NULL REFERENCES admin_order (id), person TEXT NOT NULL, key_version INTEGER NOT NULL,
    signature {bytes} NOT NULL, PRIMARY KEY (order_id, person)
);
CREATE TABLE control_log (
    position BIGINT NOT NULL PRIMARY KEY, order_id TEXT NOT NULL UNIQUE REFERENCES admin_order (id),
    applied_at BIGINT NOT NULL
);
CREATE TABLE order_outcome (
    order_id TEXT NOT NULL PRIMARY KEY REFERENCES admin_order (id), outcome TEXT NOT NULL, detail TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE TABLE token_record (
    token TEXT NOT NULL PRIMARY KEY, domain TEXT NOT NULL, index_version INTEGER NOT NULL, blind_index {bytes} NOT NULL,
    data_version INTEGER NOT NULL, ciphertext {bytes} NOT NULL, destroy_by TEXT NOT NULL,
    CONSTRAINT one_token_per_number UNIQUE (domain, index_version, blind_index)
);
CREATE TABLE event (id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL, hash {bytes} NOT NULL);
CREATE TABLE disclosure (
    event_id TEXT NOT NULL REFERENCES event (id), position INTEGER NOT NULL, domain TEXT NOT NULL,
    token TEXT NOT NULL, outcome TEXT NOT NULL, salt TEXT NOT NULL, PRIMARY KEY (event_id, position)
);
CREATE INDEX disclosure_by_token ON disclosure (token);
CREATE TABLE budget_account (key TEXT NOT NULL PRIMARY KEY);
CREATE TABLE budget_spend (
    key TEXT NOT NULL, minute BIGINT NOT NULL, amount BIGINT NOT NULL, PRIMARY KEY (key, minute)
);
CREATE TABLE approval_spend (approval_id TEXT NOT NULL PRIMARY KEY, spent BIGINT NOT NULL);
CREATE TABLE request_seen (
    client TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL, key_version INTEGER NOT NULL,
    digest {bytes} NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (client, method, request_id)
);
CREATE TABLE linkage_id (
    agreement TEXT NOT NULL, key_version INTEGER NOT NULL, blind_index {bytes} NOT NULL,
    linkage_id TEXT NOT NULL UNIQUE, PRIMARY KEY (agreement, key_version, blind_index)
);
CREATE TABLE linkage_record (
    event_id TEXT NOT NULL PRIMARY KEY REFERENCES event (id), agreement TEXT NOT NULL, key_version INTEGER NOT NULL,
    ciphertext {bytes} NOT NULL
);
CREATE VIEW key_usage AS
    SELECT domain, 'data' AS kind, data_version AS version, count(*) AS records
    FROM token_record GROUP BY domain, data_version
    UNION ALL
    SELECT domain, 'index', index_version, count(*) FROM token_record GROUP BY domain, index_version;
INSERT INTO control (id, epoch) VALUES (1, 0)
"""

_APPEND_ONLY: Final = (
    "admin_order",
    "order_signature",
    "control_log",
    "order_outcome",
    "event",
    "disclosure",
    "linkage_record",
)

_SQLITE_TRIGGER: Final = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""

# REPLACE deletes the row in its way without firing its triggers; by rowid too.
_SQLITE_NO_REPLACE: Final = """
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same} OR rowid = NEW.rowid)
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""
_SAME_ROW: Final = {
    "admin_order": "id = NEW.id",
    "order_signature": "(order_id = NEW.order_id AND person = NEW.person)",
    "control_log": "position = NEW.position OR order_id = NEW.order_id",
    "order_outcome": "order_id = NEW.order_id",
    "event": "id = NEW.id",
    "disclosure": "(event_id = NEW.event_id AND position = NEW.position)",
    "linkage_record": "event_id = NEW.event_id",
}

_POSTGRESQL_GUARD: Final = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '%% takes inserts only', TG_TABLE_NAME; END $$
"""
_POSTGRESQL_TRIGGER: Final = """
CREATE TRIGGER {table}_inserts_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""
_POSTGRESQL_ROLE: Final = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} NOLOGIN; END IF;
END $$
"""

# Who may do what. The admins' role asks and reads status; it sees no record and grants nothing by itself.
_GRANTS: Final = """
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO ssn_vault_server;
GRANT INSERT ON control_log, order_outcome, token_record, event, disclosure, budget_account, budget_spend,
    approval_spend, request_seen, linkage_id, linkage_record TO ssn_vault_server;
GRANT UPDATE ON control, token_record, budget_account, budget_spend, approval_spend, request_seen
    TO ssn_vault_server;
GRANT DELETE ON budget_spend, request_seen TO ssn_vault_server;
GRANT SELECT ON control, control_log, admin_order, order_signature, order_outcome, key_usage, alembic_version
    TO ssn_vault_admin;
GRANT INSERT ON admin_order, order_signature TO ssn_vault_admin;
GRANT SELECT ON control, control_log, admin_order, order_signature, order_outcome, event, disclosure,
    linkage_record, alembic_version TO ssn_vault_auditor
"""


def upgrade() -> None:
    """Make everything."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    statements = _TABLES.format(bytes="BYTEA" if postgresql else "BLOB").split(";")
    if postgresql:
        statements.append(_POSTGRESQL_GUARD)
        statements += [_POSTGRESQL_TRIGGER.format(table=table) for table in _APPEND_ONLY]
        roles = ("ssn_vault_server", "ssn_vault_admin", "ssn_vault_auditor")
        statements += [_POSTGRESQL_ROLE.format(role=role) for role in roles]
        statements += _GRANTS.split(";")
    else:
        statements += [
            _SQLITE_TRIGGER.format(table=table, verb=verb) for table in _APPEND_ONLY for verb in ("update", "delete")
        ]
        statements += [_SQLITE_NO_REPLACE.format(table=table, same=same) for table, same in _SAME_ROW.items()]
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
