"""A replay in the UI: a name with the number of dead letters, and a state that says whether it did its work."""

import json
import re
from datetime import UTC, datetime
from unittest.mock import AsyncMock
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from prefect.client.orchestration import get_client

from flows.dead_letters import replay_dead_letters
from flows.endpoints import pause_endpoint
from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.replay import ReplayPlan
from resonant.input_lines import event_from_fields
from resonant.store.views.selection import Selection
from support.file_endpoint import FileEndpoint
from tasks import replay

pytestmark = pytest.mark.engine

ENDPOINT = "file-endpoint/replayed"
EVENTS = [{"id": f"e{n}", "type": "t", "source": "/s", "data": n} for n in range(3)]


@pytest.fixture(autouse=True)
async def dead(store, tmp_path, monkeypatch):
    """Three dead letters of an endpoint that writes to a file."""
    monkeypatch.setenv("RESONANT_POLICIES", '{"once": {"max_attempts": 1}}')
    await FileEndpoint(path=tmp_path / "out").asave("replayed", overwrite=True)
    await store.enqueue([event_from_fields(each) for each in EVENTS], ENDPOINT)
    await cancel(store, Selection(endpoint=ENDPOINT), who="test")


async def name_of_run(state) -> str:
    async with get_client() as client:
        return (await client.read_flow_run(state.state_details.flow_run_id)).name


def failing(*ids):
    async def deliver(_self, event):
        if event.id in ids:
            raise ConnectionError

    return deliver


async def test_a_dry_run_writes_its_counts_and_causes_and_a_link_to_the_run_form(read_artifact, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "some-deployment")
    asked = {
        "endpoint": ENDPOINT,
        "ids": ["e0", "e1", "e2"],
        "limit": 2,
        "rate": 0.5,
        "since": datetime(2020, 1, 1, tzinfo=UTC),
    }

    state = await replay_dead_letters(**asked, dry_run=True, policy="once", return_state=True)

    artifact = await read_artifact(replay.DRY_RUN_ARTIFACT, state)
    assert state.message == "2 would be sent again; 1 skipped because of the limit"
    count, left_out, table, link = artifact.data.split("\n\n")
    assert (count, left_out) == ("2 dead letters would be sent again.", "- 1 skipped because of the limit")
    header, _, row = table.splitlines()
    assert header == "| cause | dead letters | endpoint | code | reason | last |"
    assert re.match(rf"\| [0-9a-f]{{12}} \| 3 \| {ENDPOINT} \|  \| cancelled \| 20", row)
    address = re.fullmatch(r"\[Replay: open the run form\]\((.*)\)", link)[1]
    assert address.startswith("../../deployments/deployment/some-deployment/run?parameters=")
    parameters = json.loads(parse_qs(urlsplit(address).query)["parameters"][0])
    assert replay_dead_letters.validate_parameters(parameters) == replay_dead_letters.validate_parameters(
        asked | {"policy": "once"}
    )


async def test_a_dry_run_to_another_endpoint_counts_events_and_links_to_the_replay(
    read_artifact, monkeypatch
):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "some-deployment")
    monkeypatch.setattr(replay, "plan", AsyncMock(return_value=ReplayPlan(2, 0, 0, 1, "other")))
    monkeypatch.setattr("flows.dead_letters.check_names", AsyncMock())
    asked = {"text": "100 % (é)", "to": "other"}

    state = await replay_dead_letters(**asked, dry_run=True, return_state=True)

    count, left_out, *_, link = (await read_artifact(replay.DRY_RUN_ARTIFACT, state)).data.split("\n\n")
    assert count == "2 events would be sent to other."
    assert left_out == "- 1 skipped because other already has a delivery of the event"
    # Prefect's UI decodes the link twice, and its new UI once.
    once = unquote(link.partition("parameters=")[2].removesuffix(")"))
    assert json.loads(once) == json.loads(unquote(once)) == asked


async def test_a_dry_run_has_no_link_without_a_deployment_a_match_or_room(read_artifact, monkeypatch):
    async def written(**asked):
        state = await replay_dead_letters(**asked, dry_run=True, return_state=True)
        return (await read_artifact(replay.DRY_RUN_ARTIFACT, state)).data

    assert "run form" not in await written(endpoint=ENDPOINT)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "some-deployment")
    assert await written(endpoint=ENDPOINT, text="none") == "0 dead letters would be sent again."
    monkeypatch.setattr(replay, "_LONGEST_LINK", 10)
    assert "too long for a link" in await written(endpoint=ENDPOINT)


