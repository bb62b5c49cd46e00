"""PostgreSQL: nobody but the owner creates in the schema, and keys of text are ordered by their bytes.

An index that follows the language rules of the host's C library is damaged when an upgrade of that library changes
them: rows are then not found, and a key is taken twice. Rebuilds every index over text; calls wait meanwhile.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

import sqlalchemy as sa
from alembic import op

from vault_service.storage.tables import metadata

revision = "0005"
down_revision = "0004"

_RIGHTS: Final = (
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC, ssn_vault_server, ssn_vault_admin, ssn_vault_auditor",
    "ALTER FUNCTION public.refuse_change() SET search_path = pg_catalog, pg_temp",
    "REVOKE EXECUTE ON FUNCTION public.refuse_change() FROM PUBLIC",
)
_BY_LANGUAGE: Final = sa.text(
    "SELECT DISTINCT rel.relname, att.attname, format_type(att.atttypid, att.atttypmod)"
    " FROM pg_index AS ind JOIN pg_class AS rel ON rel.oid = ind.indrelid"
    " JOIN pg_attribute AS att ON att.attrelid = rel.oid AND att.attnum = ANY(ind.indkey)"
    " WHERE rel.relnamespace = 'public'::regnamespace AND rel.relkind = 'r'"
    " AND rel.relname = ANY(CAST(:ours AS name[]))"
    " AND att.attcollation <> 0 AND att.attcollation <> 'pg_catalog.\"C\"'::regcollation"
    " ORDER BY rel.relname, att.attname"
)
_VIEW: Final = "SELECT pg_get_viewdef('public.key_usage'::regclass)"
_VIEW_GRANTS: Final = (
    "SELECT grants.privilege_type, pg_get_userbyid(grants.grantee) FROM pg_class AS rel,"
    " aclexplode(rel.relacl) AS grants WHERE rel.oid = 'public.key_usage'::regclass AND grants.grantee <> rel.relowner"
    " AND grants.grantee <> 0"
)


def upgrade() -> None:
    """Change rights and collations; nothing on SQLite, which has neither."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    for statement in (*_RIGHTS, *_collate(connection)):
        connection.exec_driver_sql(statement)


def _collate(connection: sa.Connection) -> Iterator[str]:
    """Statements that give keys and indexes of text the collation C: one a table, around the view that reads them."""
    quote = connection.dialect.identifier_preparer.quote
    columns = connection.execute(_BY_LANGUAGE, {"ours": [*metadata.tables, "alembic_version"]}).all()
    definition = connection.exec_driver_sql(_VIEW).scalar_one()
    grants = connection.exec_driver_sql(_VIEW_GRANTS).all()
    yield "DROP VIEW public.key_usage"
    for table, rows in groupby(columns, key=lambda row: row[0]):
        changes = ", ".join(f'ALTER COLUMN {quote(name)} TYPE {kind} COLLATE "C"' for _, name, kind in rows)
        yield f"ALTER TABLE public.{quote(table)} {changes}"
    yield f"CREATE VIEW public.key_usage AS {definition}"
    for privilege, role in grants:
        yield f"GRANT {privilege} ON public.key_usage TO {quote(role)}"
