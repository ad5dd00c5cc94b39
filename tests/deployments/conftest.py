"""Fixtures for a Prefect server with Resonant's deployments applied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.prefect import patient_client

PROJECT = Path(__file__).parents[2]


def run_bootstrap(api: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap"],
        cwd=PROJECT,
        env=os.environ | {"PREFECT_API_URL": api, "PREFECT_HOME": str(home), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def ready_api(prefect_api, tmp_path_factory):
    """The API URL of the session's server, bootstrapped twice.

    The second time, the server has a deployment of an earlier version, and the purge is stopped.
    """
    for is_again in (False, True):
        if is_again:
            make_old(prefect_api)
        finished = run_bootstrap(prefect_api, tmp_path_factory.mktemp("home"))
        assert finished.returncode == 0, finished.stderr
    return prefect_api


def make_old(api: str) -> None:
    with patient_client(api) as client:
        purge = client.get("/deployments/name/purge-dead-letters/purge-daily").json()
        client.post(f"/deployments/{purge['id']}/pause_deployment")
        old = {"name": "daily", "flow_id": purge["flow_id"], "work_pool_name": "resonant"}
        client.post("/deployments/", json=old)


@pytest.fixture(scope="module")
def server(ready_api):
    """A client of the bootstrapped server."""
    with patient_client(ready_api) as client:
        yield client


@pytest.fixture(scope="session")
def bootstrapped():
    """Bootstrap a server with the command."""
    return run_bootstrap
