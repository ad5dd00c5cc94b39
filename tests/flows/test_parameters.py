"""The parameters of the flows that select deliveries."""

from __future__ import annotations

import pytest

from flows.dead_letters import cancel_deliveries, replay_dead_letters
from resonant.dead_letters.replay import ReplayRequest
from resonant.store.views.selection import Selection


@pytest.mark.parametrize(
    ("flow", "others"),
    [
        (
            replay_dead_letters,
            {"all_dead_letters", "include_permanent", "limit", "rate", "policy", "dry_run"},
        ),
        (cancel_deliveries, {"all_deliveries", "dry_run"}),
    ],
    ids=["replay", "cancel"],
)
def test_every_field_of_a_selection_is_a_parameter_of_its_own(flow, others):
    words = set(Selection.model_fields) - {"cause"}  # only a purge selects by it
    words -= {"reason"} if flow is cancel_deliveries else set()

    assert set(flow.parameters.properties) == words | others


def test_a_request_of_the_command_line_is_understood_by_the_flow():
    selection = Selection(ids=("evt_1",), event_type="order.*", category="permanent", since=0.25)
    request = ReplayRequest(selection, include_permanent=True, limit=3, rate=0.5)

    received = replay_dead_letters.validate_parameters(request.as_parameters())

    assert Selection.from_parameters(received) == selection
    assert {name: received[name] for name in ("include_permanent", "limit", "rate")} == {
        "include_permanent": True,
        "limit": 3,
        "rate": 0.5,
    }
