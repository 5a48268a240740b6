"""Alembic migrations, for SQLite and Postgres alike; run by `dljobs db upgrade`."""
