"""The flow under a real Prefect server."""

import asyncio
import logging

import pytest
from prefect import flow, runtime
from prefect.states import Crashed
from pydantic import SecretStr
from sqlalchemy import Engine, event, select

from flows.dead_letters import collect_dead_letters
from flows.emit import emit_events
from resonant.blocks import WebhookEndpoint
from resonant.events import Event
from resonant.local.work_pool import LOST
from resonant.routing import new_subscription
from resonant.store import WorkerStore, schema
from resonant.store.shared import drains
from resonant.store.shared.subscriptions import add_subscription
from support.file_endpoint import FileEndpoint
from support.postgresql import started_postgresql
from support.waiting import until

pytestmark = pytest.mark.engine

EVENT = {"type": "t", "source": "/s", "data": {"n": 1}}
LOG = "file-endpoint/log"


@pytest.fixture
async def log(url, tmp_path):
    """The file that the endpoint ``LOG`` appends to."""
    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)
    return tmp_path / "out"


async def store_events(store, *names, count=1):
    for name in names:
        await store.enqueue([Event(type="t", source="/s", data=n) for n in range(count)], name)


async def test_an_endpoint_without_http_gets_its_events_like_any_other(store, log):
    state = await emit_events(events=[EVENT, EVENT | {"data": 2}], endpoint=LOG, return_state=True)

    assert state.message == "2 delivered, 0 retried, 0 parked, 0 dead-lettered"
    assert sorted(log.read_text().splitlines()) == ["2", '{"n":1}']
    status = await store.status()
    assert (status.delivered, status.balanced) == (2, True)


async def test_without_an_endpoint_the_subscriptions_choose_the_endpoints(store, log):
    await store.write(add_subscription, new_subscription(LOG, {"types": ["t"]}), who="a test", now=0.0)
    state = await emit_events(events=[EVENT], return_state=True)

    assert state.message == "1 delivered, 0 retried, 0 parked, 0 dead-lettered"
    assert log.read_text().splitlines() == ['{"n":1}']


async def test_errors_of_an_own_endpoint_are_classified_like_all_others(store, tmp_path):
    await FileEndpoint(path=tmp_path / "no-such-folder" / "out").asave("broken", overwrite=True)
    await emit_events(events=[EVENT], endpoint="file-endpoint/broken", return_state=True)
    [dead] = await store.dead_letters()

    assert (dead.category, dead.reason, dead.error_type) == ("permanent", "permanent", "FileNotFoundError")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"events": [EVENT]}, "no subscription wants type 't' of source '/s'"),
        ({"events": [{"type": "t"}], "endpoint": LOG}, "source is missing"),
        ({"endpoint": "nowhere"}, "no endpoint is named 'nowhere'"),
        ({"events": [EVENT], "endpoint": "nowhere"}, "no endpoint is named 'nowhere'"),
        ({"policy": "nonsense"}, "no retry policy is named 'nonsense'"),
    ],
)
async def test_a_mistake_of_the_user_fails_the_flow_with_one_line(store, parameters, message):
    state = await emit_events(**parameters, return_state=True)

    assert state.is_failed()
    assert message in state.message
    assert (await store.status()).accepted == 0


async def test_a_run_for_every_endpoint_completes_and_names_those_that_cannot_be_opened(store, log):
    await WebhookEndpoint(url=SecretStr("https://xn--/")).asave("bad-label", overwrite=True)
    await store_events(store, "bad-label", LOG, "shp")
    state, status = await emit_events(return_state=True), await store.status()
    await WebhookEndpoint.adelete("bad-label")  # other flows name each unusable endpoint

    assert (state.is_completed(), state.name) == (True, "Waiting")
    assert state.message.startswith("1 delivered, 0 retried")
    assert "deliveries to bad-label wait: endpoint 'bad-label': its URL is not well-formed" in state.message
    assert "deliveries to shp wait: no endpoint is named 'shp'" in state.message
    assert (status.delivered, status.pending) == (1, 2)


@pytest.mark.usefixtures("log")
async def test_an_endpoint_whose_timeout_is_not_shorter_than_the_lease_is_refused(monkeypatch):
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "15")

    state = await emit_events(events=[EVENT], endpoint=LOG, return_state=True)

    assert state.is_failed()
    assert "must be shorter than a worker's lease of 15 s" in state.message


