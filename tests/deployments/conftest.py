"""Fixtures for a Prefect server with Resonant's deployments applied."""

import os
from unittest.mock import patch

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import bootstrap
from support.prefect import patient_client


@pytest.fixture(scope="session")
def ready_api(bootstrapped):
    """The API URL of the session's server, bootstrapped twice."""
    return bootstrapped[0]


@pytest.fixture(scope="session")
def bootstrapped(prefect_api, tmp_path_factory):
    """Bootstrap the session's server twice; return the URL of its API, and the number of drains that were started.

    The second time, the server has a deployment of an earlier version, and the purge is stopped.
    """
    for prepare in (make_new, make_old):
        prepare(prefect_api)
        variables = {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path_factory.mktemp("home"))}
        with patch.dict(os.environ, variables), temporary_settings({PREFECT_API_URL: prefect_api}):
            bootstrap.main()
    with patient_client(prefect_api) as api:
        runs = api.post("/flow_runs/filter", json={"deployments": {"name": {"any_": ["drain"]}}}).json()
    return prefect_api, sum(not each["auto_scheduled"] for each in runs)


def make_new(api: str) -> None:
    """Remove what other tests of this server have deployed: a due run of its schedule counts as a drain."""
    with patient_client(api) as client:
        for kind in ("deployments", "flow_runs"):
            for each in client.post(f"/{kind}/filter", json={}).json():
                client.delete(f"/{kind}/{each['id']}")


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
