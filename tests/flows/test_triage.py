"""The triage as an artifact, which the Prefect UI shows with its history."""

import re
import time
from dataclasses import replace
from uuid import uuid4

import pytest
from pydantic import SecretStr

from flows.dead_letters import collect_dead_letters
from resonant.blocks import WebhookEndpoint
from resonant.dead_letters.triage import triage
from resonant.delivery.retry import GiveUp
from resonant.display import markdown
from resonant.events import Event, rfc3339
from resonant.gate.pausing import pause
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.shared.gates import KEPT_SECONDS, FailingType, Gate, GateChange, change_gate
from resonant.testing import FixedClock
from support.desk import START, send
from support.dispatching import opened
from tasks.collect import GATES_ARTIFACT, TRIAGE_ARTIFACT

pytestmark = pytest.mark.engine


@pytest.fixture
def collect(url, read_artifact):
    """Put dead letters into the store, and run the flow; return its message and the artifacts that it wrote."""

    async def run(*failures: dict, event_id: str = "evt_{}"):
        async with opened(url, clock=FixedClock(START)) as store:
            for number, failure in enumerate(failures):
                event = Event(id=event_id.format(number), type="t", source="/s", data=1)
                await store.enqueue([event], "hooks")
                reason = "permanent" if failure["category"] == "permanent" else "exhausted"
                await send(store, "hooks", GiveUp(reason), **{"maybe_processed": False} | failure)
                store.clock.advance(60)
        state = await collect_dead_letters(return_state=True)
        triage, gates = [await read_artifact(key, state) for key in (TRIAGE_ARTIFACT, GATES_ARTIFACT)]
        return state.message, triage, gates.data

    return run


async def test_each_group_is_a_row_and_a_text_with_advice(collect):
    busy = {"category": "transient", "code": "http_503", "status_code": 503}
    rejected = {"category": "permanent", "code": "http_400", "error": "order 'o-1' is unknown"}
    rejected |= {"excerpt": '{"error": "no `id`"}', "maybe_processed": True}

    message, triage, _ = await collect(
        rejected, busy | {"error": "no answer after 1 s"}, busy | {"error": "no answer after 2 s"}
    )

    assert "; 3 dead letters in 2 groups" in message
    assert "`resonant detail ID`" in triage.description
    table, *texts = triage.data.split("\n\n### ")
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
        "- example: evt_2 from /s",
        f"- given up: {rfc3339(START + 60)} to {rfc3339(START + 120)}",
    ]
    assert re.fullmatch("- cause: [0-9a-f]{12}", facts.splitlines()[-1])
    assert second.startswith("2. 1 dead letter to hooks: http_400\n\nWhat to do: possibly processed: check ")
    assert '- answer: ``{"error": "no `id`"}``' in second


async def test_an_example_that_markdown_would_misread_is_not_part_of_the_advice(collect):
    rejected = {"category": "permanent", "code": "http_400", "error": "rejected"}

    message, triage, _ = await collect(rejected, event_id="`![x](http://trap.example)`")

    assert "1 dead letter in 1 group" in message
    assert "inspect one (`resonant detail ID`)" in triage.data
    assert "- example: `` `![x](http://trap.example)` `` from /s" in triage.data


async def test_of_many_groups_the_largest_are_shown_and_the_others_are_counted(collect, monkeypatch):
    monkeypatch.setattr("tasks.collect._MOST_GROUPS", 1)
    busy = {"category": "transient", "code": "http_503"}

    _, triage, _ = await collect(busy, busy, busy | {"code": "http_500"})

    assert triage.data.count("### ") == 1
    assert triage.data.endswith("1 smaller group not shown: `resonant dlq --group` lists all.")


async def test_acknowledged_causes_are_a_list_at_the_end(collect, url):
    busy = {"category": "transient", "code": "http_503"}
    await collect(busy, busy)
    async with opened(url, clock=FixedClock(START)) as store:
        [group] = await store.read(triage)
        note = "see | `ticket 7`"
        await store.write(acknowledge, group.fingerprint, who="ann", note=note, now=START)

    message, artifact, _ = await collect()

    assert "; 0 dead letters in 0 groups; acknowledged: 2 dead letters in 1 group" in message
    first, title, line = artifact.data.split("\n\n")
    assert first == "No other dead letters than those of acknowledged causes."
    assert title == "### Acknowledged"
    assert line == (
        f"- 2 dead letters to hooks: http_503, cause {group.fingerprint}, acknowledged by ann at 2023-11-14 22:14Z: "
        "`` see | `ticket 7` ``"
    )

    message, artifact, _ = await collect(busy | {"code": "http_500"}, event_id="new_{}")

    assert "; 1 dead letter in 1 group; acknowledged: 2 dead letters in 1 group" in message
    assert artifact.data.count("### 1. 1 dead letter to hooks: http_500") == 1
    assert artifact.data.endswith(line)