async def test_collecting_rescues_the_leases_of_processes_and_runs_that_have_ended_and_no_others(
    url, store, monkeypatch
):
    async def report_again(seconds):
        if seconds:
            await store.write(drains.beat, None, owner=cut_off, endpoint=None, clock=store.clock)

    monkeypatch.setattr("tasks.collect.has_ended", lambda process: process == "ended")
    monkeypatch.setattr("tasks.collect.sleep", report_again)
    ended, reporting, cut_off = [
        str((await emit_events(return_state=True)).state_details.flow_run_id) for _ in range(3)
    ]
    owners = {
        "of-a-process": "a drain",
        "of-a-run": ended,
        "of-a-run-that-reports": reporting,  # so its state was set to an end by hand
        "of-a-run-that-reports-again": cut_off,  # the store was away for longer than a lease
        "of-another-server": "8c6f1c0e-0000-7000-8000-000000000000",
    }
    await store_events(store, *owners)
    for endpoint, owner in owners.items():
        await store.begin(await store.claim(endpoint, owner=owner, limit=1))
    for owner, options in (("a drain", {"process": "ended"}), (reporting, {})):
        await store.write(drains.beat, None, owner=owner, endpoint=None, clock=store.clock, **options)
    long_ago = await WorkerStore.open(url, clock=lambda: 1_000.0)
    await store_events(long_ago, "expired")  # drains rescue it, after they have watched
    await long_ago.begin(await long_ago.claim("expired", owner="of another machine", limit=1))
    await long_ago.close()

    state, status = await collect_dead_letters(return_state=True), await store.status()

    assert state.message == "2 deliveries rescued; 0 dead letters in 0 groups"
    rescued = {each.name for each in status.endpoints if each.retrying}
    assert rescued == {"of-a-process", "of-a-run"}
    assert {each.name for each in status.endpoints if each.in_flight} == {*owners} - rescued
    assert status.balanced


@pytest.mark.parametrize(("message", "left"), [("Process exited with status code -9", 0), (LOST, 1)])
async def test_collecting_leaves_the_leases_of_a_crashed_run_if_it_may_be_alive(
    store, monkeypatch, message, left
):
    async def skip(_seconds):
        pass

    monkeypatch.setattr("tasks.collect.sleep", skip)

    @flow
    async def crash():
        assert await store.claim("hooks", owner=runtime.flow_run.id, limit=1)
        return Crashed(message=message)

    await store_events(store, "hooks")
    await crash(return_state=True)
    await collect_dead_letters()
    assert (await store.status()).in_flight == left


@pytest.mark.parametrize("lane", ["task", "bulk"])
async def test_a_store_failure_is_logged_once_and_not_for_each_delivery(log, monkeypatch, caplog, lane):
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "1.5")
    await FileEndpoint(path=log, timeout=1).asave("log", overwrite=True)
    is_full = False

    def let_it_be_full(connection):
        if is_full:
            connection.exec_driver_sql("PRAGMA query_only = 1")

    async def main():
        nonlocal is_full
        events = [EVENT | {"id": f"e{n}"} for n in range(300)]
        emitting = asyncio.create_task(emit_events(events=events, endpoint=LOG, lane=lane, return_state=True))
        await until(log.exists, every=0.001)
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
    log, own_postgresql, monkeypatch, caplog
):
    server, url = own_postgresql
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv("RESONANT_LEASE_SECONDS", "3")
    await FileEndpoint(path=log, timeout=1).asave("log", overwrite=True)
    store = await WorkerStore.open(url)
    await store_events(store, LOG, count=300)
    await store.close()

    async def store_is_balanced():
        status = await store.status()
        return status.delivered == 301 and status.balanced

    draining = asyncio.create_task(emit_events(successors=1, return_state=True))
    await until(log.exists)
    async with server.stopped_meanwhile():
        await until(lambda: "waiting for the store" in caplog.text)
    store = await WorkerStore.open(url)
    await store.enqueue([Event(type="t", source="/s", data="after")], LOG)
    await until(lambda: len(set(log.read_text().splitlines())) == 301)
    await until(store_is_balanced)
    columns = (schema.deliveries.c.attempts, schema.deliveries.c.crashes)
    found = await store.read(lambda connection: set(connection.execute(select(*columns).distinct())))
    await store.close()
    assert found == {(1, 0)}, "outcomes were kept, and no crash was charged"
    assert len(log.read_text().splitlines()) == 301, "nothing was sent twice"
    assert not draining.done()
    draining.cancel()
    await asyncio.wait([draining])
