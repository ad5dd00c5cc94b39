"""A flow run fails on an unknown endpoint, code or id, or a time without a zone: they would look like success."""

from __future__ import annotations

import asyncio

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dead_letters import cancel_deliveries, replay_dead_letters
from resonant.input_lines import event_from_fields
from resonant.store import WorkerStore

pytestmark = pytest.mark.engine

EVENT = {"id": "evt_1", "type": "order.paid", "source": "/shop", "data": 1}


@pytest.fixture(scope="module", autouse=True)
def stored(prefect_api, tmp_path_factory):
    """An event for an endpoint that the store knows and Prefect does not."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}"

    async def enqueue():
        store = await WorkerStore.open(url)
        await store.enqueue([event_from_fields(EVENT)], "removed-since")
        await store.close()

    asyncio.run(enqueue())
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_api}):
        patch.setenv("RESONANT_DATABASE_URL", url)
        yield


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("flow", [replay_dead_letters, cancel_deliveries], ids=["replay", "cancel"])
@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"endpoint": "typo"}, "no endpoint is named 'typo'"),
        (
            {"code": "connection_refused"},
            "no failure has the code 'connection_refused': did you mean connect_refused",
        ),
        ({"ids": ["evt_1", "evt_2"]}, "no event has the id evt_2"),
        ({"since": "2026-01-31T12:00:00"}, "the time 2026-01-31T12:00:00 has no time zone"),
    ],
    ids=["endpoint", "code", "id", "time"],
)
async def test_a_typo_in_a_form_fails_its_run(flow, selection, said, dry_run):
    state = await flow(**selection, dry_run=dry_run, return_state=True)

    assert state.is_failed()
    assert said in state.message


@pytest.mark.parametrize("flow", [replay_dead_letters, cancel_deliveries], ids=["replay", "cancel"])
@pytest.mark.parametrize(
    "selection", [{"endpoint": "removed-since"}, {"code": "connect_refused"}, {"ids": ["evt_1"]}], ids=str
)
async def test_a_known_name_that_selects_nothing_now_completes(flow, selection):
    state = await flow(**selection, dry_run=True, return_state=True)

    assert state.is_completed()
