"""The metrics flow under a real Prefect server."""

import base64
import re

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pydantic import SecretStr

from flows.metrics import export_metrics
from resonant.blocks import WebhookEndpoint
from resonant.delivery.retry import Park
from resonant.events import Event
from support.desk import send

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
async def events(store):
    """Two events of which nothing is sent yet."""
    await store.enqueue([Event(type="t", source="/s", data=n) for n in range(2)], "hooks")


def accepted(path):
    [family] = [each for each in parse_text(path.read_text()) if each.name == "resonant_events_accepted"]
    return family.samples[0].value


async def export(**parameters):
    """Run the flow; return its state and the artifacts that it wrote."""
    state = await export_metrics(return_state=True, **parameters)
    of_run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    async with get_client() as client:
        return state, await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run))


def svgs(markdown):
    return [
        base64.b64decode(image).decode()
        for image in re.findall(
            r"^!\[[\w ,]+\]\(data:image/svg\+xml;base64,([\w+/=]+)\)$", markdown, re.MULTILINE
        )
    ]


async def fail_one(store, endpoint, **options):
    """Store an event, and park it or another one after its first attempt."""
    await store.enqueue([Event(type="t", source="/s", data=1)], endpoint, **options)
    await send(store, endpoint, Park(40.0, store.clock() + 40))


async def test_a_textfile_that_cannot_be_written_fails_the_run_with_one_line_and_the_rest_is_done(tmp_path):
    (tmp_path / "file").write_text("no folder")
    state, [artifact] = await export(textfile=str(tmp_path / "file" / "resonant.prom"))

    assert state.is_failed()
    assert state.message == f"{tmp_path / 'file'}: File exists"
    assert "2 are unfinished" in artifact.data


async def test_counts_that_cannot_be_merged_fail_the_run_and_the_rest_is_done(store, tmp_path):
    await fail_one(store, "hooks")
    full = "CREATE TRIGGER full BEFORE DELETE ON resonant_tallies BEGIN SELECT RAISE(ABORT, 'no room'); END"
    await store.write(lambda connection: connection.exec_driver_sql(full))
    state, artifacts = await export(textfile=str(tmp_path / "resonant.prom"))

    assert state.is_failed()
    assert "no room" in state.message
    assert "3 are unfinished" in next(each.data for each in artifacts if each.key == "metrics")
    assert accepted(tmp_path / "resonant.prom") == 3


async def test_it_writes_prometheus_text_and_the_statistics_as_an_artifact(store, tmp_path):
    odd = Event(type="<b>|`x`|[y](http://z.example)</b>", source="/s", data=1)
    await store.enqueue([odd], "hooks")

    state, [artifact] = await export()

    assert state.is_completed()
    assert "- of 0 ended events were delivered, 3 are unfinished" in state.message
    assert accepted(tmp_path / "home" / "metrics" / "resonant.prom") == 3
    assert artifact.type == "markdown"
    health, rest = artifact.data.split("\n\n", 1)
    assert health == "- **hooks**: normal; no attempt in the last hour; no open dead letter"
    assert rest.startswith(state.message)
    assert "| hooks | 0 | 0 | 0 | 3 | - |" in artifact.data
    _, _, table = artifact.data.partition("### By event type")
    assert "| t | 0 | 0 | 2 | 0 | 0 | - |" in table
    assert "| ``<b>\\x7c`x`\\x7c[y](http://z.example)</b>`` | 0 | 0 | 1 |" in table, "no markdown"
    assert svgs(artifact.data) == []


async def test_charts_come_before_the_tables_and_delays_are_drawn_by_policy(store):
    block = WebhookEndpoint(url=SecretStr("http://127.0.0.1:1"), allow_private=True, policy="classic")
    await block.asave("measured", overwrite=True)
    await fail_one(store, "measured")  # by the endpoint's policy
    await fail_one(store, "measured", policy="default")  # as the producer asked
    await fail_one(store, "removed")  # by the default policy, since no other is known
    await fail_one(store, "also-measured", policy="no-such-policy")  # and here too
    _, [artifact] = await export()
    assert artifact.data.rindex("![") < artifact.data.index("###")
    durations, default, classic = svgs(artifact.data)
    assert "Duration of an attempt" in durations, "no event has ended, so the charts of events are left out"
    assert "policy “default”" in default
    assert "policy “classic”" in classic
    assert all(f">{name}<" in default for name in ("measured", "removed", "also-measured"))
    assert ">measured<" in classic
    assert ">removed<" not in classic


async def test_the_textfile_can_be_set_and_given(tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_METRICS_TEXTFILE", str(tmp_path / "set.prom"))
    await export_metrics(return_state=True)
    await export_metrics(textfile=str(tmp_path / "given.prom"), window_hours=1, return_state=True)
    assert accepted(tmp_path / "set.prom") == accepted(tmp_path / "given.prom") == 2


async def test_old_counts_are_merged_and_no_counter_falls(store, tmp_path, caplog):
    path = tmp_path / "home" / "metrics" / "resonant.prom"
    for endpoint in ("hooks", "crm"):
        await fail_one(store, endpoint)
        await export()
    # Two folds that are not of the same minute leave more rows.
    assert re.search(r"[1-9] rows of counts merged", caplog.text)
    before = {line for line in path.read_text().splitlines() if "_total{" in line}
    await export()
    assert before <= set(path.read_text().splitlines())
