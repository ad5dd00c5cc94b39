"""Programs that some tests need and a machine may not have.

``need`` searches the folders of ``TEST_PROGRAMS``, which has the form of ``PATH``, and nothing else. ``.ci/run`` has none of the
programs on its PATH, so a test that runs one without ``need`` fails there. A test that calls ``need`` has the mark ``program``.

If a program is missing, the test is skipped with a reason that says how to get it. With ``REQUIRE_PROGRAMS=1``, which
``.ci/run`` sets once it has installed them, the test fails instead, so that CI cannot skip it silently.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

# By name: the program's possible file names, and how to get it. `.ci/run` has the same names, to hide the programs.
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "apt-get install chromium"),
    "nginx": (("nginx",), "apt-get install nginx-light"),
    "node": (("node", "nodejs"), "apt-get install nodejs"),
    "openssl": (("openssl",), "apt-get install openssl"),
    "pgbouncer": (("pgbouncer",), "apt-get install pgbouncer"),
    "prometheus": (("prometheus",), "apt-get install prometheus"),
    "prometheus-node-exporter": (
        ("prometheus-node-exporter", "node_exporter"),
        "apt-get install prometheus-node-exporter",
    ),
    "promtool": (("promtool",), "apt-get install prometheus"),
    "redis-server": (("redis-server",), "apt-get install redis-server"),
    "tinyproxy": (("tinyproxy",), "apt-get install tinyproxy-bin"),
}
POSTGRESQL = "this test needs Debian's PostgreSQL: apt-get install postgresql"

_running: list[pytest.Item] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def need(name: str) -> str:
    """Return the path of a program, or skip the test."""
    require_mark()
    names, how_to_get_it = PROGRAMS[name]
    found = next(filter(None, map(find, names)), None)
    if found is None:
        lacking(f"this test needs {name}: {how_to_get_it}")
    return found


def need_postgresql() -> Path:
    """Return the folder with the programs of Debian's newest PostgreSQL, whose server accepts TCP connections."""
    require_mark()
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    found = [folder for folder in folders if (folder / "postgres").exists()]
    # Debian keeps the server outside PATH, but its wrappers on PATH.
    if not found or not find("pg_ctlcluster"):
        lacking(POSTGRESQL)
    return max(found, key=lambda folder: float(folder.parent.name))


def find(name: str) -> str | None:
    """Return the path of a program in the folders of TEST_PROGRAMS, if it is there."""
    return shutil.which(name, path=os.environ.get("TEST_PROGRAMS") or os.devnull)


def require_mark() -> None:
    """Fail a test without the mark: ``.ci/run`` would not see that it is skipped where its programs are missing."""
    if _running and not _running[-1].get_closest_marker("program"):
        pytest.fail("this test runs an optional program: mark it with @pytest.mark.program", pytrace=False)


def in_namespace(kind: str) -> list[str]:
    """Return the beginning of a command that runs in a namespace (``mount`` or ``net``) of its own, or skip the test.

    The namespace ends with the command.
    """
    command = ["unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), f"--{kind}"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        lacking(f"this test needs a namespace ({kind}) of its own: run it as root")
    return command


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail it if REQUIRE_PROGRAMS is set."""
    if os.environ.get("REQUIRE_PROGRAMS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(
        reason if "TEST_PROGRAMS" in os.environ else f'{reason}, then make test TEST_PROGRAMS="$PATH"'
    )
