"""A flow run fails on an unknown endpoint, code or id, or a time without a zone: they would look like success."""

import pytest

from flows.dead_letters import cancel_deliveries, replay_dead_letters
from resonant.events import Event

pytestmark = pytest.mark.engine

FLOWS = pytest.mark.parametrize("flow", [replay_dead_letters, cancel_deliveries], ids=["replay", "cancel"])


@pytest.fixture(autouse=True)
async def stored(store):
    """An event for an endpoint that the store knows and Prefect does not."""
    await store.enqueue([Event(id="evt_1", type="order.paid", source="/shop", data=1)], "removed-since")


@pytest.mark.parametrize("dry_run", [True, False])
@FLOWS
async def test_an_unknown_endpoint_in_a_form_fails_its_run(flow, dry_run):
    state = await flow(endpoint="typo", dry_run=dry_run, return_state=True)

    assert state.is_failed()
    assert "no endpoint is named 'typo'" in state.message


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (
            {"code": "connection_refused"},
            "no failure has the code 'connection_refused': did you mean connect_refused",
        ),
        ({"endpoint": "removed-sinse"}, "no endpoint is named 'removed-sinse': did you mean removed-since?"),
        ({"ids": ["evt_1", "evt_2"]}, "no event has the id evt_2"),
        ({"since": "2026-01-31T12:00:00"}, "the time 2026-01-31T12:00:00 has no time zone"),
    ],
    ids=["code", "endpoint of the store", "id", "time"],
)
async def test_another_typo_in_a_form_fails_its_run(selection, said):
    state = await replay_dead_letters(**selection, return_state=True)

    assert state.is_failed()
    assert said in state.message


@FLOWS
async def test_known_names_that_select_nothing_now_complete(flow):
    for selection in ({"endpoint": "removed-since"}, {"code": "connect_refused"}, {"ids": ["evt_1"]}):
        state = await flow(**selection, dry_run=True, return_state=True)
        assert state.is_completed(), selection