async def test_a_run_that_finds_new_dead_letters_ends_in_a_state_of_its_own(url, monkeypatch):
    monkeypatch.setattr("tasks.collect.TRIAGE_ARTIFACT", f"triage-{uuid4()}")
    async with opened(url, clock=FixedClock(START)) as store:

        async def fail(number, code):
            await store.enqueue([Event(id=f"evt_{number}", type="t", source="/s", data=1)], "hooks")
            await send(store, "hooks", GiveUp("exhausted"), category="transient", code=code)
            store.clock.advance(60)

        async def collected():
            state = await collect_dead_letters(return_state=True)
            assert state.is_completed()
            return state.name, "with new ones" in state.message

        assert await collected() == ("Completed", False)
        await fail(1, "http_503")
        assert await collected() == ("DeadLetters", True)
        assert await collected() == ("Completed", False)
        await fail(2, "http_500")
        await fail(3, "http_503")
        assert await collected() == ("DeadLetters", True)
        for group in await store.read(triage):
            await store.write(acknowledge, group.fingerprint, who="ann", note="", now=START)
        await fail(4, "http_500")
        assert await collected() == ("Completed", False), "its cause is acknowledged"


async def test_held_endpoints_are_a_table_of_their_own(collect, url):
    async with opened(url, clock=FixedClock(START)) as store:
        await store.enqueue([Event(id=f"evt_{n}", type="t", source="/s", data=1) for n in range(2)], "paid")
        await pause(store, "paid", who="ann", reason="a `b`")
        gate = Gate("crm", "probing", since=START, reason="20 failures in a row", probe_at=START + 5)
        await store.write(change_gate, GateChange(Gate("crm"), gate))

    message, triage, gates = await collect()

    assert message.startswith(
        "0 deliveries rescued; 0 dead letters in 0 groups; 2 deliveries held by 2 endpoints"
    )
    assert triage.data == "No dead letters."
    table, *texts = gates.split("\n\n### ")
    paid, crm, *_ = table.splitlines()[2:]
    assert re.fullmatch(r"\| paid \| paused \| 2 \| \d{4}-\d\d-\d\d \d\d:\d\dZ \|", paid)
    assert crm == "| crm | probing | 0 | 2023-11-14 22:13Z |"
    assert texts[0].split("\n\n") == [
        "paid: paused",
        "What to do: `resonant endpoint resume paid` sends again.",
        f"- reason: {markdown('a `b`')}\n- paused by: ann",
    ]
    assert (
        "- reason: 20 failures in a row\n- next probe: when a run sends again: start `resonant up` or `resonant emit`"
        in texts[1]
    )


async def test_the_types_that_fail_are_listed_without_those_that_are_forgotten(collect, url):
    now = time.time()
    bad = FailingType("bad", now - 60, "http 500", now + 60, now)
    forgotten = replace(bad, event_type="forgotten", tried_at=now - KEPT_SECONDS)
    async with opened(url) as store:
        await store.write(change_gate, GateChange(Gate("crm"), Gate("crm", failing=(forgotten, bad))))

    _, _, gates = await collect()

    assert f"- failing types: {markdown('bad (http 500)')}" in gates.splitlines()


async def test_an_endpoint_that_cannot_be_used_is_named_before_any_event_is_sent_to_it(collect):
    # As Prefect's form saves it, without a check.
    await WebhookEndpoint(url=SecretStr("http://127.0.0.1:9/")).asave("private", overwrite=True)
    try:
        message, _, gates = await collect()
    finally:
        await WebhookEndpoint.adelete("private")

    why = "endpoint 'private': 127.0.0.1 is a private or special address; --allow-private (allow_private on the endpoint) permits it"
    assert why in message
    assert "| private | unusable |  |  |" in gates
    assert f"### private: unusable\n\n{markdown(why)}" in gates
