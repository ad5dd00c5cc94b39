"""Which commits must be on the disk before they are acknowledged. Every commit survives a crash of the process."""

from typing import Literal

# Every commit, or only a commit to a server that workers may outlive, or none.
Sync = Literal["always", "on_server", "never"]
