"""After the bootstrap, a server has everything that prefect.yaml declares: Prefect silently ignores a misspelt key."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

from deployments import bootstrap
from support.waiting import wait_until

PROJECT = Path(__file__).parents[2]
DECLARED = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
VARIABLES = {
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}

# Full name: entrypoint, parameters, schedule with its time zone.
EVERY_FIVE_MINUTES = {"interval": 300.0, "timezone": "UTC"}
EXPECTED = {
    "emit-events/emit": ("flows.emit.emit_events", {}, None),
    "emit-events/drain": ("flows.emit.emit_events", {"successors": 2, "run_for": 3600}, EVERY_FIVE_MINUTES),
    "collect-dead-letters/collect-dead-letters": (
        "flows.dead_letters.collect_dead_letters",
        {},
        EVERY_FIVE_MINUTES,
    ),
    "export-metrics/export-metrics": ("flows.metrics.export_metrics", {}, EVERY_FIVE_MINUTES),
    "report-failed-runs/report-failed-runs": ("flows.reports.report_failed_runs", {}, EVERY_FIVE_MINUTES),
    "replay-dead-letters/replay": ("flows.dead_letters.replay_dead_letters", {}, None),
    "cancel-deliveries/cancel": ("flows.dead_letters.cancel_deliveries", {}, None),
    "pause-endpoint/pause-endpoint": ("flows.endpoints.pause_endpoint", {}, None),
    "resume-endpoint/resume-endpoint": ("flows.endpoints.resume_endpoint", {}, None),
    "purge-dead-letters/purge-daily": (
        "flows.dead_letters.purge_dead_letters",
        {},
        {"cron": "15 3 * * *", "timezone": "UTC"},
    ),
}

CLOUD = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
INSTEAD = (
    "use `resonant up` or a Prefect server of your own, and set PREFECT_API_URL to it, or choose another profile, as in "
    "`prefect profile use local`"
)
# By an operator, and until it is enabled.
STOPPED = ("purge-dead-letters/purge-daily", "report-failed-runs/report-failed-runs")


@pytest.fixture(scope="module")
def deployed(server):
    """The deployments to our work pool, by full name."""
    of_pool = {"work_pools": {"name": {"any_": ["resonant"]}}}
    flows = {flow["id"]: flow["name"] for flow in server.post("/flows/filter", json=of_pool).json()}
    deployments = server.post("/deployments/filter", json=of_pool).json()
    named = {f"{flows[each['flow_id']]}/{each['name']}": each for each in deployments}
    assert len(named) == len(deployments)
    return named


@pytest.mark.parametrize("entrypoint", sorted({each["entrypoint"] for each in DECLARED}))
def test_every_entrypoint_is_dotted_and_loads(entrypoint):
    assert ":" not in entrypoint
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert flow.name in {name.partition("/")[0] for name in EXPECTED}


def test_no_path_of_a_machine_is_declared():
    assert not [line for line in (PROJECT / "prefect.yaml").read_text().splitlines() if ": /" in line]


@pytest.mark.engine
def test_the_server_has_the_pool_the_declared_deployments_and_the_block_type_and_no_others(server, deployed):
    assert server.get("/work_pools/resonant").json()["type"] == "process"
    assert deployed.keys() == EXPECTED.keys()
    assert len(DECLARED) == len(EXPECTED)
    slugs = {each["slug"] for each in server.post("/block_types/filter", json={}).json()}
    assert "webhook-endpoint" in slugs
    assert not slugs & {"endpointblock", "sinkblock"}


@pytest.mark.engine
@pytest.mark.parametrize("name", EXPECTED)
def test_a_deployment_is_as_expected(deployed, name):
    entrypoint, parameters, schedule = EXPECTED[name]
    found = deployed[name]

    assert found["entrypoint"] == entrypoint
    assert found["parameters"] == parameters
    assert found["work_pool_name"] == "resonant"
    patient = {"PREFECT_CLIENT_MAX_RETRIES": "8"} if name == "emit-events/drain" else {}
    assert found["job_variables"] == {"working_dir": ".", "env": VARIABLES | patient}
    assert found["pull_steps"] == []
    assert found["paused"] == (name in STOPPED), "the bootstrap keeps it stopped"
    assert found["description"], "the UI shows the flow's docstring"
    assert "resonant" in found["tags"]
    assert len(found["tags"]) == 2
    shown = [
        {key: value for key, value in each["schedule"].items() if key in ("interval", "cron", "timezone")}
        for each in found["schedules"]
        if each["active"]
    ]
    assert shown == ([schedule] if schedule else [])
    if schedule:  # few runs at a time; later ones are cancelled
        limit = found["global_concurrency_limit"]["limit"]
        assert limit == (3 if name == "emit-events/drain" else 1)
        assert parameters.get("successors", 0) < limit, "a place for a drain beside those that wait for it"
        assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def started(server, deployed, name: str) -> set[str]:
    """Return the runs of a deployment that its schedule did not start."""
    of_deployment = {"deployments": {"id": {"any_": [deployed[name]["id"]]}}}
    found = server.post("/flow_runs/filter", json=of_deployment).json()
    return {each["id"] for each in found if not each["auto_scheduled"]}


DRAIN, COLLECTION = "emit-events/drain", "collect-dead-letters/collect-dead-letters"


@pytest.mark.engine
def test_the_first_bootstrap_starts_two_drains_and_the_second_none(bootstrapped):
    _, drains = bootstrapped
    assert drains == 2


@pytest.mark.engine
@pytest.mark.parametrize("crashing", ["emit-events/emit", "replay-dead-letters/replay"])
def test_only_a_crash_of_our_own_run_starts_a_collection(server, deployed, crashing, request):
    automations = server.post("/automations/filter", json={}).json()
    # With the one of deployments/automations.py, see test_automations.py, which makes more.
    assert {each["name"] for each in automations} >= {
        "resonant: collect dead letters when an emission or a replay crashed or failed",
        "resonant: replay transient dead letters when an endpoint has recovered",
    }
    flow_id = server.post("/flows/", json={"name": "theirs"}).json()["id"]
    theirs = server.post("/deployments/", json={"name": "drain", "flow_id": flow_id}).json()["id"]
    request.addfinalizer(lambda: server.delete(f"/deployments/{theirs}"))
    drains, collections = started(server, deployed, DRAIN), started(server, deployed, COLLECTION)
    # The server handles events in order.
    for each in (theirs, deployed[crashing]["id"]):
        run = server.post(f"/deployments/{each}/create_flow_run", json={}).json()
        crashed = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
        server.post(f"/flow_runs/{run['id']}/set_state", json=crashed)

    assert len(wait_until(lambda: started(server, deployed, COLLECTION) - collections)) == 1
    assert started(server, deployed, DRAIN) == drains


@pytest.fixture
def worker(server, tmp_path):
    """A worker of the pool that takes no run: its queue is empty."""
    command = ["-m", "prefect", "worker", "start", "--pool", "resonant", "--work-queue", "empty"]
    variables = {"PREFECT_API_URL": str(server.base_url).rstrip("/"), "PREFECT_HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], env=os.environ | variables, stdout=log, stderr=log
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.engine
@pytest.mark.slow
def test_a_worker_that_has_started_gets_a_drain_at_once(server, deployed, request):
    before = started(server, deployed, DRAIN)
    request.getfixturevalue("worker")
    run, *_ = wait_until(lambda: started(server, deployed, DRAIN) - before)
    assert server.get(f"/flow_runs/{run}").json()["parameters"] == deployed[DRAIN]["parameters"]


@pytest.mark.engine
async def test_a_prefect_yaml_that_prefect_would_skip_is_an_error(server, tmp_path, monkeypatch):
    text = (PROJECT / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text.replace("interval: 300", "intervall: 300"))
    monkeypatch.setattr(bootstrap, "project_directory", lambda: tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", str(server.base_url).rstrip("/"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))

    with pytest.raises(bootstrap.BootstrapFailed, match="Invalid fields"):
        await bootstrap.deploy()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/api", "no Prefect server answers at http://127.0.0.1:9/api"),
        (
            "",
            "PREFECT_API_URL is not set: set it to the API of your server, such as http://127.0.0.1:4200/api",
        ),
        (
            CLOUD,
            f"{CLOUD} is Prefect Cloud, which Resonant does not support: {INSTEAD}",
        ),
    ],
)
def test_without_a_server_it_says_so_in_one_line(capsys, tmp_path, url, said):
    with (
        patch.dict(os.environ, {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path)}),
        pytest.raises(SystemExit, match="1"),
    ):
        bootstrap.main()
    assert capsys.readouterr().err == f"{said}\n"
