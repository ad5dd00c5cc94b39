"""PgBouncer in front of the tests' PostgreSQL, in transaction mode: each transaction may run in another session."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from support.programs import need
from support.waiting import wait_until

_SETTINGS = """
[databases]
* = host={server} user=postgres
[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
logfile = {folder}/log
default_pool_size = 4
{more}
"""


class PgBouncer:
    """A PgBouncer with its settings in a folder of its own.

    Args:
        folder: has its settings, its log and its socket.
        server: the folder of PostgreSQL's socket.
        settings: further lines for its settings.
    """

    def __init__(self, folder: Path, server: Path, settings: str = "") -> None:
        self._program = need("pgbouncer")
        self.folder = folder
        self._as_user: dict[str, int] = {}
        if os.geteuid() == 0:  # it refuses to run as root, and PostgreSQL's folder is for its user only
            owner = server.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
            self._as_user = {"user": owner.st_uid, "group": owner.st_gid}
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(_SETTINGS.format(server=server, folder=folder, more=settings))

    def url(self, database_url: str) -> str:
        """Return the URL of a PostgreSQL database through this PgBouncer."""
        url = make_url(database_url).update_query_dict({"host": str(self.folder), "port": "6432"})
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen([self._program, "-q", self._settings], **self._as_user)
        wait_until(self._is_up)

    def kill(self) -> None:
        """End it at once, with all its connections."""
        self._process.kill()
        self._process.wait()

    def _is_up(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(f"{self.folder}/.s.PGSQL.6432") == 0


@contextmanager
def started_pgbouncer(server: Path, settings: str = "") -> Iterator[PgBouncer]:
    """Run PgBouncer during the block, in front of the server whose socket is in this folder."""
    with tempfile.TemporaryDirectory(prefix="resonant-") as name:
        pgbouncer = PgBouncer(Path(name), server, settings)
        pgbouncer.start()
        try:
            yield pgbouncer
        finally:
            pgbouncer.kill()
