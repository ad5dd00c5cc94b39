"""The first schema: new stores are made from ``schema``. Until the first release, each of its changes raises the number."""

# The schemas before it go up to 0017.
revision = "0100"
down_revision = None
