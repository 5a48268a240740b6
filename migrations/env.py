"""How Alembic runs a migration: on the connection that `service/schema.py` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from dljobs.service.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # A name of its own: the database may also be another application's.
    version_table="dljobs_version",
    render_as_batch=True,
    transactional_ddl=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
