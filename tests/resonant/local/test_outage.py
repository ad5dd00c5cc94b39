import asyncio
import logging
import time

import httpx
import pytest

from resonant.local.flow_runs import count_task_runs
from resonant.local.outage import ServerGone, forget_records, outage_told_plainly
from resonant.testing import Receiver, nobody_listening, respond


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    """What is said for the rest of a process is said for the rest of a test here."""
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    for name in (
        "prefect.events.clients",
        "prefect._internal.concurrency",
        "prefect.flow_runs",
        "websockets.client",
    ):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    for name in ("EventsWorker", "APILogWorker"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    yield
    # The next test's events need a worker of their own: this one sends to a server that is gone.
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=0, at_exit=False)


def test_a_server_that_is_gone_is_one_line():
    with (
        nobody_listening() as url,
        pytest.raises(ServerGone, match=rf"{url}/api went away") as gone,
        outage_told_plainly(f"{url}/api"),
    ):
        httpx.get(f"{url}/api/flow_runs")
    assert "\n" not in str(gone.value)
    assert gone.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "refused"), [(503, ServerGone), (500, httpx.HTTPStatusError)], ids=["busy", "broken"]
)
def test_a_busy_server_is_reported_in_one_line_and_a_broken_one_is_not_called_busy(status, refused):
    answer = httpx.Response(status, request=httpx.Request("GET", "http://prefect.example/api/flow_runs"))
    with pytest.raises(refused) as busy, outage_told_plainly("http://prefect.example/api"):
        answer.raise_for_status()
    assert "\n" not in str(busy.value) or status == 500


def test_a_503_of_another_server_is_not_called_prefects():
    answer = httpx.Response(503, request=httpx.Request("GET", "http://hooks.example/"))
    with pytest.raises(httpx.HTTPStatusError), outage_told_plainly("http://prefect.example/api"):
        answer.raise_for_status()


async def test_records_are_counted_although_the_server_is_busy_at_first():
    from prefect.client.orchestration import PrefectClient

    def busy_at_first(request):
        if not request.path.endswith("/count"):
            return respond(404)
        counts.append(request.path)
        return respond(200, {"content-type": "application/json"}, b"7") if counts[1:] else busy

    counts = []
    busy = respond(503, {"retry-after": "0"}, b'{"exception_message": "Service Unavailable"}')
    async with Receiver(busy_at_first) as server, PrefectClient(f"{server.url}/api") as client:
        assert (await count_task_runs(client, task_runs={})) == 7
    assert len(counts) == 2


async def test_what_fails_although_the_server_is_there_stays_what_it_is():
    def run(api_url):
        with outage_told_plainly(api_url):
            raise httpx.ReadTimeout("another server's")

    async with Receiver() as server:
        with pytest.raises(httpx.ReadTimeout, match="another server's"):
            await asyncio.to_thread(run, f"{server.url}/api")


def test_an_error_that_is_not_about_connections_passes():
    with nobody_listening() as url, pytest.raises(KeyError), outage_told_plainly(f"{url}/api"):
        raise KeyError("of ours")


def test_what_prefect_says_of_its_connections_is_not_shown_and_all_else_is(caplog):
    with nobody_listening() as url, outage_told_plainly(f"{url}/api"):
        pass
    clients, services, runs, sockets = loggers = [
        logging.getLogger(name)
        for name in (
            "prefect.events.clients",
            "prefect._internal.concurrency",
            "prefect.flow_runs",
            "websockets.client",
        )
    ]
    caplog.handler.setLevel(logging.DEBUG)
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        clients.warning("Unable to connect to %r. ...", "ws://127.0.0.1:1/api/events/in")
        services.error("Service %r failed to process item %r", "EventsWorker", "an event")
        runs.error("Encountered exception during execution", exc_info=httpx.ConnectError("refused"))
        sockets.error("keepalive ping failed", exc_info=ConnectionError("no close frame received or sent"))
        runs.error("Finished in state Failed")
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {"Finished in state Failed"}


def test_queued_items_at_the_end_of_a_process_cause_no_warning(caplog):
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # Without a URL, Prefect would start a server for it.
    with nobody_listening() as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        with outage_told_plainly(f"{url}/api"):
            pass
        EventsWorker.instance()._logger.warning("Still processing items: 1 items remaining...")
    assert "Still processing items" not in caplog.text


@pytest.mark.parametrize("is_draining", [False, True])
def test_records_that_nobody_will_take_hold_up_no_end_of_the_process(is_draining):
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with nobody_listening() as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        for number in range(3):
            emit_event("resonant.test", {"prefect.resource.id": f"resonant.test.{number}"})
        worker = EventsWorker.instance()
        if is_draining:
            EventsWorker.drain_all(timeout=0, at_exit=False)
        began = time.monotonic()
        forget_records()
        worker.drain()
    assert time.monotonic() - began < 5, "one of them alone is tried for seven seconds"
