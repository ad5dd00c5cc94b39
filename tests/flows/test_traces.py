"""Spans of attempts in the flow, where Prefect makes spans of its flow runs and task runs too."""

import pytest

from flows.emit import emit_events
from support.file_endpoint import FileEndpoint
from support.traces import ids, ids_in, install_sdk

pytestmark = pytest.mark.engine

CREATED_IN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = {"type": "t", "source": "/s", "data": 1, "traceparent": CREATED_IN}


@pytest.fixture
async def emitted(url, tmp_path, monkeypatch):
    """Run the flow for one event; returns the finished spans of Resonant and those of Prefect."""
    exporter, _ = install_sdk(monkeypatch)

    async def emit(event=EVENT, **parameters):
        await FileEndpoint(path=tmp_path / "out").asave("traced", overwrite=True)
        state = await emit_events(
            events=[event], endpoint="file-endpoint/traced", **parameters, return_state=True
        )
        assert state.is_completed()
        spans = exporter.get_finished_spans()
        by = {name: [each for each in spans if each.instrumentation_scope.name == name] for name in SCOPES}
        return by["resonant"], by["prefect"]

    return emit


SCOPES = ("resonant", "prefect")


@pytest.mark.parametrize("lane", ["task", "bulk"])
async def test_the_span_of_a_task_run_is_linked_and_not_the_parent_of_an_attempt(emitted, lane):
    [attempt], runs = await emitted(lane=lane)
    assert (attempt.parent.trace_id, attempt.parent.span_id) == ids_in(CREATED_IN)
    created_in, task_run = map(ids, attempt.links)
    assert created_in == ids_in(CREATED_IN)
    assert task_run in {ids(run) for run in runs if run.attributes["prefect.run.type"] == "task"}


async def test_an_event_given_to_the_flow_without_a_trace_is_created_in_the_span_of_the_flow_run(emitted):
    [attempt], runs = await emitted({"type": "t", "source": "/s", "data": 1})
    [flow_run] = [run for run in runs if run.attributes["prefect.run.type"] == "flow"]
    assert (attempt.parent.trace_id, attempt.parent.span_id) == ids(flow_run)


@pytest.mark.parametrize(("setting", "number"), [("link", 1), ("off", 0)])
async def test_the_setting_decides_the_place_in_the_traces_or_turns_the_spans_off(
    emitted, monkeypatch, setting, number
):
    monkeypatch.setenv("RESONANT_TRACE", setting)
    attempts, runs = await emitted()
    assert runs
    assert len(attempts) == number
    for attempt in attempts:
        assert attempt.parent is None
        assert attempt.context.trace_id not in {run.context.trace_id for run in runs}
