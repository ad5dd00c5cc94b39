"""A work pool that was deleted: a bootstrap makes it again, and changes nothing else."""

import os
from unittest.mock import patch

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import bootstrap
from deployments.reports import REPORTS
from support.machine import Machine

pytestmark = pytest.mark.engine

ENABLED = ("failed-runs", "--endpoint", "ops")


@pytest.fixture
def machine(ready_api, tmp_path):
    """A machine on which the reports of failed runs are enabled."""
    machine = Machine(tmp_path, ready_api)
    machine.save_endpoint("ops", "http://127.0.0.1:9/")
    machine.do("automation", "enable", *ENABLED)
    yield machine
    machine.do("automation", "disable", *ENABLED)


@pytest.fixture
def without_pool(machine, server, ready_api, tmp_path):
    """The server without the pool; call it to run the bootstrap."""

    def run_bootstrap() -> None:
        variables = {"PREFECT_API_URL": ready_api, "PREFECT_HOME": str(tmp_path)}
        with patch.dict(os.environ, variables), temporary_settings({PREFECT_API_URL: ready_api}):
            bootstrap.main()

    server.delete("/work_pools/resonant")
    yield run_bootstrap
    if not server.post("/work_pools/filter", json={"work_pools": {"name": {"any_": ["resonant"]}}}).json():
        run_bootstrap()


def deployment(server, name: str) -> dict:
    return server.get(f"/deployments/name/{name}").json()


def test_enabled_reports_are_listed_with_the_reason_why_they_cannot_run_until_a_bootstrap(
    machine, server, without_pool
):
    done = machine.do("automation", "list")
    assert (
        "no failed runs are reported: report-failed-runs/report-failed-runs has no work pool" in done.stderr
    )
    [row] = machine.read("automation", "list")
    assert row["problem"].startswith("report-failed-runs/report-failed-runs has no work pool")
    refused = machine.do("automation", "enable", *ENABLED, code=1)
    assert "report-failed-runs/report-failed-runs has no work pool: start `resonant up`" in refused.stderr

    without_pool()
    assert "no failed runs" not in machine.do("automation", "list").stderr
    assert machine.read("automation", "list")[0]["problem"] is None
    assert deployment(server, REPORTS)["work_pool_name"] == "resonant"
    assert not deployment(server, REPORTS)["paused"]
    assert deployment(server, "purge-dead-letters/purge-daily")["paused"], "what was stopped stays stopped"

    server.post(f"/deployments/{deployment(server, REPORTS)['id']}/pause_deployment")
    assert (
        "report-failed-runs/report-failed-runs is paused: run `resonant automation enable` again"
        in machine.do("automation", "list").stderr
    )


def test_an_automation_of_a_deployment_that_was_deleted_gets_its_successor(machine, server, without_pool):
    server.delete(f"/deployments/{deployment(server, REPORTS)['id']}")
    without_pool()
    [found] = [
        each
        for each in server.post("/automations/filter", json={}).json()
        if each["name"] == "resonant: report failed flow runs at once"
    ]
    successor = deployment(server, REPORTS)
    assert [each["deployment_id"] for each in found["actions"]] == [successor["id"]]
    assert not successor["paused"]
