"""The flow report_failed_runs stores an event for each failed flow run that an endpoint watches, once."""

import asyncio
import importlib
import pkgutil
import time
from collections import Counter

import pytest
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from sqlalchemy import select

import flows
import resonant.local.server_identity
import tasks.reports
from flows.reports import report_failed_runs
from resonant.blocks import WebhookEndpoint
from resonant.display import duration
from resonant.local.server_identity import server_id
from resonant.prefect import flow_run_event
from resonant.store import WorkerStore, schema
from resonant.store.shared.run_watches import RunWatch, add_watch, advance_watch, read_watches
from support.flow_runs import COMPLETED, CRASHED, FAILED, LATE, TIMED_OUT, new_flow_name, run_with
from support.prefect import patient_client
from tasks.reports import store_failed_runs

pytestmark = pytest.mark.engine


@pytest.fixture
def url(request, prefect_api, monkeypatch):
    """The URL of the store that flow runs use, on SQLite unless the test says otherwise; a Prefect server runs."""
    url = request.getfixturevalue(getattr(request, "param", "sqlite_url"))
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield url


@pytest.fixture
async def store(url):
    """That store, open; Prefect has the endpoint."""
    await WebhookEndpoint(url=SecretStr("https://hooks.example.com/")).asave("reports", overwrite=True)
    store = await WorkerStore.open(url)
    yield store
    await store.close()


@pytest.fixture(scope="module")
def server(prefect_api):
    with patient_client(prefect_api) as client:
        yield client


@pytest.fixture
def flow_name():
    return new_flow_name()


async def watch(
    store,
    flow: str = "",
    *,
    endpoint: str = "reports",
    tag: str = "",
    since: float | None = None,
    of_server: str = "",
):
    """Begin to watch."""
    watched = RunWatch(endpoint, flow, tag, of_server)
    await store.write(add_watch, watched, who="me", now=time.time() if since is None else since)


async def stored(store) -> list[dict]:
    """The stored events, sorted by their ids."""
    e, d = schema.events.c, schema.deliveries.c
    query = select(e.id, e.type, e.source, e.subject, e.body, d.endpoint).join_from(
        schema.events, schema.deliveries, e.key == d.event_key
    )
    return await store.read(
        lambda connection: [dict(row) for row in connection.execute(query.order_by(e.id)).mappings()]
    )


def ids(*runs: dict) -> list[str]:
    return sorted(f"prefect-flow-run-{run['state']['id']}" for run in runs)


@pytest.mark.parametrize("url", ["sqlite_url", "postgresql_url"], indirect=True)
async def test_failed_crashed_timed_out_and_late_runs_are_stored_from_the_beginning_of_the_watch_on(
    store, server, flow_name
):
    run_with(server, flow_name, FAILED)
    run_with(server, flow_name, LATE)
    await watch(store, flow_name)
    kinds = {"failed": FAILED, "crashed": CRASHED, "timed-out": TIMED_OUT, "late": LATE}
    runs = {kind: run_with(server, flow_name, state) for kind, state in kinds.items()}
    run_with(server, flow_name, COMPLETED)

    state = await report_failed_runs(return_state=True)

    assert (state.type.value, state.message) == ("COMPLETED", "4 new events about failed runs")
    found = await stored(store)
    assert {each["id"]: each["type"] for each in found} == {
        ids(run)[0]: f"prefect.flow-run.{kind}" for kind, run in runs.items()
    }
    assert {(each["subject"], each["endpoint"]) for each in found} == {(flow_name, "reports")}


async def test_the_runs_are_read_once_for_all_watches(store, server, flow_name, monkeypatch):
    calls = Counter()

    def counted(method):
        async def call(*args, **options):
            calls[method.__name__] += 1
            return await method(*args, **options)

        return call

    for each in (PrefectClient.read_flow_runs, PrefectClient.read_flows):
        monkeypatch.setattr(PrefectClient, each.__name__, counted(each))
    since = time.time()
    await watch(store, flow_name, since=since)
    await watch(store, tag=flow_name, since=since)
    run = run_with(server, flow_name, FAILED, tags=(flow_name,))

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(run)
    assert calls["read_flow_runs"] == 2, "late and ended runs"
    assert calls["read_flows"] <= 2, "the flows of late runs only if another test has left some"


