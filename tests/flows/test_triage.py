"""The triage as an artifact, which the Prefect UI shows with its history."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import WebhookEndpoint
from flows.dead_letters import collect_dead_letters
from resonant.delivery.retry import GiveUp
from resonant.display import markdown
from resonant.events import Attempt, Event, rfc3339
from resonant.gate.pausing import pause
from resonant.store import Outcome, WorkerStore
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gates
from resonant.testing import FixedClock
from tasks.collect import GATES_ARTIFACT, TRIAGE_ARTIFACT

pytestmark = pytest.mark.engine

START = 1_700_000_000.0


@dataclass(frozen=True)
class Written:
    """What a run of the collect flow left behind."""

    message: str
    description: str
    text: str


@pytest.fixture
def collect(prefect_api, tmp_path, monkeypatch):
    """Put dead letters into an empty store, run the flow, and read the artifact that it wrote."""
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)

    async def run(*failures: dict, event_id: str = "evt_{}") -> Written:
        clock = FixedClock(START)
        store = await WorkerStore.open(url, clock=clock)
        for number, failure in enumerate(failures):
            await store.enqueue([Event(id=event_id.format(number), type="t", source="/s", data=1)], "hooks")
            [lease] = await store.claim("hooks", owner="w", limit=1)
            await store.begin([lease])
            attempt = Attempt(1, 1, clock(), 0.1, "failed", error_type="UnexpectedStatus", **failure)
            reason = "permanent" if failure["category"] == "permanent" else "exhausted"
            await store.record([Outcome(lease, attempt, GiveUp(reason))])
            clock.advance(60)
        await store.close()
        state = await collect_dead_letters(return_state=True)
        async with get_client() as client:
            artifact = await Artifact.aget(TRIAGE_ARTIFACT, client=client)
        assert artifact.flow_run_id == state.state_details.flow_run_id
        return Written(state.message, artifact.description, artifact.data)

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield run


async def test_each_group_is_a_row_and_a_text_that_says_what_to_do(collect):
    busy = {"category": "transient", "code": "http_503", "status_code": 503}
    rejected = {"category": "permanent", "code": "http_400", "error": "order 'o-1' is unknown"}
    rejected |= {"excerpt": '{"error": "no `id`"}', "maybe_processed": True}

    written = await collect(
        rejected, busy | {"error": "no answer after 1 s"}, busy | {"error": "no answer after 2 s"}
    )

    assert "; 3 dead letters in 2 groups" in written.message
    assert "`resonant detail ID`" in written.description
    table, *texts = written.text.split("\n\n### ")
    assert table.splitlines() == [
        "| group | dead letters | endpoint | code | reason | last |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 1 | 2 | hooks | http_503 | exhausted | 2023-11-14 22:15Z |",
        "| 2 | 1 | hooks | http_400 | permanent | 2023-11-14 22:13Z |",
    ]
    first, second = texts
    title, what_to_do, facts = first.split("\n\n")
    assert title == "1. 2 dead letters to hooks: http_503"
    assert what_to_do.startswith("What to do: wait until it answers (`resonant endpoint test hooks`), then ")
    assert facts.splitlines()[:-1] == [
        "- category: transient",
        "- error: `no answer after <n> s`",
        "- example: evt_2",
        f"- given up: {rfc3339(START + 60)} to {rfc3339(START + 120)}",
    ]
    assert re.fullmatch("- cause: [0-9a-f]{12}", facts.splitlines()[-1])
    assert second.startswith("2. 1 dead letter to hooks: http_400\n\nWhat to do: possibly processed: check ")
    assert '- answer: ``{"error": "no `id`"}``' in second


async def test_an_example_that_markdown_would_misread_is_not_part_of_the_advice(collect):
    rejected = {"category": "permanent", "code": "http_400", "error": "rejected"}

    written = await collect(rejected, event_id="`![x](http://trap.example)`")

    assert "1 dead letter in 1 group" in written.message
    assert "inspect one (`resonant detail ID`)" in written.text
    assert "- example: `` `![x](http://trap.example)` ``" in written.text


async def test_of_many_groups_the_largest_are_shown_and_the_others_are_counted(collect, monkeypatch):
    monkeypatch.setattr("tasks.collect._MOST_GROUPS", 1)
    busy = {"category": "transient", "code": "http_503"}

    written = await collect(busy, busy, busy | {"code": "http_500"})

    assert written.text.count("### ") == 1
    assert written.text.endswith("1 smaller group not shown: `resonant dlq --group` lists all.")


async def test_an_empty_queue_writes_an_empty_triage_over_the_last_one(collect):
    written = await collect()

    assert written.message.startswith("0 deliveries rescued; 0 dead letters in 0 groups")
    assert written.text == "No dead letters."


async def test_held_endpoints_are_a_table_of_their_own(collect, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    clock = FixedClock(START)
    store = await WorkerStore.open(url, clock=clock)
    await store.enqueue([Event(id=f"evt_{n}", type="t", source="/s", data=1) for n in range(2)], "paid")
    await pause(store, "paid", who="ann", reason="a `b`")
    gate = Gate("crm", "probing", since=START, reason="20 failures in a row", probe_at=START + 5)
    await store.write(change_gate, GateChange(Gate("crm"), gate))
    paused_at = (await store.read(read_gates))["paid"].since
    await store.close()

    written = await collect()

    assert written.message.startswith(
        "0 deliveries rescued; 0 dead letters in 0 groups; 2 deliveries held by 2 endpoints"
    )
    async with get_client() as client:
        artifact = await Artifact.aget(GATES_ARTIFACT, client=client)
    table, *texts = artifact.data.split("\n\n### ")
    paused_since, probing_since = (f"{rfc3339(at)[:16]}Z".replace("T", " ") for at in (paused_at, START))
    assert table.splitlines()[2:4] == [
        f"| paid | paused | 2 | {paused_since} |",
        f"| crm | probing | 0 | {probing_since} |",
    ]
    assert texts[0].split("\n\n") == [
        "paid: paused",
        "What to do: `resonant endpoint resume paid` sends again.",
        f"- reason: {markdown('a `b`')}\n- paused by: ann",
    ]
    assert f"- reason: 20 failures in a row\n- next probe: {rfc3339(START + 5)}" in texts[1]


@pytest.fixture
async def private(prefect_api):
    """An endpoint as Prefect's form saves it, without a check."""
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(url=SecretStr("http://127.0.0.1:9/")).asave("private", overwrite=True)
        yield
        await WebhookEndpoint.adelete("private")


@pytest.mark.usefixtures("private")
async def test_an_endpoint_that_cannot_be_used_is_named_before_any_event_is_sent_to_it(collect):
    written = await collect()

    why = "endpoint 'private': 127.0.0.1 is a private or special address; --allow-private (allow_private on the endpoint) permits it"
    assert why in written.message
    async with get_client() as client:
        artifact = await Artifact.aget(GATES_ARTIFACT, client=client)
    assert "| private | unusable |  |  |" in artifact.data
    assert f"### private: unusable\n\n{markdown(why)}" in artifact.data
