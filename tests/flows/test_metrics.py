"""The metrics flow under a real Prefect server."""

from __future__ import annotations

import asyncio

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings
from prometheus_client.parser import text_string_to_metric_families as parse_text

from flows.metrics import export_metrics
from resonant.events import make_event
from resonant.store import open_store

pytestmark = pytest.mark.engine


@pytest.fixture
def engine(prefect_api, tmp_path, monkeypatch):
    """Prefect at work, and a store with two events of which nothing is sent yet."""
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))

    async def fill():
        store = await open_store(url)
        await store.enqueue([make_event(type="t", source="/s", data=n) for n in range(2)], "hooks")
        await store.close()

    asyncio.run(fill())
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


def accepted(path):
    [family] = [each for each in parse_text(path.read_text()) if each.name == "resonant_events_accepted"]
    return family.samples[0].value


def test_it_writes_prometheus_text_and_the_statistics_as_an_artifact(engine, tmp_path):
    async def main():
        state = await export_metrics(return_state=True)
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["metrics"]))
            )
        return state, [each for each in found if each.flow_run_id == state.state_details.flow_run_id]

    state, [artifact] = asyncio.run(main())

    assert state.is_completed()
    assert "of 0 events that ended - were delivered, 2 are unfinished" in state.message
    assert accepted(tmp_path / "home" / "metrics" / "resonant.prom") == 2
    assert artifact.type == "markdown"
    assert artifact.data.startswith(state.message)
    assert "| hooks | 0 | 0 | 0 | 2 | - |" in artifact.data


def test_the_textfile_can_be_set_and_given(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_METRICS_TEXTFILE", str(tmp_path / "set.prom"))
    asyncio.run(export_metrics(return_state=True))
    asyncio.run(export_metrics(textfile=str(tmp_path / "given.prom"), window_hours=1, return_state=True))
    assert accepted(tmp_path / "set.prom") == accepted(tmp_path / "given.prom") == 2


def test_a_textfile_that_cannot_be_written_fails_the_flow_with_one_line(engine, tmp_path):
    (tmp_path / "file").write_text("no folder")
    state = asyncio.run(export_metrics(textfile=str(tmp_path / "file" / "x.prom"), return_state=True))
    assert state.is_failed()
    assert state.message == f"{tmp_path / 'file'}: File exists"