async def test_a_dry_run_with_an_unknown_policy_fails_as_the_replay_would():
    for dry_run in (True, False):
        state = await replay_dead_letters(
            endpoint=ENDPOINT, policy="onec", dry_run=dry_run, return_state=True
        )
        assert state.is_failed()
        assert "'onec'" in state.message


async def test_a_replay_goes_on_when_its_progress_cannot_be_updated(monkeypatch, tmp_path, caplog):
    create = replay.acreate_progress_artifact

    async def create_and_lose(**options):
        artifact_id = await create(**options)
        async with get_client() as client:
            await client.delete_artifact(artifact_id)
        return artifact_id

    monkeypatch.setattr(replay, "acreate_progress_artifact", create_and_lose)

    state = await replay_dead_letters(endpoint=ENDPOINT, return_state=True)

    assert (state.is_completed(), state.name) == (True, "Completed")
    assert await name_of_run(state) == f"replay {ENDPOINT}: 3 dead letters"
    assert len((tmp_path / "out").read_text().splitlines()) == 3
    [line] = [each for each in caplog.messages if "progress bar" in each]
    assert line.startswith("the progress bar stays as it is: ")


async def test_a_replay_fails_only_if_all_dead_letters_fail_again(monkeypatch):
    monkeypatch.setattr(FileEndpoint, "deliver", failing("e0", "e1", "e2"))
    state = await replay_dead_letters(all_dead_letters=True, policy="once", return_state=True)
    assert (state.is_failed(), state.name) == (True, "Failed")
    assert state.message.startswith("3 sent again: 0 delivered")
    assert await name_of_run(state) == "replay all: 3 dead letters"

    monkeypatch.setattr(FileEndpoint, "deliver", failing("e0"))
    state = await replay_dead_letters(endpoint=ENDPOINT, policy="once", return_state=True)
    assert (state.is_completed(), state.name) == (True, "DeadLetters")
    assert "2 delivered, 0 retried, 0 parked, 1 dead-lettered" in state.message


async def test_a_replay_without_a_match_completes_and_one_whose_deliveries_are_held_is_waiting():
    state = await replay_dead_letters(endpoint=ENDPOINT, text="elsewhere", return_state=True)
    assert (state.is_completed(), state.name) == (True, "Completed")
    assert state.message == "no dead letter matches"

    paused = await pause_endpoint(ENDPOINT, return_state=True)
    assert await name_of_run(paused) == f"pause {ENDPOINT}"
    state = await replay_dead_letters(endpoint=ENDPOINT, return_state=True)
    assert (state.is_completed(), state.name) == (True, "Waiting")
    assert "3 held" in state.message


async def test_a_replay_to_endpoints_that_cannot_be_opened_fails_and_says_why():
    await FileEndpoint.adelete("replayed")

    state = await replay_dead_letters(all_dead_letters=True, return_state=True)

    assert (state.is_failed(), state.name) == (True, "Failed")
    assert state.message.startswith(f"nothing was sent again; dead letters to {ENDPOINT} stay in the queue: ")


async def test_a_replay_to_another_endpoint_sends_the_events_there(store, tmp_path):
    await FileEndpoint(path=tmp_path / "other").asave("other", overwrite=True)

    state = await replay_dead_letters(
        endpoint=ENDPOINT, to="file-endpoint/other", rate=100, return_state=True
    )

    assert (state.is_completed(), state.name) == (True, "Completed")
    assert state.message.startswith("3 sent to file-endpoint/other: 3 delivered")
    assert len((tmp_path / "other").read_text().splitlines()) == 3
    assert not (tmp_path / "out").exists()
    status = await store.status()
    assert (status.dead_letter, status.delivered, status.balanced) == (3, 3, True)

    state = await replay_dead_letters(endpoint=ENDPOINT, to="file-endpoint/other", return_state=True)
    assert state.is_failed()
    assert state.message == (
        "nothing was sent to file-endpoint/other; 3 skipped because file-endpoint/other already has a delivery of the event"
    )


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_replay_to_an_unknown_endpoint_fails_and_suggests_another(dry_run):
    state = await replay_dead_letters(
        all_dead_letters=True, to="file-endpoint/replayd", dry_run=dry_run, return_state=True
    )

    assert state.is_failed()
    assert (
        "no endpoint is named 'file-endpoint/replayd': did you mean file-endpoint/replayed" in state.message
    )
