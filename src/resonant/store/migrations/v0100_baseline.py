"""The baseline: new stores are made from ``schema``. Until the first release, a change of the schema raises its number."""

revision = "0100"
down_revision = None
