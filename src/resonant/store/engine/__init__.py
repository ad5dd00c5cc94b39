"""The databases: SQLite and PostgreSQL, their errors, their schema, and the wake-up after a commit."""
