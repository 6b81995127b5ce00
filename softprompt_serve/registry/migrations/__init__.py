"""Alembic migrations of the catalogue, run by ``registry/database.py`` at each start."""
