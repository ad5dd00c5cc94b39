"""``python -m deployments.bootstrap --shared-server`` loads a server less, and without it everything is as before."""

import os
from unittest.mock import patch

import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations, bootstrap
from support.pages import PROJECT

pytestmark = pytest.mark.engine

EMITTING = {"emit", "drain"}
EVERY_15_MINUTES = 900.0


@pytest.fixture
def run_bootstrap(server, ready_api, tmp_path):
    """Run the bootstrap with options; at the end, the server is as the other tests expect it."""
    variables = {
        "PREFECT_API_URL": ready_api,
        "PREFECT_HOME": str(tmp_path),
        "RESONANT_ALERT_NOTIFICATION_BLOCK": "custom-webhook/of-a-shared-server",
    }
    with temporary_settings({PREFECT_API_URL: ready_api}):
        block = CustomWebhookNotificationBlock(name="ops", url="http://127.0.0.1:9/")
        block.save("of-a-shared-server", overwrite=True)

        def run(**options: bool) -> None:
            with patch.dict(os.environ, variables):
                bootstrap.main(**options)

        yield run
        if EVERY_15_MINUTES in intervals(deployments(server)).values():
            run()
    for each in server.post("/automations/filter", json={}).json():
        if each["name"] in (automations.NOTIFY, automations.NOTIFY_SILENT):
            server.delete(f"/automations/{each['id']}")


def deployments(server) -> dict[str, dict]:
    of_pool = {"work_pools": {"name": {"any_": ["resonant"]}}}
    return {each["name"]: each for each in server.post("/deployments/filter", json=of_pool).json()}


def intervals(found: dict[str, dict]) -> dict[str, float]:
    return {
        name: schedule["schedule"]["interval"]
        for name, each in found.items()
        for schedule in each["schedules"]
        if "interval" in schedule["schedule"]
    }


def silence(server) -> float:
    found = server.post("/automations/filter", json={}).json()
    return next(each["trigger"]["within"] for each in found if each["name"] == automations.NOTIFY_SILENT)


def test_runs_start_every_15_minutes_and_send_in_chunks_until_a_bootstrap_without_the_option(
    server, run_bootstrap
):
    usual = deployments(server)
    assert set(intervals(usual).values()) == {300.0}

    run_bootstrap(shared_server=True)
    shared = deployments(server)
    assert intervals(shared) == dict.fromkeys(intervals(usual), EVERY_15_MINUTES)
    for name, each in shared.items():
        lane = {"lane": "bulk"} if name in EMITTING else {}
        assert each["parameters"] == usual[name]["parameters"] | lane
        assert each["paused"] == usual[name]["paused"]
    assert silence(server) == 45 * 60

    run_bootstrap()
    again = deployments(server)
    assert intervals(again) == intervals(usual)
    assert [each["parameters"] for each in again.values()] == [each["parameters"] for each in usual.values()]
    assert silence(server) == 15 * 60


def test_nothing_else_of_the_declaration_changes():
    text = (PROJECT / "prefect.yaml").read_text()
    usual, shared = yaml.safe_load(text), yaml.safe_load(bootstrap.for_shared_server(text))
    for each, other in zip(usual["deployments"], shared["deployments"], strict=True):
        for schedule in other.get("schedules", ()):
            if "interval" in schedule:
                assert schedule["interval"] == 900
                schedule["interval"] = 300
        if each["name"] in EMITTING:
            assert other["parameters"].pop("lane") == "bulk"
            each.setdefault("parameters", {})
    assert shared == usual
