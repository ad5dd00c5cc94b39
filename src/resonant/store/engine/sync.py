"""Which databases sync a commit to the disk before it is acknowledged. Every commit survives a crash of the process."""

from typing import Literal

# "always": both. "on_server": only PostgreSQL, since workers may outlive its server. "never": none.
Sync = Literal["always", "on_server", "never"]
