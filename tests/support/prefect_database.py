"""A database of Prefect's server with every migration applied, created once per session.

A server that starts on a copy of it needs half the CPU of one that migrates an empty database.
"""

import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

# Set by the first process of pytest, so that those of pytest-xdist share the folder.
_FOLDER = "TEST_PREFECT_DATABASE"


def share_prefect_database(config: pytest.Config) -> None:
    """Make the folder in which all processes of this session find the database."""
    if _FOLDER not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="resonant-prefect-db-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ[_FOLDER] = folder.name


def give_prefect_database(home: Path) -> None:
    """Put a copy into a PREFECT_HOME that has no database yet."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "prefect.db").exists():
        with closing(sqlite3.connect(_migrated())) as connection:
            connection.execute("VACUUM INTO ?", (str(home / "copy.db"),))
        (home / "copy.db").rename(home / "prefect.db")


def _migrated() -> Path:
    folder = Path(os.environ[_FOLDER])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env=os.environ | {"PREFECT_HOME": str(folder), "HOME": str(folder)},
                capture_output=True,
                check=True,
                timeout=600,
            )
            (folder / "done").touch()
    return folder / "prefect.db"
