"""The flow under a real Prefect server."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from sqlalchemy import Engine, event, select

from blocks import WebhookEndpoint
from flows.dead_letters import collect_dead_letters
from flows.emit import emit_events
from resonant.events import Event
from resonant.store import WorkerStore, schema
from support.file_endpoint import FileEndpoint
from support.postgresql import started_postgresql
from support.waiting import until

pytestmark = pytest.mark.engine

EVENT = {"type": "t", "source": "/s", "data": {"n": 1}}


@pytest.fixture
def engine(prefect_api, tmp_path, monkeypatch):
    """Prefect at work, and an empty store for this test."""
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{tmp_path}/store.db")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


async def statuses(tmp_path):
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db")
    status = await store.status()
    await store.close()
    return status


async def test_an_endpoint_that_is_no_http_gets_its_events_like_any_other(engine, tmp_path):
    path = tmp_path / "out.jsonl"
    await FileEndpoint(path=path).asave("log", overwrite=True)
    state = await emit_events(
        events=[EVENT, EVENT | {"data": 2}], endpoint="file-endpoint/log", return_state=True
    )
    written, status = path.read_text(), await statuses(tmp_path)

    assert state.message == "2 delivered, 0 retried, 0 parked, 0 dead-lettered"
    assert sorted(written.splitlines()) == ["2", '{"n":1}']
    assert (status.delivered, status.balanced) == (2, True)


async def test_errors_of_ones_own_endpoint_are_classified_like_all_others(engine, tmp_path):
    await FileEndpoint(path=tmp_path / "no-such-folder" / "out").asave("broken", overwrite=True)
    await emit_events(events=[EVENT | {"id": "e1"}], endpoint="file-endpoint/broken", return_state=True)
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db")
    dead_letters = await store.dead_letters()
    await store.close()
    [dead_letter] = dead_letters

    assert (dead_letter.category, dead_letter.reason, dead_letter.error_type) == (
        "permanent",
        "permanent",
        "FileNotFoundError",
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"events": [EVENT]}, "events need an endpoint"),
        ({"events": [{"type": "t"}], "endpoint": "file-endpoint/log"}, "source is missing"),
        ({"endpoint": "nowhere"}, "no endpoint is named 'nowhere'"),
        ({"events": [EVENT], "endpoint": "nowhere"}, "no endpoint is named 'nowhere'"),
        ({"policy": "nonsense"}, "no retry policy is named 'nonsense'"),
    ],
)
async def test_what_a_user_must_mend_fails_the_flow_with_one_line(engine, tmp_path, parameters, message):
    state = await emit_events(**parameters, return_state=True)

    assert state.is_failed()
    assert message in state.message
    assert (await statuses(tmp_path)).accepted == 0


async def test_a_run_for_every_endpoint_completes_and_names_those_that_cannot_be_opened(engine, tmp_path):
    from resonant.events import Event

    url = SecretStr("https://xn--/")
    await WebhookEndpoint(url=url).asave("bad-label", overwrite=True)
    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db")
    for name in ("bad-label", "file-endpoint/log", "shp"):
        await store.enqueue([Event(type="t", source="/s", data=1)], name)
    await store.close()
    state, status = await emit_events(return_state=True), await statuses(tmp_path)
    await WebhookEndpoint.adelete("bad-label")  # other flows name each unusable endpoint

    assert state.is_completed()
    assert state.message.startswith("1 delivered, 0 retried")
    assert "endpoint 'bad-label': its URL is not well-formed" in state.message
    assert "no endpoint is named 'shp'" in state.message
    assert (status.delivered, status.pending) == (1, 2)


async def test_a_conflict_shows_no_payload_in_what_prefect_keeps(engine, tmp_path):
    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)
    for data in ("first-payload", "second-payload"):
        state = await emit_events(
            events=[EVENT | {"id": "e1", "data": data}], endpoint="file-endpoint/log", return_state=True
        )

    assert state.is_failed()
    assert "id 'e1' already exists with different content" in state.message
    assert "payload" not in state.message


async def test_an_endpoint_whose_deadline_is_not_within_the_lease_is_refused(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "15")

    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)
    state = await emit_events(events=[EVENT], endpoint="file-endpoint/log", return_state=True)

    assert state.is_failed()
    assert "must be shorter than a worker's lease of 15 s" in state.message


async def test_collecting_takes_back_expired_leases_and_writes_the_triage(engine, tmp_path):
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db", clock=lambda: 1_000.0)
    from resonant.events import Event

    await store.enqueue([Event(type="t", source="/s", data=1)], "hooks")
    await store.begin(await store.claim("hooks", owner="a worker long gone", limit=1))
    await store.close()
    state, status = await collect_dead_letters(return_state=True), await statuses(tmp_path)

    assert state.message == "1 delivery rescued; 0 dead letters in 0 groups"
    assert (status.retrying, status.in_flight, status.balanced) == (1, 0, True)


async def test_collecting_takes_back_what_an_ended_flow_run_still_holds(engine, tmp_path):
    ended = await emit_events(return_state=True)
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db")
    from resonant.events import Event

    await store.enqueue([Event(type="t", source="/s", data=n) for n in range(2)], "hooks")
    await store.claim("hooks", owner=str(ended.state_details.flow_run_id), limit=1)
    await store.claim("hooks", owner="8c6f1c0e-0000-7000-8000-000000000000", limit=1)  # of some other server
    await store.close()
    state, status = await collect_dead_letters(return_state=True), await statuses(tmp_path)

    assert state.message.startswith("1 delivery rescued")
    assert (status.pending, status.in_flight) == (2, 1)


@pytest.mark.parametrize("chunk_size", [0, 100], ids=["task lane", "bulk lane"])
async def test_a_store_failure_is_logged_once_and_not_for_each_delivery(
    engine, tmp_path, monkeypatch, caplog, chunk_size
):
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "1.5")
    is_full = False

    def let_it_be_full(connection):
        if is_full:
            connection.exec_driver_sql("PRAGMA query_only = 1")

    async def main():
        nonlocal is_full
        await FileEndpoint(path=tmp_path / "out.jsonl", timeout=1).asave("log", overwrite=True)
        emitting = asyncio.create_task(
            emit_events(
                events=[EVENT | {"id": f"e{n}"} for n in range(300)],
                endpoint="file-endpoint/log",
                chunk_size=chunk_size,
                return_state=True,
            )
        )
        while not (tmp_path / "out.jsonl").exists():
            await asyncio.sleep(0.001)
        is_full = True
        return await emitting

    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addHandler(caplog.handler)
    event.listen(Engine, "begin", let_it_be_full)
    try:
        state = await main()
    finally:
        event.remove(Engine, "begin", let_it_be_full)
        for name in ("prefect.task_runs", "prefect.flow_runs"):
            logging.getLogger(name).removeHandler(caplog.handler)

    assert state.is_failed()
    assert "read-only" in state.message
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {record.name for record in errors} <= {"prefect.flow_runs"}
    assert len({record.getMessage() for record in errors}) == 1


@pytest.fixture
def own_postgresql():
    """A PostgreSQL server that the test may stop."""
    with started_postgresql() as server:
        yield server, server.empty_database()


@pytest.mark.slow
async def test_a_drain_waits_for_a_store_that_is_unavailable_while_it_sends(
    engine, own_postgresql, tmp_path, monkeypatch, caplog
):
    server, url = own_postgresql
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "3")
    path = tmp_path / "out.jsonl"
    await FileEndpoint(path=path, timeout=1).asave("log", overwrite=True)
    store = await WorkerStore.open(url)
    await store.enqueue([Event(type="t", source="/s", data=n) for n in range(300)], "file-endpoint/log")
    await store.close()

    async def store_is_balanced():
        status = await store.status()
        return status.delivered == 301 and status.balanced

    draining = asyncio.create_task(emit_events(successors=1, return_state=True))
    await until(path.exists)
    async with server.stopped_meanwhile():
        await until(lambda: "waiting for the store" in caplog.text)
    store = await WorkerStore.open(url)
    await store.enqueue([Event(type="t", source="/s", data="after")], "file-endpoint/log")
    await until(lambda: len(set(path.read_text().splitlines())) == 301)
    await until(store_is_balanced)
    columns = (schema.deliveries.c.attempts, schema.deliveries.c.crashes)
    found = await store.read(lambda connection: set(connection.execute(select(*columns).distinct())))
    await store.close()
    assert found == {(1, 0)}, "outcomes were kept, and no crash was charged"
    assert len(path.read_text().splitlines()) == 301, "nothing was sent twice"
    assert not draining.done()
    draining.cancel()
    await asyncio.wait([draining])
