"""Where a Prefect server is known, a flow run replays what was planned."""

from datetime import datetime

import pytest

from resonant.console.actions import replaying
from resonant.errors import ServerError
from resonant.local.artifacts import known_ui
from resonant.local.deployment_run import start_run
from resonant.settings import Settings
from resonant.store.audit import read_audit
from resonant.store.views.selection import Selection
from resonant.testing import nobody_listening
from support.console import open_pages
from support.deployments import Deployments

pytestmark = pytest.mark.engine

# Not the name of the real deployment: other tests use that on the same server.
FLOW = "replay-from-the-console"


@pytest.fixture
def settings(prefect_api, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    return Settings(home=tmp_path)


@pytest.fixture
def deployments(prefect_api, monkeypatch):
    monkeypatch.setattr(replaying, "_DEPLOYMENT", f"{FLOW}/replay")
    made = Deployments(prefect_api)
    made.make(flow=FLOW, name="replay", enforce_parameter_schema=False)
    yield made
    made.remove(f"{FLOW}/replay")


def test_a_replay_starts_one_flow_run_for_a_plan(sqlite_desk, settings, deployments):
    desk = sqlite_desk
    desk.bury("evt_1", "evt_2")
    desk.clock.advance(1)
    with open_pages(desk, settings=settings, find_ui=lambda: "http://127.0.0.1:4200") as pages:
        plan = pages.json("/dead-letters/replay?endpoint=orders&rate=5")["plan"]
        done, again = (pages.post("/dead-letters/replay", plan=plan) for _ in range(2))
        page = pages.html(f"/replays/{done['id']}")
    [run] = deployments.runs(f"{FLOW}/replay")
    assert done["flow_run"] == again["flow_run"] == run["id"]
    assert f'href="http://127.0.0.1:4200/runs/flow-run/{run["id"]}"' in page
    given = run["parameters"]
    assert (given["endpoint"], given["rate"], given["limit"]) == ("orders", 5.0, 2)
    entry = desk.read(read_audit)[0]
    assert (entry.action, entry.selection["flow_run"]) == ("replay", run["id"])
    until = Selection(until=datetime.fromisoformat(given["until"])).until
    assert until == entry.selection["until"], "the run acts only on what existed"
    assert [each.event_id for each in desk.run(desk.store.dead_letters())], "the console changed nothing"


async def test_the_password_in_the_address_of_a_server_is_not_shown(tmp_path, monkeypatch):
    with nobody_listening() as url:
        monkeypatch.setenv("PREFECT_API_URL", f"{url.replace('//', '//resonant:s3cret@')}/api")
        assert known_ui(Settings(home=tmp_path)).startswith("http://127.0.0.1:")
        with pytest.raises(ServerError, match="started no run of nothing/here: ") as refused:
            await start_run("nothing/here", {}, Settings(home=tmp_path), key="1")
    assert "s3cret" not in str(refused.value)


async def test_an_unknown_deployment_is_reported(settings, deployments):
    with pytest.raises(ServerError, match="started no run of nothing/here: "):
        await start_run("nothing/here", {}, settings, key="1")
