"""One Alembic history for SQLite and Postgres, shipped in the wheel so that a start can migrate."""
