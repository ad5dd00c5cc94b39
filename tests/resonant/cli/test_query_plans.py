"""No drain, command or purge scans a table with every delivery ever stored, except for the scans named here."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.replay import ReplayRequest, plan, take_dead_letters
from resonant.dispatch.limits import Limits
from resonant.dispatch.tracking import Tracker
from resonant.gate import pausing
from resonant.lab.history import read_history
from resonant.store import WorkerStore
from resonant.store.queue.leases import NEW_SECONDS, Turns, lease_owners
from resonant.store.queue.probes import claim_probe
from resonant.store.shared.gates import Gate, GateChange, Probe, change_gate
from resonant.store.views.selection import Selection
from resonant.store.views.standing import parked_at, parked_deliveries
from support.desk import at_once
from support.dispatching import Scene, enqueue, failing_first, scene, succeed
from support.query_plans import planned


def _scan(index: str, *, covering: bool = True) -> set[str]:
    return {
        f"SCAN resonant_deliveries USING {'COVERING ' if covering else ''}INDEX resonant_delivery_{index}"
    }


# Each of these indexes holds only some deliveries.
UNFINISHED, UNFINISHED_ROWS = _scan("available"), _scan("available", covering=False)
UNFINISHED_BY_TYPE = _scan("types", covering=False)
DEAD, CAUSES, DELIVERED = _scan("dead"), _scan("cause"), _scan("delivered")
# To find their source, the event of each is looked up.
DEAD_ROWS = _scan("dead", covering=False) | _scan("cause", covering=False)
# The balance counts every delivery: otherwise it could not be false.
BALANCE = _scan("status")
# `advise` reads the latest attempts, a limited number.
LATEST_ATTEMPTS = {"SEARCH resonant_attempts USING INTEGER PRIMARY KEY (rowid>?)"}


@pytest.mark.parametrize(
    ("argv", "scans"),
    [
        ("status", BALANCE | UNFINISHED),
        ("dlq", DEAD | CAUSES),
        ("dlq --code http_503 --text refused --since 90d", set()),
        ("dlq --source /shop", DEAD_ROWS),
        ("dlq --group", CAUSES),
        ("failed", set()),
        ("deliveries", UNFINISHED),
        ("deliveries --source /shop", UNFINISHED_ROWS),
        ("deliveries --group", UNFINISHED_ROWS),
        ("detail evt_old", set()),
        ("detail evt_o", set()),
        ("detail evt_old --source /shop", set()),
        ("export --with-data", BALANCE | UNFINISHED | DEAD | CAUSES),
        ("metrics", UNFINISHED_BY_TYPE),
        ("prometheus", UNFINISHED_ROWS | UNFINISHED_BY_TYPE | CAUSES),
        ("audit", set()),
        ("enqueue events.jsonl --endpoint billing", set()),
        ("cancel --endpoint billing --dry-run", set()),
        ("cancel evt_a --source /shop", set()),
        ("cancel --all", UNFINISHED),
        ("erase --id evt_old --dry-run", set()),
        ("erase --id evt_old --yes", set()),
        # A purge counts the deliveries that it keeps.
        ("purge --older-than 20 --delivered-older-than 1 --dry-run", CAUSES | DELIVERED),
        ("purge --older-than 20 --delivered-older-than 1", CAUSES | DELIVERED),
        ("purge --endpoint billing --code http_503 --text refused --yes", CAUSES | DELIVERED),
    ],
)
def test_a_command_scans_only_the_named_indexes(resonant, dead, url, argv, scans):
    dead.accept("evt_a", "evt_b")
    Path("events.jsonl").write_text('{"type": "t", "source": "/s", "data": 1, "id": "evt_c"}\n')

    with planned() as plans:
        resonant(*argv.split())

    assert plans.executed
    assert plans.scans(Path(url.removeprefix("sqlite:///"))) == scans


def test_a_search_for_a_similar_id_scans_no_events(resonant, dead, url):
    with planned() as plans:
        assert "did you mean evt_old?" in resonant("detail", "evt_odl", "--source", "/shop", code=1).err

    assert plans.scans(Path(url.removeprefix("sqlite:///"))) == set()


def test_an_acknowledgement_scans_no_deliveries(resonant, dead, url):
    cause = resonant.json("dlq", "--group")[0]["fingerprint"]

    with planned() as plans:
        resonant("dlq", "ack", cause)
        resonant("dlq", "ack", "--undo", cause)

    assert plans.scans(Path(url.removeprefix("sqlite:///"))) == set()


@pytest.mark.parametrize("chunk_size", [0, 10])
async def test_a_drain_scans_no_table(tmp_path, monkeypatch, chunk_size):
    monkeypatch.setattr(Scene, "chunk_size", chunk_size)
    await (await WorkerStore.open(f"sqlite:///{tmp_path / 'r.db'}")).close()  # not the plans of migrations
    sinks = {"orders": succeed, "crm": failing_first()}
    with planned() as plans:
        async with scene(tmp_path, limits=Limits(run_for=0.3), checks_books=False, **sinks) as run:
            await enqueue(run.store, 20)
            await enqueue(run.store, 5, endpoint="crm")
            tracker = Tracker(run.store)
            tracker.add([1, 2, 3])
            await run.run()
            await tracker.finish()
            await run.store.rescue(at_once())
            await _probe(run.store)
            await run.store.latest_lease_end()
            await enqueue(run.store, 1)
            run.clock.advance(NEW_SECONDS)
            await run.store.claim_each({"orders": 2}, owner="me", new={"orders": 1})
            turns = {"orders": Turns(after="", leave_out=["order.failing"])}
            await run.store.claim_each({"orders": 2}, owner="me", new={"orders": 1}, in_turn=turns)

    assert any("ORDER BY" in each and "lease_owner IS NOT NULL" in each for each in plans.executed), "rescue"
    assert any("available_at DESC" in each for each in plans.executed), "a claim of new events"
    assert plans.scans(tmp_path / "r.db") == set()


async def _probe(store) -> None:
    await enqueue(store, 1)
    change = GateChange(Gate("orders"), Gate("orders", state="probing", failing_since=1.0))
    assert await store.write(change_gate, change)
    gate = change.result
    assert await store.claim_leases(
        claim_probe, Probe(gate, {None: replace(gate, probe_at=5.0)}, {}, at=1.0), owner="me"
    )


def test_an_operator_scans_only_unfinished_deliveries_and_the_latest_attempts(dead, url):
    async def operate():
        store = await WorkerStore.open(url)
        await store.rescue(at_once())
        await store.rescue_from(await store.read(lease_owners))
        await pausing.pause(store, "billing", who="me")
        await pausing.resume(store, "billing", who="me", send_parked=True)
        request = ReplayRequest(Selection(endpoint="billing"))
        await store.read(lambda connection: request.dead_letters(connection).endpoints(connection))
        for each in (replace(request, to="crm"), request):
            await plan(store, each)
            async for leases in take_dead_letters(store, each, owner="me", audit_id=1):
                assert leases
        await store.release_all("me")
        assert await cancel(store, Selection(), who="me")
        await store.read(read_history, "billing", now=store.clock())
        for endpoint in ("billing", None):
            await store.read(parked_at, endpoint, now=store.clock())
        await store.read(parked_deliveries, [1, 2])
        await store.close()

    with planned() as plans:
        asyncio.run(operate())

    assert plans.scans(Path(url.removeprefix("sqlite:///"))) == UNFINISHED | UNFINISHED_ROWS | LATEST_ATTEMPTS
