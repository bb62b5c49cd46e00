"""Rotation: servers that report, jobs, counted encryptions, and the rights to move rows to newer keys."""

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"

_COMMON: Final = """
CREATE INDEX token_record_by_data_version ON token_record (domain, data_version);
CREATE INDEX linkage_record_by_version ON linkage_record (agreement, key_version);
CREATE TABLE replica (id TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, seen_at BIGINT NOT NULL);
CREATE TABLE job (
    order_id TEXT NOT NULL PRIMARY KEY REFERENCES admin_order (id), scope TEXT NOT NULL, total BIGINT NOT NULL,
    moved BIGINT NOT NULL, failed BIGINT NOT NULL, step TEXT NOT NULL, version INTEGER NOT NULL,
    position {bytes} NOT NULL, holder TEXT NOT NULL, held_until BIGINT NOT NULL, started_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE TABLE encryption_count (
    domain TEXT NOT NULL, version INTEGER NOT NULL, reserved BIGINT NOT NULL, PRIMARY KEY (domain, version)
);
DROP VIEW key_usage;
CREATE VIEW key_usage AS
    SELECT domain AS scope, 'data' AS kind, data_version AS version, count(*) AS records
    FROM token_record GROUP BY domain, data_version
    UNION ALL
    SELECT domain, 'index', index_version, count(*) FROM token_record GROUP BY domain, index_version
    UNION ALL
    SELECT agreement, 'index', key_version, count(*) FROM (
        SELECT agreement, key_version FROM linkage_id UNION ALL SELECT agreement, key_version FROM linkage_record
    ) AS linkage GROUP BY agreement, key_version
"""
# An agreement's lists of tokens are sealed anew when its key is rotated; their events say what they must hold.
_POSTGRESQL: Final = """
DROP TRIGGER linkage_record_inserts_only ON linkage_record;
CREATE TRIGGER linkage_record_stays BEFORE DELETE OR TRUNCATE ON linkage_record
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT, UPDATE, DELETE ON replica TO ssn_vault_server;
GRANT SELECT, INSERT, UPDATE ON job, encryption_count TO ssn_vault_server;
GRANT UPDATE (key_version, ciphertext) ON linkage_record TO ssn_vault_server;
GRANT UPDATE (key_version, blind_index) ON linkage_id TO ssn_vault_server;
GRANT DELETE ON linkage_id TO ssn_vault_server;
GRANT SELECT ON key_usage TO ssn_vault_server;
GRANT SELECT ON replica, job, encryption_count, key_usage TO ssn_vault_admin
"""
# One condition a trigger: `a OR rowid = ..` made SQLite read the whole table for each row.
_SQLITE_SAME: Final = {
    "admin_order": "id = NEW.id",
    "order_signature": "order_id = NEW.order_id AND person = NEW.person",
    "control_log": "position = NEW.position OR order_id = NEW.order_id",
    "order_outcome": "order_id = NEW.order_id",
    "event": "id = NEW.id",
    "disclosure": "event_id = NEW.event_id AND position = NEW.position",
    "linkage_record": "event_id = NEW.event_id",
}
_SQLITE_NO_REPLACE: Final = """
CREATE TRIGGER {table}_no_{what} BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT RAISE(ABORT, '{table} takes inserts only'); END
"""


def upgrade() -> None:
    """Add everything."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    statements = _COMMON.format(bytes="BYTEA" if postgresql else "BLOB").split(";")
    if postgresql:
        statements += _POSTGRESQL.split(";")
    else:
        statements.append("DROP TRIGGER linkage_record_no_update")
        for table, same in _SQLITE_SAME.items():
            statements.append(f"DROP TRIGGER {table}_no_replace")
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="replace", same=same))
            statements.append(_SQLITE_NO_REPLACE.format(table=table, what="rowid", same="rowid = NEW.rowid"))
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
