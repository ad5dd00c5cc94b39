"""The triage as an artifact, which the Prefect UI shows with its history."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dead_letters import collect_dead_letters
from resonant.dead_letters.advice import advise
from resonant.dead_letters.pausing import pause
from resonant.delivery.retry import GiveUp
from resonant.display import markdown
from resonant.events import Attempt, Event, rfc3339
from resonant.store import Outcome, open_store
from resonant.store.gates import Gate, GateChange, change_gate
from resonant.testing import FixedClock
from tasks.collect import GATES_ARTIFACT, TRIAGE_ARTIFACT

pytestmark = pytest.mark.engine

START = 1_700_000_000.0
COLUMNS = [
    *("count", "endpoint", "code", "error", "answer", "what to do", "reason", "category"),
    *("first", "last", "example", "fingerprint"),
]


@dataclass(frozen=True)
class Written:
    """What a run of the collect flow left behind."""

    message: str
    description: str
    table: list[dict]


@pytest.fixture
def collect(prefect_api, tmp_path, monkeypatch):
    """Put dead letters into an empty store, run the flow, and read the artifact that it wrote."""
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)

    async def run(*failures: dict) -> Written:
        clock = FixedClock(START)
        store = await open_store(url, clock=clock)
        for number, failure in enumerate(failures):
            await store.enqueue([Event(id=f"evt_{number}", type="t", source="/s", data=1)], "hooks")
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
        return Written(state.message, artifact.description, json.loads(artifact.data))

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield run


async def test_each_group_is_a_row_that_says_what_to_do(collect):
    busy = {"category": "transient", "code": "http_503", "status_code": 503}
    rejected = {"category": "permanent", "code": "http_400", "error": "order 'o-1' is unknown"}
    rejected |= {"excerpt": '{"error": "no `id`"}', "maybe_processed": True}

    written = await collect(
        rejected, busy | {"error": "no answer after 1 s"}, busy | {"error": "no answer after 2 s"}
    )

    assert written.message.endswith("3 dead letters in 2 groups")
    assert "`resonant detail ID`" in written.description
    first, second = written.table
    assert list(first) == list(second) == COLUMNS
    assert len(first["fingerprint"]) == len(second["fingerprint"]) == 12
    assert first | {"fingerprint": ""} == {
        "count": 2,
        "endpoint": "hooks",
        "code": "http_503",
        "error": "`no answer after <n> s`",
        "answer": "",
        "what to do": advise(code="http_503", reason="exhausted", category="transient", endpoint="hooks"),
        "reason": "exhausted",
        "category": "transient",
        "first": rfc3339(START + 60),
        "last": rfc3339(START + 120),
        "example": "evt_2",
        "fingerprint": "",
    }
    assert (second["count"], second["error"]) == (1, "`order <text> is unknown`")
    assert second["answer"] == """``{"error": "no `id`"}``"""
    assert second["what to do"] == (
        "possibly processed: check the receiver before a replay; "
        + advise(
            code="http_400",
            reason="permanent",
            category="permanent",
            endpoint="hooks",
            event_id=second["example"],
        )
    )


async def test_an_empty_queue_writes_an_empty_table_over_the_last_one(collect):
    written = await collect()

    assert written.message == "0 deliveries rescued; 0 dead letters in 0 groups"
    assert written.table == []


async def test_held_endpoints_are_a_table_of_their_own(collect, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    clock = FixedClock(START)
    store = await open_store(url, clock=clock)
    await store.enqueue([Event(id=f"evt_{n}", type="t", source="/s", data=1) for n in range(2)], "paid")
    await pause(store, "paid", who="ann", reason="a `b`")
    gate = Gate("crm", "probing", since=START, reason="20 failures in a row", probe_at=START + 5)
    await store.write(change_gate, GateChange(Gate("crm"), gate))
    await store.close()

    written = await collect()

    assert (
        written.message
        == "0 deliveries rescued; 0 dead letters in 0 groups; 2 deliveries held by 2 endpoints"
    )
    async with get_client() as client:
        artifact = await Artifact.aget(GATES_ARTIFACT, client=client)
    paused, probing = json.loads(artifact.data)
    assert paused == {
        "endpoint": "paid",
        "state": "paused",
        "since": rfc3339(START),
        "held": 2,
        "reason": markdown("a `b`"),
        "what to do": "`resonant endpoint resume paid` sends again",
        "pace": "",
        "next probe": "",
        "paused by": "ann",
    }
    assert (probing["endpoint"], probing["next probe"]) == ("crm", rfc3339(START + 5))
