"""The first schema, in frozen DDL beside this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_SQL = Path(__file__).parents[1] / "sql"
_VAULT_ROLE: Final = "hiebridge_vault"
# Roles belong to the server, not to the database: another deployment may have made this one, or be making it now.
_CREATE_ROLE: Final = f"""
DO $$ BEGIN
  CREATE ROLE {_VAULT_ROLE} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""


def upgrade() -> None:
    """Creates everything; on PostgreSQL the vault belongs to a role of its own, if this one may create roles."""
    connection = op.get_bind()
    text = (_SQL / f"{revision}.{connection.dialect.name}.sql").read_text(encoding="utf-8")
    for statement in text.rstrip().removesuffix(";").split(";\n\n"):
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        may_create = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        if connection.scalar(may_create):
            _give_vault_its_role(connection)
        connection.exec_driver_sql("REVOKE ALL ON SCHEMA vault FROM PUBLIC")


def _give_vault_its_role(connection: sa.Connection) -> None:
    for statement in (
        _CREATE_ROLE,
        f"GRANT {_VAULT_ROLE} TO CURRENT_USER",
        f"GRANT USAGE ON SCHEMA vault TO {_VAULT_ROLE}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA vault TO {_VAULT_ROLE}",
    ):
        connection.exec_driver_sql(statement)
