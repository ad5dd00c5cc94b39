"""Flows of any Prefect project store events with ``emit``, and events about themselves with ``store_event_on``."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed
from pydantic import SecretStr

from resonant import Event
from resonant.blocks import WebhookEndpoint, load_endpoint
from resonant.errors import (
    EndpointError,
    InvalidEvent,
    StoreUnavailable,
    UnknownEndpoint,
    UnroutedEvent,
)
from resonant.prefect import emit, flow_run_event, store_event, store_event_on
from resonant.store import WorkerStore, open_store
from resonant.store.views.known_names import remember_endpoints
from support.file_endpoint import FileEndpoint

pytestmark = pytest.mark.engine

GIVEN = {"type": "com.example.counted", "source": "/counts", "data": {"n": 1}}


@pytest.fixture
async def url(prefect_api, tmp_path, monkeypatch):
    """The URL of the store that flow runs use. A Prefect server runs and has the endpoint ``home``."""
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(url=SecretStr("https://example.com")).asave("home", overwrite=True)
        yield url


async def stored(url: str) -> list[Event]:
    """Return the stored events, in the order of acceptance."""
    async with open_store(url) as store:
        found = await store.read(
            lambda connection: connection.exec_driver_sql("SELECT id FROM resonant_events ORDER BY key").all()
        )
        return [(await store.detail(event_id)).event for (event_id,) in found]


# --- emit -------------------------------------------------------------------------------------------------------


async def test_flows_store_events_with_and_without_submit(url):
    given = Event(id="given", **GIVEN)

    @flow
    async def asynchronous() -> list[str]:
        return [emit(GIVEN, "home"), emit.submit(GIVEN, endpoint="home").result(), await emit(GIVEN, "home")]

    @flow
    def synchronous() -> list[str]:
        return [emit(given, "home"), emit.submit({**GIVEN, "id": "own"}, endpoint="home").result()]

    ids = await asynchronous()
    assert all(each.startswith("prefect-run-") for each in ids)
    assert await asyncio.to_thread(synchronous) == ["given", "own"]
    events = await stored(url)
    assert [event.id for event in events] == [*ids, "given", "own"]
    assert {(event.type, event.source, event.body) for event in events} == {
        ("com.example.counted", "/counts", b'{"n":1}')
    }


def messages(caplog, stored_id: str) -> list[str]:
    """Return what runs logged about an event."""
    said = [each.getMessage() for each in caplog.records if each.levelname == "INFO"]
    return [each for each in said if stored_id in each]


async def test_a_retry_of_the_task_stores_the_event_once(url, monkeypatch, caplog):
    enqueue = WorkerStore.enqueue

    async def enqueue_and_fail_once(*args, **options):
        await enqueue(*args, **options)
        monkeypatch.setattr(WorkerStore, "enqueue", enqueue)
        raise StoreUnavailable("the connection was lost after the commit")

    @flow
    def counts() -> str:
        return emit.with_options(retry_delay_seconds=0).submit(GIVEN, endpoint="home").result()

    monkeypatch.setattr(WorkerStore, "enqueue", enqueue_and_fail_once)
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    stored_id = await asyncio.to_thread(counts)
    assert [event.id for event in await stored(url)] == [stored_id]
    assert messages(caplog, stored_id) == [f"event {stored_id} was already stored for home"]


async def test_each_call_outside_of_prefects_runs_stores_an_event(url):
    ids = [await asyncio.to_thread(emit.fn, GIVEN, "home") for _ in range(2)]
    ids += [emit.fn(GIVEN, "home"), await emit.fn(GIVEN, "home")]
    assert [event.id for event in await stored(url)] == ids


class Tries:
    """Fails the first tries of a run."""

    def __init__(self, failing: int = 1) -> None:
        self.number = 0
        self.failing = failing

    def end(self) -> None:
        self.number += 1
        if self.number <= self.failing:
            raise RuntimeError(f"try {self.number}")


async def test_a_retry_of_a_surrounding_run_stores_each_event_once(url):
    of_task, of_subflow, of_flow = Tries(), Tries(), Tries()

    @task(retries=1)
    def in_task() -> list[str]:
        endpoint = WebhookEndpoint.load("home")
        ids = [emit(GIVEN, "home"), emit.with_options(name="own").submit(GIVEN, "home").result()]
        ids += [endpoint.emit(GIVEN), emit.fn(GIVEN, "home"), emit.fn({**GIVEN, "subject": "other"}, "home")]
        of_task.end()
        return ids

    @flow(retries=1)
    def in_subflow() -> list[str]:
        ids = [emit(GIVEN, "home"), WebhookEndpoint.load("home").emit(GIVEN)]
        of_subflow.end()
        return ids

    @flow(retries=1)
    def counts() -> list[str]:
        waiting = [emit.submit(GIVEN, "home") for _ in range(3)]
        ids = [emit(GIVEN, "home"), WebhookEndpoint.load("home").emit(GIVEN)]
        ids += [each.result() for each in waiting] + in_task() + in_task() + in_subflow()
        of_flow.end()
        return ids

    ids = await asyncio.to_thread(counts)
    assert (of_task.number, of_subflow.number, of_flow.number) == (5, 3, 2)
    assert len(set(ids)) == len(ids) == 17
    assert {event.id for event in await stored(url)} == {*ids}


async def test_a_retry_of_an_asynchronous_run_stores_each_event_once(url):
    tries = Tries()

    @flow(retries=1)
    async def counts() -> list[str]:
        endpoint = await WebhookEndpoint.aload("home")
        ids = [emit(GIVEN, "home"), *await asyncio.gather(*(endpoint.emit(GIVEN) for _ in range(3)))]
        tries.end()
        return ids

    ids = await counts()
    assert tries.number == 2
    assert len(set(ids)) == 4
    assert {event.id for event in await stored(url)} == {*ids}


async def test_a_retry_of_concurrent_tasks_in_another_order_loses_no_event(url):
    tries = Tries()

    @task
    def report(order: int) -> None:
        if tries.number == 0 and order == 1:
            raise RuntimeError  # before its event, and the other task stores the first event
        WebhookEndpoint.load("home").emit({**GIVEN, "data": order})

    @flow(retries=1)
    def reports() -> None:
        report.map([1, 2]).wait()
        tries.end()

    await asyncio.to_thread(reports)
    assert sorted(event.body for event in await stored(url)) == [b"1", b"2"]


class SlowToSerialise:
    """A large parameter: serialising it takes until another call has stored an event."""

    def __init__(self) -> None:
        self.begun, self.stored = threading.Event(), threading.Event()
        self.was_waited_for: list[bool] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        self.begun.set()
        self.was_waited_for.append(self.stored.wait(20))
        return (SlowToSerialise, ())


async def test_a_large_parameter_is_serialised_once_and_holds_up_no_other_call(url):
    tries = Tries()

    # With another cache policy, Prefect serialises the parameters, too.
    @task(retries=1, cache_policy=NO_CACHE)
    def report(_large: SlowToSerialise) -> list[str]:
        endpoint = WebhookEndpoint.load("home")
        ids = [endpoint.emit(GIVEN), endpoint.emit(GIVEN)]
        tries.end()
        return ids

    @flow
    def reports() -> list[str]:
        large = SlowToSerialise()
        waiting = report.submit(large)
        assert large.begun.wait(20)
        ids = [WebhookEndpoint.load("home").emit(GIVEN)]
        large.stored.set()
        ids += waiting.result()
        assert large.was_waited_for == [True]
        return ids

    ids = await asyncio.to_thread(reports)
    assert [event.id for event in await stored(url)] == ids
    assert len(set(ids)) == 3


@pytest.mark.parametrize("make", [threading.Lock, lambda: (row for row in [2, 3])], ids=["lock", "generator"])
async def test_a_parameter_that_cannot_be_serialised_is_left_as_it_is(url, make):
    tries = Tries()

    @task(retries=1, cache_policy=NO_CACHE)
    def report(given: object) -> None:
        emit({**GIVEN, "data": 1}, "home")
        tries.end()
        for row in given if isinstance(given, Iterator) else [2, 3]:
            emit({**GIVEN, "data": row}, "home")

    @flow
    def reports() -> None:
        report(make())

    await asyncio.to_thread(reports)
    assert [event.body for event in await stored(url)] == [b"1", b"2", b"3"]


async def test_if_a_retry_repeats_a_call_with_other_content_the_first_event_stays(url, caplog, monkeypatch):
    tries = Tries()

    @task(retries=1)
    def report() -> str:
        stored_id = emit({**GIVEN, "data": {"try": tries.number}}, "home")
        tries.end()
        return stored_id

    @flow
    def reports() -> str:
        return report()

    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    stored_id = await asyncio.to_thread(reports)
    [event] = await stored(url)
    assert (event.id, event.body) == (stored_id, b'{"try":0}')
    [warning] = [each for each in caplog.records if each.getMessage().startswith("not stored")]
    assert (warning.name, warning.levelname) == ("prefect.task_runs", "WARNING")
    assert messages(caplog, stored_id) == [
        f"stored event {stored_id} for home",
        f"event {stored_id} was already stored for home",
    ]
    assert warning.getMessage() == (
        "not stored: event of type 'com.example.counted' and source '/counts' for home: "
        f"call 1 of the surrounding run stored other content in an earlier try, as event {stored_id}; give each event an id"
    )


@pytest.mark.parametrize(
    ("event", "endpoint", "error", "message"),
    [
        (GIVEN, "hom", UnknownEndpoint, "^no endpoint is named 'hom': did you mean home?"),
        (GIVEN, None, UnroutedEvent, "^no subscription wants type 'com.example.counted'"),
        ({"source": "/counts"}, "home", InvalidEvent, "^type is missing$"),
        ("counted", "home", InvalidEvent, "^must be a JSON object, not a string$"),
        (GIVEN | {"type": "resonant.delivery.dead"}, "home", InvalidEvent, "^types that begin with resonant"),
        (
            Event(**GIVEN | {"type": "resonant.delivery.dead"}),
            "home",
            InvalidEvent,
            "^types that begin with resonant",
        ),
    ],
    ids=["unknown endpoint", "no subscription", "no type", "not a mapping", "our own", "our own event"],
)
async def test_a_mistake_fails_the_task_run_at_once_and_stores_nothing(url, event, endpoint, error, message):
    @flow
    def counts() -> None:
        emit(event, endpoint)

    with pytest.raises(error, match=message):
        await asyncio.to_thread(counts)
    assert await stored(url) == []


async def test_an_endpoint_that_the_store_knows_needs_no_prefect_server(url):
    async with open_store(url) as store:
        await store.write(remember_endpoints, ["added"])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        await store_event(Event(id="alone", **GIVEN), "added")
        with pytest.raises(UnknownEndpoint, match=r"^no endpoint is named 'add': did you mean added\?"):
            await store_event(Event(**GIVEN), "add")
    assert [event.id for event in await stored(url)] == ["alone"]


# --- store_event_on ---------------------------------------------------------------------------------------------


async def test_a_run_that_has_failed_after_its_retries_stores_the_event_that_the_server_gives(url):
    @flow(name="imports", retries=1, on_failure=[store_event_on("home")])
    def imports() -> None:
        raise RuntimeError("no orders\nin the file")

    state = await asyncio.to_thread(imports, return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    [event] = await stored(url)
    assert event.id == f"prefect-flow-run-{run.state.id}"
    assert event.digest == flow_run_event(run, run.state, "imports").digest
    assert (event.type, event.source, event.subject) == ("prefect.flow-run.failed", "/prefect", "imports")
    assert json.loads(event.body) == {
        "flow": "imports",
        "run": run.name,
        "run_id": str(run.id),
        "state": "Failed",
        "message": "Flow run encountered an exception: RuntimeError: no orders\nin the file",
    }


async def test_runs_that_time_out_or_crash_store_the_events_that_the_server_gives(url):
    hook = store_event_on("home")

    @flow(name="imports", on_failure=[hook], timeout_seconds=0.05)
    async def slow() -> None:
        await asyncio.sleep(30)

    @flow(name="imports", on_crashed=[hook])
    async def cancelled() -> None:
        seen.append(flow_run.id)
        raise asyncio.CancelledError

    seen = [(await slow(return_state=True)).state_details.flow_run_id]
    with pytest.raises(asyncio.CancelledError):
        await cancelled()
    async with get_client() as client:
        runs = [await client.read_flow_run(each) for each in seen]
    events = await stored(url)
    assert [event.type for event in events] == ["prefect.flow-run.timed-out", "prefect.flow-run.crashed"]
    assert [event.digest for event in events] == [
        flow_run_event(run, run.state, "imports").digest for run in runs
    ]


def test_an_event_about_a_run_is_small_however_long_its_texts_are():
    long = "n" * 2_000_000
    run = FlowRun(flow_id=uuid4(), name=long)
    event = flow_run_event(run, Failed(name=long, message=long), long)
    assert len(event.body) < 50_000
    assert event.subject == "n" * 255


@pytest.mark.parametrize(
    ("database", "endpoint", "message"),
    [
        ("sqlite:////dev/null/store.db", "home", "it cannot be opened for writing"),
        (None, "hom", "no endpoint is named 'hom': did you mean home?"),
    ],
    ids=["no store", "unknown endpoint"],
)
async def test_an_event_that_cannot_be_stored_is_an_error_in_the_log_and_the_run_fails_as_before(
    url, monkeypatch, caplog, database, endpoint, message
):
    monkeypatch.setenv("RESONANT_DATABASE_URL", database or url)

    @flow(on_failure=[store_event_on(endpoint)])
    def imports() -> None:
        raise RuntimeError("no orders")

    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    state = await asyncio.to_thread(imports, return_state=True)
    assert (state.name, state.message) == (
        "Failed",
        "Flow run encountered an exception: RuntimeError: no orders",
    )
    [record] = [each for each in caplog.records if "is not stored" in each.getMessage()]
    assert record.levelname == "ERROR"
    assert message in record.getMessage()
    assert record.exc_info is None


# --- emit of a block --------------------------------------------------------------------------------------------


async def test_a_loaded_or_saved_endpoint_stores_events_for_itself(url, tmp_path):
    sink = FileEndpoint(path=tmp_path / "log")
    await sink.asave("home", overwrite=True)
    ids = [
        await (await WebhookEndpoint.aload("home")).emit({**GIVEN, "id": "dict"}),
        await (await load_endpoint("home")).emit(Event(id="event", **GIVEN)),
        await sink.emit({**GIVEN, "id": "sink"}),
        await (await load_endpoint("file-endpoint/home")).emit({**GIVEN, "id": "loaded-sink"}),
    ]
    async with open_store(url) as store:
        found = [(await store.detail(each)).deliveries[0][0].endpoint for each in ids]
    assert found == ["home", "home", "file-endpoint/home", "file-endpoint/home"]


@task
def emit_in_task(endpoint: WebhookEndpoint, event_id: str) -> str:
    return endpoint.emit({**GIVEN, "id": event_id})


async def test_a_block_stores_an_event_without_await_in_synchronous_code(url):
    @flow
    def counts() -> list[str]:
        endpoint = WebhookEndpoint.load("home")
        return [endpoint.emit({**GIVEN, "id": "flow"}), emit_in_task(endpoint, "task")]

    @flow
    async def with_synchronous_runs() -> None:
        emit_in_task(await WebhookEndpoint.aload("home"), "task-on-the-loop")
        await asyncio.to_thread((await WebhookEndpoint.aload("home")).emit, {**GIVEN, "id": "thread"})

    def outside_of_a_flow() -> str:
        return WebhookEndpoint.load("home").emit({**GIVEN, "id": "script"})

    ids = [*await asyncio.to_thread(counts), await asyncio.to_thread(outside_of_a_flow)]
    await with_synchronous_runs()
    ids += ["task-on-the-loop", "thread"]
    assert [event.id for event in await stored(url)] == ids


async def test_a_block_stores_an_event_without_await_in_a_synchronous_flow_of_an_asynchronous_task(url):
    @flow
    def counts(endpoint: WebhookEndpoint) -> str:
        return endpoint.emit({**GIVEN, "id": "flow"})

    @task
    async def calls_a_flow() -> None:
        endpoint = await WebhookEndpoint.aload("home")
        assert counts(endpoint) == "flow"
        await endpoint.emit({**GIVEN, "id": "task"})

    @flow
    async def surrounding() -> None:
        await calls_a_flow()

    await surrounding()
    assert [event.id for event in await stored(url)] == ["flow", "task"]


async def test_code_that_awaits_a_block_works_in_any_context(url):
    async def later(event_id: str) -> str:
        endpoint = await WebhookEndpoint.aload("home")
        return await endpoint.emit({**GIVEN, "id": event_id})

    @flow
    def synchronous() -> list[str]:
        endpoint = WebhookEndpoint.load("home")
        return [asyncio.run(later("awaited")), asyncio.run(endpoint.emit({**GIVEN, "id": "run"}))]

    @flow
    async def asynchronous() -> list[str]:
        endpoint = await WebhookEndpoint.aload("home")
        several = [endpoint.emit({**GIVEN, "id": f"several-{n}"}) for n in range(2)]
        return [
            await later("async"),
            await endpoint.aemit({**GIVEN, "id": "aemit"}),
            *await asyncio.gather(*several),
        ]

    ids = await asyncio.to_thread(synchronous) + await asynchronous()
    assert ids == ["awaited", "run", "async", "aemit", "several-0", "several-1"]
    assert {event.id for event in await stored(url)} == {*ids}


async def test_an_endpoint_without_a_name_or_an_await_stores_nothing(url):
    endpoint = WebhookEndpoint(url=SecretStr("https://example.com"))
    with pytest.raises(EndpointError, match=r"^this endpoint has no name: save it"):
        await endpoint.emit(GIVEN)
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'EndpointBlock.aemit' was never awaited$"):
        endpoint.emit(GIVEN)
    assert await stored(url) == []
