"""Texts that people wrote beside the events and orders, which carry their salted hashes; rows that are set aside."""

from typing import Final

from alembic import op

revision = "0004"
down_revision = "0003"

# An event's text has no foreign key: checking one would cost every call, and who could break it could drop it.
_TABLES: Final = """
CREATE TABLE event_text (
    event_id {key} NOT NULL, name {key} NOT NULL, salt TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (event_id, name)
);
CREATE TABLE order_text (
    order_id {key} NOT NULL REFERENCES admin_order (id), name {key} NOT NULL, salt TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (order_id, name)
);
CREATE TABLE damaged_row (
    scope {key} NOT NULL, name {key} NOT NULL, found_at BIGINT NOT NULL, set_aside TEXT, PRIMARY KEY (scope, name)
);
ALTER TABLE token_record ADD COLUMN set_aside TEXT;
ALTER TABLE linkage_record ADD COLUMN set_aside TEXT;
DROP VIEW key_usage;
CREATE VIEW key_usage AS
    SELECT domain AS scope, 'data' AS kind, data_version AS version, count(*) AS records
    FROM token_record WHERE set_aside IS NULL GROUP BY domain, data_version
    UNION ALL
    SELECT domain, 'index', index_version, count(*)
    FROM token_record WHERE set_aside IS NULL GROUP BY domain, index_version
    UNION ALL
    SELECT agreement, 'index', key_version, count(*) FROM (
        SELECT agreement, key_version FROM linkage_id
        UNION ALL SELECT agreement, key_version FROM linkage_record WHERE set_aside IS NULL
    ) AS linkage GROUP BY agreement, key_version
"""
_POSTGRESQL: Final = """
CREATE TRIGGER event_text_inserts_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_text
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER order_text_inserts_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_text
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT ON event_text TO ssn_vault_server;
GRANT SELECT ON order_text TO ssn_vault_server;
GRANT SELECT, INSERT ON order_text TO ssn_vault_admin;
GRANT SELECT ON event_text, order_text, damaged_row TO ssn_vault_auditor;
GRANT SELECT, INSERT, UPDATE, DELETE ON damaged_row TO ssn_vault_server;
GRANT UPDATE (set_aside) ON linkage_record TO ssn_vault_server;
GRANT SELECT ON key_usage TO ssn_vault_server;
GRANT SELECT ON damaged_row, key_usage TO ssn_vault_admin
"""
_SQLITE_SAME: Final = {
    "event_text": "event_id = NEW.event_id AND name = NEW.name",
    "order_text": "order_id = NEW.order_id AND name = NEW.name",
}
_SQLITE_TRIGGER: Final = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""
_SQLITE_NO_REPLACE: Final = """
CREATE TRIGGER {table}_no_{what} BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""


def upgrade() -> None:
    """Add everything."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    statements = _TABLES.format(key='TEXT COLLATE "C"' if postgresql else "TEXT").split(";")
    if postgresql:
        statements += _POSTGRESQL.split(";")
    else:
        for table, same in _SQLITE_SAME.items():
            statements += [_SQLITE_TRIGGER.format(table=table, verb=verb) for verb in ("update", "delete")]
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="replace", same=same))
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="rowid", same="rowid = NEW.rowid"))
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
