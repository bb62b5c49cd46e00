"""The schema's version: bringing a database to this release's, and refusing one of another."""

from importlib import resources

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from vault_service.errors import StoreError
from vault_service.storage.engine import Store
from vault_service.storage.faults import explain, lacks_right


def migrate(store: Store) -> None:
    """Bring the database behind `store` (the schema owner's role) to this release's schema, in one transaction."""
    with store.engine.begin() as connection:
        if store.postgresql:
            connection.exec_driver_sql("SET LOCAL search_path = public, pg_temp")  # where new tables go
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_schema(store: Store) -> None:
    """StoreError when the database's schema is not the one that this release knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    options = {"version_table_schema": "public"} if store.postgresql else {}
    with store.reading() as connection:
        if store.postgresql:
            connection.exec_driver_sql("SET LOCAL search_path = pg_catalog, pg_temp")
        try:
            found = MigrationContext.configure(connection, opts=options).get_current_revision()
        except sa.exc.ProgrammingError as error:
            if lacks_right(error):
                raise StoreError(explain(error)) from None
            found = None
    if found != head:
        raise StoreError(
            f"the database has schema {found or 'none'}, this release needs {head}: run `ssn-vault database migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("vault_service.storage") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
