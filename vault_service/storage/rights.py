"""Who may put what into the schema that the server's statements search (PostgreSQL): looked at before a start.

Operators, functions and triggers that others put there would run as the server's role. The session's search path
(`storage.connections`) keeps every other schema out; this keeps everybody but the owner out of this one. What the
owner may do all the same stands in docs/threat-model.md.
"""

from typing import Final

import sqlalchemy as sa

from vault_service.errors import StoreError
from vault_service.storage.engine import Store

OWN_FUNCTIONS: Final = ("refuse_change",)  # of the migrations; without arguments

_MAY_CREATE: Final = sa.text("SELECT has_schema_privilege('public', 'CREATE')")
_OTHERS_MAY_CREATE: Final = sa.text(
    "SELECT CASE grants.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grants.grantee)::text END"
    " FROM pg_namespace AS ns CROSS JOIN LATERAL"
    " aclexplode(coalesce(ns.nspacl, acldefault('n', ns.nspowner))) AS grants"
    " WHERE ns.nspname = 'public' AND grants.privilege_type = 'CREATE' AND grants.grantee <> ns.nspowner"
    " AND grants.grantee <> (SELECT relowner FROM pg_class WHERE oid = 'public.event'::regclass)"
)
# An extension's own members came with it: who may install one may do more than this.
_STRANGERS: Final = sa.text(
    "SELECT what, name FROM ("
    " SELECT 'function' AS what, proc.oid, 'pg_proc'::regclass AS class, proc.oid::regprocedure::text AS name"
    " FROM pg_proc AS proc WHERE proc.pronamespace = 'public'::regnamespace"
    " AND NOT (proc.proname = ANY(CAST(:own AS name[])) AND proc.pronargs = 0)"
    " UNION ALL SELECT 'operator', oper.oid, 'pg_operator'::regclass, oper.oid::regoperator::text"
    " FROM pg_operator AS oper WHERE oper.oprnamespace = 'public'::regnamespace"
    " UNION ALL SELECT 'cast', conv.oid, 'pg_cast'::regclass,"
    " format_type(conv.castsource, NULL) || ' to ' || format_type(conv.casttarget, NULL)"
    " FROM pg_cast AS conv JOIN pg_proc AS by ON by.oid = conv.castfunc"
    " WHERE by.pronamespace <> 'pg_catalog'::regnamespace"
    " UNION ALL SELECT 'trigger', trg.oid, 'pg_trigger'::regclass, trg.tgname || ' on ' || trg.tgrelid::regclass::text"
    " FROM pg_trigger AS trg JOIN pg_class AS rel ON rel.oid = trg.tgrelid"
    " JOIN pg_proc AS by ON by.oid = trg.tgfoid"
    " WHERE rel.relnamespace = 'public'::regnamespace AND NOT trg.tgisinternal"
    " AND NOT (by.pronamespace = 'public'::regnamespace AND by.proname = ANY(CAST(:own AS name[])))"
    " UNION ALL SELECT 'rule', rule.oid, 'pg_rewrite'::regclass,"
    " rule.rulename || ' on ' || rule.ev_class::regclass::text"
    " FROM pg_rewrite AS rule JOIN pg_class AS rel ON rel.oid = rule.ev_class"
    " WHERE rel.relnamespace = 'public'::regnamespace AND rule.rulename <> '_RETURN'"
    " UNION ALL SELECT 'row security policy', pol.oid, 'pg_policy'::regclass,"
    " pol.polname || ' on ' || pol.polrelid::regclass::text"
    " FROM pg_policy AS pol JOIN pg_class AS rel ON rel.oid = pol.polrelid"
    " WHERE rel.relnamespace = 'public'::regnamespace"
    ") AS found WHERE NOT EXISTS (SELECT FROM pg_depend AS dep"
    " WHERE dep.objid = found.oid AND dep.classid = found.class AND dep.deptype = 'e')"
    " ORDER BY what, name LIMIT 5"
)


def check_rights(store: Store) -> None:
    """StoreError when the server's own role, or anybody but the owner, may create in the schema, or somebody has."""
    if not store.postgresql:
        return
    with store.reading() as connection:
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog, pg_temp")  # strangers have no say in this
        others = sorted(connection.execute(_OTHERS_MAY_CREATE).scalars())
        may_create = connection.execute(_MAY_CREATE).scalar_one()
        strangers = connection.execute(_STRANGERS, {"own": list(OWN_FUNCTIONS)}).all()
    if others:
        raise StoreError(
            f"{', '.join(others)} may create objects in the database's schema public, which would run as the server's"
            f" role: as the schema's owner, REVOKE CREATE ON SCHEMA public FROM {', '.join(others)}"
        )
    if may_create:
        raise StoreError(
            "the server's database login may create objects in schema public: it is the owner or a superuser. Give it a"
            " login of its own that is a member of ssn_vault_server alone"
        )
    if strangers:
        found = "; ".join(f"{what} {name}" for what, name in strangers)
        raise StoreError(
            f"schema public holds what no migration made and what would run as the server's role ({found}):"
            " find out who put it there, and drop it or move it to another schema"
        )
