"""Runs the migrations over the connection that `storage.schema.migrate` hands in."""

from alembic import context

from vault_service.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
