"""Pausing and resuming an endpoint by a flow run, as from the UI."""

import pytest

from flows.endpoints import pause_endpoint, resume_endpoint
from resonant.events import Event
from resonant.store.audit import read_audit
from resonant.store.shared.gates import read_gate

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
async def event(store):
    """An event for an endpoint that Prefect does not know."""
    await store.enqueue([Event(id="evt_1", type="t", source="/s", data=1)], "removed-since")


async def test_an_endpoint_is_paused_and_resumed_by_flow_runs_that_the_audit_names(store):
    paused = await pause_endpoint("removed-since", reason="maintenance", return_state=True)

    assert paused.message.startswith("endpoint removed-since is paused: ")
    gate = await store.read(read_gate, "removed-since")
    assert (gate.state, gate.reason) == ("paused", "maintenance")
    assert str(paused.state_details.flow_run_id) in gate.paused_by

    again = await pause_endpoint("removed-since", return_state=True)
    assert again.is_completed()
    assert again.message.startswith("endpoint removed-since is already paused, since ")

    resumed = await resume_endpoint("removed-since", now=True, return_state=True)

    assert resumed.message.startswith("endpoint removed-since is resumed: ")
    assert resumed.message.endswith("; 0 parked deliveries are due now")
    assert (await store.read(read_gate, "removed-since")).state == "normal"
    entries = await store.read(read_audit)
    assert [entry.action for entry in entries] == ["resume", "pause"]
    assert str(resumed.state_details.flow_run_id) in entries[0].who


@pytest.mark.parametrize("flow", [pause_endpoint, resume_endpoint], ids=["pause", "resume"])
async def test_a_typo_in_the_name_fails_the_run(store, flow):
    state = await flow("typo-of-a-name", return_state=True)

    assert state.is_failed()
    assert "no endpoint is named 'typo-of-a-name'" in state.message
    assert await store.read(read_audit) == []