async def test_a_watch_of_another_server_gets_no_runs_of_this_one_and_keeps_its_watermark(
    store, server, flow_name
):
    an_hour_ago = time.time() - 3600
    await watch(store, flow_name, since=an_hour_ago, of_server="another")
    assert await store_failed_runs(store) == (
        "0 new events about failed runs: no automation is enabled on this Prefect server"
    )
    await watch(store, flow_name, since=an_hour_ago)
    await watch(store, flow_name, endpoint="theirs", since=an_hour_ago, of_server="another")
    run = run_with(server, flow_name, FAILED)
    began_at = time.time()

    await store_failed_runs(store)

    assert [(each["id"], each["endpoint"]) for each in await stored(store)] == [(ids(run)[0], "reports")]
    watches = await store.read(read_watches)
    behind = [(each.endpoint, each.server) for each in watches if each.watermark == an_hour_ago]
    assert behind == [("reports", "another"), ("theirs", "another")]
    [own] = [each for each in watches if each.watermark != an_hour_ago]
    # Prefect may commit a failure late. Its server tells the time in whole seconds.
    assert began_at - 610 <= own.watermark <= time.time() - 600


async def test_all_processes_agree_on_the_id_of_a_server(store, monkeypatch):
    monkeypatch.setattr(resonant.local.server_identity, "VARIABLE", new_flow_name())
    async with get_client() as client:
        found = await asyncio.gather(*(server_id(client) for _ in range(8)))
        assert {await server_id(client)} == set(found)


async def test_a_second_round_stores_nothing_again(store, server, flow_name):
    await watch(store, flow_name)
    run_with(server, flow_name, FAILED)
    await store_failed_runs(store)
    before = await stored(store)
    warnings = []

    summary = await store_failed_runs(store, warnings.append)

    assert (summary, warnings) == ("0 new events about failed runs", [])
    assert await stored(store) == before


async def test_a_run_that_fails_again_is_reported_again(store, server, flow_name):
    await watch(store, flow_name)
    first = run_with(server, flow_name, FAILED)
    await store_failed_runs(store)
    for state in ({"type": "RUNNING"}, FAILED):
        server.post(f"/flow_runs/{first['id']}/set_state", json={"state": state, "force": True})

    await store_failed_runs(store)

    again = server.get(f"/flow_runs/{first['id']}").json()
    assert [each["id"] for each in await stored(store)] == ids(first, again)


async def test_a_watch_gets_the_runs_that_its_glob_and_its_tag_match(store, server, flow_name):
    await watch(store, f"{flow_name[:-1]}?", tag="prod")
    matching = run_with(server, flow_name, FAILED, tags=("prod", "eu"))
    run_with(server, flow_name, FAILED, tags=("test",))
    run_with(server, new_flow_name(), FAILED, tags=("prod",))

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(matching)


async def test_resonants_own_runs_are_never_stored_even_those_of_a_renamed_copy(store, server, flow_name):
    await watch(store)
    copy = f"copy-of-{flow_name}"
    own = {"report-failed-runs", "emit-events", copy}
    for each in own:
        run_with(server, each, FAILED)
    of_user = run_with(server, flow_name, FAILED)

    await report_failed_runs.with_options(name=copy)()

    found = await stored(store)
    assert ids(of_user)[0] in {each["id"] for each in found}
    assert not own & {each["subject"] for each in found}


@pytest.mark.parametrize(
    ("endpoint", "number"), [("reports", "0 new events"), ("of-the-hook", "1 new event")]
)
async def test_an_event_that_a_hook_stored_before_the_run_was_renamed_stays_as_it_was(
    store, server, flow_name, endpoint, number
):
    await watch(store, flow_name)
    failed = run_with(server, flow_name, FAILED)
    run = FlowRun.model_validate(failed)
    by_hook = flow_run_event(run, run.state, flow_name)
    await store.enqueue(by_hook, endpoint)
    server.patch(f"/flow_runs/{failed['id']}", json={"name": "renamed"})

    assert await store_failed_runs(store) == f"{number} about failed runs"

    found = [(each["body"], each["endpoint"]) for each in await stored(store)]
    assert sorted(found) == sorted({(by_hook.body, endpoint), (by_hook.body, "reports")})


