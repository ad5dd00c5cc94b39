"""The parameters of the flows that select deliveries."""

from datetime import UTC, datetime

import pytest

import flows.dead_letters
from flows.dead_letters import cancel_deliveries, replay_dead_letters
from resonant.dead_letters.replay import ReplayRequest
from resonant.store.views.selection import Selection

FLOWS = pytest.mark.parametrize("flow", [replay_dead_letters, cancel_deliveries], ids=["replay", "cancel"])
SELECTIONS = {
    "ids": ["evt_1"],
    "event_type": "order.*",
    "source": "/shop",
    "endpoint": "orders",
    "category": "transient",
    "code": "http_503",
    "reason": "expired",
    "text": "refused",
    "since": datetime(2026, 1, 31, tzinfo=UTC),
    "until": datetime(2026, 2, 1, tzinfo=UTC),
}
OTHERS = {
    "replay-dead-letters": {
        "all_dead_letters",
        "include_permanent",
        "limit",
        "rate",
        "max_rounds",
        "to",
        "policy",
        "dry_run",
    },
    "cancel-deliveries": {"all_deliveries", "dry_run"},
}


class Selected(Exception):
    """Carries the selection of a run, which ends there."""


@pytest.fixture
def select(tmp_path, monkeypatch):
    """Run a flow until it checks the names in its selection; return the selection."""
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{tmp_path}/store.db")

    async def check_names(_store, selection, _to=None):
        raise Selected(selection)

    monkeypatch.setattr(flows.dead_letters, "check_names", check_names)

    async def run(flow, **parameters):
        with pytest.raises(Selected) as selected:
            await flow.fn(**parameters)
        return selected.value.args[0]

    return run


@FLOWS
async def test_every_field_of_a_form_reaches_the_selection(flow, select):
    fields = SELECTIONS.keys() & flow.parameters.properties.keys()
    for name in fields:
        selection = await select(flow, **{name: SELECTIONS[name]}, dry_run=True)
        assert selection == Selection.from_form(**{name: SELECTIONS[name]}), name
        assert not selection.is_empty
    assert set(flow.parameters.properties) == fields | OTHERS[flow.name]
    # Only a purge selects by cause, and an unfinished delivery has no reason.
    assert Selection.model_fields.keys() - fields == {"cause"} | ({"reason"} - fields)


async def test_a_request_of_the_command_line_is_understood_by_the_flow(select):
    selection = Selection(ids=("evt_1",), event_type="order.*", category="permanent", since=0.25)
    request = ReplayRequest(selection, include_permanent=True, limit=3, rate=0.5, max_rounds=5, to="crm")

    received = replay_dead_letters.validate_parameters(request.as_parameters())

    assert await select(replay_dead_letters, **received | {"dry_run": True}) == selection
    asked = {"include_permanent": True, "limit": 3, "rate": 0.5, "max_rounds": 5, "to": "crm"}
    assert {name: received[name] for name in asked} == asked
