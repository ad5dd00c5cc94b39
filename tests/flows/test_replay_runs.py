"""A replay in the UI: a name with the number of dead letters, and a state that says whether it did its work."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client

from flows.dead_letters import replay_dead_letters
from flows.endpoints import pause_endpoint
from resonant.dead_letters.cancel import cancel
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


async def test_a_replay_is_named_after_the_endpoint_and_its_dead_letters():
    state = await replay_dead_letters(endpoint=ENDPOINT, return_state=True)

    assert (state.is_completed(), state.name) == (True, "Completed")
    assert await name_of_run(state) == f"replay {ENDPOINT}: 3 dead letters"


async def test_a_replay_goes_on_when_its_progress_cannot_be_updated(monkeypatch, tmp_path, caplog):
    create = replay.acreate_progress_artifact

    async def create_and_lose(**options):
        artifact_id = await create(**options)
        async with get_client() as client:
            await client.delete_artifact(artifact_id)
        return artifact_id

    monkeypatch.setattr(replay, "acreate_progress_artifact", create_and_lose)

    state = await replay_dead_letters(endpoint=ENDPOINT, return_state=True)

    assert state.is_completed()
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