async def test_a_day_of_failures_is_stored_in_several_windows_and_rounds(
    store, server, flow_name, monkeypatch
):
    small = {"_MOST_AT_ONCE": 3, "_MOST_WINDOWS": 2, "_PAGE": 2, "_SHORTEST_SECONDS": 0.001}
    for name, value in (small | {"_SETTLED_AFTER_SECONDS": 0.0}).items():
        monkeypatch.setattr(tasks.reports, name, value)
    await watch(store, flow_name)
    runs = [run_with(server, flow_name, FAILED) for _ in range(8)]

    rounds = 0
    while len(await stored(store)) < len(runs):
        rounds += 1
        before = len(await stored(store))
        await store_failed_runs(store)
        assert len(await stored(store)) <= before + 6
        assert rounds < 20

    assert [each["id"] for each in await stored(store)] == ids(*runs)


_DAY = 86_400.0


@pytest.mark.parametrize("clock", ["clock", "process_clock"], ids=["also of the store", "of the process"])
@pytest.mark.parametrize("ahead", [_DAY, 1200.0], ids=["a day", "more than a round reads again"])
async def test_a_report_on_a_clock_that_is_ahead_loses_no_later_failure(
    url, store, server, flow_name, ahead, clock
):
    """So does a report beside a Prefect server whose clock is behind."""
    await watch(store, flow_name, since=time.time() - 3600)
    early = await WorkerStore.open(url, **{clock: lambda: time.time() + ahead})
    warnings = []
    await store_failed_runs(early, warnings.append)
    await early.close()
    run = run_with(server, flow_name, FAILED)

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(run)
    [warning] = warnings
    assert warning.startswith(f"the clock of this machine is {duration(ahead)} ahead of the Prefect server's")


async def test_the_failures_that_a_wrong_watermark_hid_are_stored(store, server, flow_name):
    """An earlier version, or the server before its clock was corrected, may have stored such a watermark."""
    an_hour_ago = time.time() - 3600
    await watch(store, flow_name, since=an_hour_ago)
    [watched] = await store.read(read_watches)
    await store.write(advance_watch, watched, time.time() + _DAY)
    run = run_with(server, flow_name, FAILED)

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(run)
    [watched] = await store.read(read_watches)
    assert an_hour_ago < watched.watermark <= time.time()
    assert watched.created_at == an_hour_ago


async def test_a_watch_that_a_wrong_clock_began_in_the_future_begins_now(store, server, flow_name):
    await watch(store, flow_name, since=time.time() + _DAY)
    await store_failed_runs(store)
    run = run_with(server, flow_name, FAILED)

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(run)


async def test_an_unknown_endpoint_fails_the_round_but_the_others_get_their_events(store, server, flow_name):
    an_hour_ago = time.time() - 3600
    await watch(store, flow_name, endpoint="a-removed-one", since=an_hour_ago)
    await watch(store, flow_name, since=an_hour_ago)
    failed = run_with(server, flow_name, FAILED)

    state = await report_failed_runs(return_state=True)

    assert state.is_failed()
    assert "no endpoint is named 'a-removed-one'" in state.message
    assert [(each["id"], each["endpoint"]) for each in await stored(store)] == [(ids(failed)[0], "reports")]
    removed, reports = await store.read(read_watches)
    assert removed.watermark == removed.created_at, "its runs are stored once the endpoint exists again"
    assert reports.watermark > reports.created_at


def test_every_flow_of_ours_is_named_as_one_of_our_own():
    modules = [importlib.import_module(f"flows.{each.name}") for each in pkgutil.iter_modules(flows.__path__)]
    names = {each.name for module in modules for each in vars(module).values() if isinstance(each, Flow)}
    assert names == set(tasks.reports.OWN_FLOWS)


async def test_a_flow_name_that_cannot_be_a_subject_does_not_stop_other_runs(store, server, flow_name):
    await watch(store, tag=flow_name)
    hostile = run_with(server, f"\ufffe-{flow_name}", FAILED, tags=(flow_name,))
    other = run_with(server, flow_name, FAILED, tags=(flow_name,))

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(hostile, other)


async def test_late_runs_beyond_one_transaction_are_stored(store, server, flow_name, monkeypatch):
    for name, value in {"_MOST_AT_ONCE": 3, "_PAGE": 2}.items():
        monkeypatch.setattr(tasks.reports, name, value)
    await watch(store, tag=flow_name)
    runs = [run_with(server, flow_name, LATE, tags=(flow_name,)) for _ in range(5)]

    await store_failed_runs(store)

    assert [each["id"] for each in await stored(store)] == ids(*runs)
