"""An erasure removes the content of events from the store, and keeps their history."""

import asyncio
import base64
import json
import sqlite3
import sys
from asyncio import create_task, gather
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import text

from resonant.dead_letters.erase import Erasure, erase, erase_batch, plan_erasure
from resonant.dead_letters.purge import Chosen
from resonant.dead_letters.replay import ReplayRequest, plan
from resonant.delivery.retry import GiveUp
from resonant.errors import StoreUnavailable, UnknownName
from resonant.events import OWN_SOURCE, Event
from resonant.store import enqueue, schema
from resonant.store.audit import read_audit, record_change
from resonant.store.queue.own_events import DEAD
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.shared.drains import beat
from resonant.store.shared.erased import make_erasure_key
from resonant.store.shared.processes import this_process
from resonant.store.views.reads import each_dead_letter
from resonant.store.views.selection import Selection
from support.postgresql import NUMBER_WAITING
from support.sqlite import listening
from support.subscriptions import subscribe
from support.waiting import PATIENCE_SECONDS

# Long enough for each form to be found, and different in each of them.
SECRET = 'Jörg "Müller" <jm@example.org>'
FORMS = (
    SECRET.encode(),
    json.dumps(SECRET)[1:-1].encode(),
    json.dumps(SECRET, ensure_ascii=False)[1:-1].encode(),
    quote(SECRET).encode(),
    base64.b64encode(SECRET.encode()),
)
ID = "jm-example-org-4711"


def about(event_id=ID, **fields):
    """Return an event that has the secret wherever a producer can put it."""
    return Event(
        id=event_id,
        type="order.paid",
        source="/shop",
        data={"name": SECRET, "as_base64": base64.b64encode(SECRET.encode()).decode(), "url": quote(SECRET)},
        **{"subject": SECRET, "time": "2020-02-03T04:05:06Z", "extensions": {"buyer": SECRET}, **fields},
    )


class Killed(BaseException):
    """Stands for the end of the process."""


def kill(_number):
    raise Killed


def run(desk, what=None, **options):
    return desk.run(erase(desk.store, what or Erasure(ids=(ID,)), who="Zoë", **{"patience": 0.0, **options}))


def bury(desk, *events):
    desk.bury(
        *events,
        error=f"refused: {SECRET}",
        excerpt=f"no such buyer: {SECRET}",
        warning=f"odd: {SECRET}",
        code="http_422",
    )


def contents(desk):
    """Return every value of every table."""
    tables = (*schema.metadata.sorted_tables, text("resonant_schema"))
    return [row for table in tables for row in rows(desk, table)]


def rows(desk, table):
    query = text(f"SELECT * FROM {getattr(table, 'name', table)}")
    return desk.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


def left(desk):
    """Return what the store still has of the secret and the id."""
    found = "\n".join(map(repr, contents(desk)))
    return {value for value in (SECRET, ID) if value in found}


@pytest.fixture
def lease(desk):
    """A delivery of the event that is being sent."""
    desk.enqueue(about())
    lease = desk.claim_one()
    desk.begin(lease)
    return lease


def test_the_content_of_an_event_is_removed_and_its_history_stays(desk):
    bury(desk, about())
    desk.clock.advance(1)
    for lease in desk.replay(include_permanent=True).leases:  # the first round had an error of its own
        desk.fail(lease, GiveUp("exhausted"))
    desk.enqueue(about(), endpoint="audit")
    desk.deliver(*desk.claim(endpoint="audit"))
    before, counted = desk.status(), desk.counters()
    facts = desk.rows(schema.deliveries)
    assert left(desk) == {SECRET, ID}

    report = run(desk)

    assert (report.events, report.deliveries, report.cancelled, report.being_sent) == (1, 2, 0, 0)
    assert left(desk) == set()
    assert "2020-02-03" not in str(contents(desk))
    assert desk.status() == before
    assert desk.status().balanced
    assert desk.counters() == counted
    kept = ("endpoint", "event_type", "status", "reason", "code", "attempts", "accepted_at", "finished_at")
    for old, new in zip(facts, desk.rows(schema.deliveries), strict=True):
        assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
        assert new["event_id"].startswith("erased-")
        assert len(desk.detail(new["event_id"]).deliveries) == 2


def test_no_file_of_the_store_has_the_content_in_any_form(open_desk, sqlite_url, tmp_path):
    desk = open_desk(sqlite_url)
    others = [
        Event(id=f"evt_{number}", type="order.paid", source="/shop", data="x" * 200) for number in range(50)
    ]
    desk.bury(*others[:25])
    bury(desk, about(), about("jm-example-org-4712"))
    desk.bury(*others[25:])
    assert files_with(tmp_path, *FORMS, ID.encode()), "the search finds what is there"

    report = run(desk, Erasure(subject=SECRET))

    assert report.events == 2
    assert "`VACUUM` removes them" in report.kept
    assert files_with(tmp_path, *FORMS, ID.encode()) == {}


def files_with(folder, *values):
    """Return the values that each file has."""
    found = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        content = path.read_bytes()
        if there := [value for value in values if value in content]:
            found[path.name] = there
    return found


def test_unfinished_deliveries_are_cancelled_and_counted(desk):
    desk.enqueue(about(), "evt_other")
    assert desk.run(plan_erasure(desk.store, Erasure(ids=(ID,)))) == (1, 1, 1, 0)
    assert run(desk).cancelled == 1
    status = desk.status()
    assert (status.pending, status.dead_letter, status.balanced) == (1, 1, True)
    [dead] = desk.run(desk.store.dead_letters())
    assert (dead.reason, dead.error_type) == ("cancelled", "Erased")
    assert [lease.event.id for lease in desk.claim()] == ["evt_other"]


def test_an_event_that_is_being_sent_is_left_and_counted_until_it_is_done(desk, lease):
    assert desk.run(plan_erasure(desk.store, Erasure(ids=(ID,)))) == (1, 1, 1, 1)
    report = run(desk)
    assert (report.events, report.being_sent) == (0, 1)
    assert desk.detail(ID).event.subject == SECRET
    desk.record(desk.delivered(lease))
    assert run(desk).events == 1


def test_an_erasure_waits_for_a_delivery_that_is_being_sent(desk, lease):
    looked = []

    async def both():
        task = create_task(erase(desk.store, Erasure(ids=(ID,)), who="Zoë", on_progress=looked.append))
        while not looked:
            await desk.store.read(lambda _: None)
        await desk.store.record([desk.delivered(lease)])
        return await task

    assert desk.run(both()).events == 1
    assert desk.status().delivered == 1


def test_an_expired_lease_is_left_to_its_owner_until_the_command_has_watched(desk, lease):
    """After an outage, a living worker has not renewed it yet."""
    desk.clock.advance(1000)
    report = run(desk, patience=1)
    assert (report.events, report.being_sent) == (0, 1)
    assert desk.record(desk.delivered(lease))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names processes")
def test_an_event_of_an_ended_process_is_erased_before_its_lease_has_ended(
    desk,
):
    desk.enqueue(about())
    desk.begin(desk.claim_one(owner="ended"))
    machine, pid, started_at = this_process().rsplit(" ", 2)
    ended = f"{machine} {pid} {int(started_at) - 1}"
    desk.write(beat, None, owner="ended", endpoint=None, clock=desk.clock, process=ended)
    report = run(desk, patience=PATIENCE_SECONDS)
    assert (report.events, report.cancelled, report.being_sent) == (1, 1, 0)


@pytest.mark.usefixtures("lease")
def test_an_event_that_a_killed_worker_was_sending_is_erased_when_the_lease_has_ended(desk):
    desk.clock.advance(1000)
    desk.store.lease_seconds = 0.2  # so that the command watches only briefly
    report = run(desk, patience=PATIENCE_SECONDS)
    assert (report.events, report.cancelled, report.being_sent) == (1, 1, 0)
    [row] = desk.rows(schema.attempts)
    assert row["result"] == "lost"
    assert desk.status().balanced


def test_an_attempt_that_ends_late_adds_no_text_to_an_erased_event(desk, lease):
    desk.clock.advance(1000)
    desk.rescue()
    run(desk)
    desk.record(desk.failed(lease, GiveUp("permanent"), error=SECRET, excerpt=SECRET, warning=SECRET))
    assert left(desk) == set()
    [row] = [each for each in desk.rows(schema.attempts) if each["late"]]
    assert row["result"] == "failed"


def test_a_repeat_of_an_erased_event_is_answered_erased_and_not_stored(desk):
    desk.bury(about())
    run(desk)
    before = desk.status()
    for repeat in (about(), about(subject="someone else")):
        for endpoint in ("orders", "audit"):
            result = desk.enqueue(repeat, "evt_new", endpoint=endpoint)
            assert (result.erased, result.accepted + result.known, result.conflicts) == (1, 1, ())
            assert [(each.erased, each.duplicate, each.endpoints) for each in result.outcomes] == [
                (True, True, ()),
                (False, result.known == 1, (endpoint,)),
            ]
    assert desk.status().accepted == before.accepted + 2
    other = Event(id=ID, type="order.paid", source="/another-shop")
    assert desk.enqueue(other).accepted == 1, "the id of another source is another event"


@pytest.fixture
def erasing_meanwhile(open_desk, postgresql_url):
    """Run a coroutine that waits for the erasure of ``about()``; yield the desk and the function."""
    desk = open_desk(postgresql_url)
    desk.bury(about())
    key = desk.write(make_erasure_key)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async def run_meanwhile(produce):
        def erase_while_it_waits(connection):
            [event] = connection.execute(text("SELECT key FROM resonant_events")).scalars()
            erase_batch(connection, [event], key=key, now=desk.clock())
            erased.set()
            while not connection.execute(waiting).scalar():
                pass

        erased = asyncio.Event()
        erasing = create_task(desk.store.write(erase_while_it_waits))
        await erased.wait()
        result = await produce()
        await erasing
        return result

    return desk, run_meanwhile


def test_in_a_producers_own_transaction_a_repeat_that_waits_for_the_erasure_is_refused(
    erasing_meanwhile, open_desk, postgresql_url
):
    desk, run_meanwhile = erasing_meanwhile
    producer = open_desk(postgresql_url)

    async def produce():
        with pytest.raises(StoreUnavailable, match="an event was erased meanwhile"):
            async with producer.store.transaction() as transaction:
                await transaction.run_sync(enqueue, about(), "orders", now=desk.clock())

    desk.run(run_meanwhile(produce))
    assert producer.enqueue(about()).erased == 1


def test_a_repeat_that_waits_for_the_erasure_is_answered_erased(erasing_meanwhile, open_desk, postgresql_url):
    desk, run_meanwhile = erasing_meanwhile
    producer = open_desk(postgresql_url)
    beside = producer.make("evt_beside")
    result = desk.run(run_meanwhile(lambda: producer.store.enqueue([about(), beside], "orders")))
    assert [(each.erased, each.duplicate) for each in result.outcomes] == [(True, True), (False, False)]
    assert desk.status().balanced


def test_a_producer_of_known_events_and_an_erasure_do_not_deadlock(open_desk, postgresql_url, postgresql):
    """Both lock events in the order of their keys, wherever the rows are."""
    desk, producer = open_desk(postgresql_url), open_desk(postgresql_url)
    events = [about("b"), about("a")]
    for each in events:
        desk.enqueue(each)
    for webhook_id in ("moved", "b"):
        desk.execute(f"UPDATE resonant_events SET webhook_id = '{webhook_id}' WHERE id = 'b'")
    key = desk.write(make_erasure_key)
    runs = []

    def produce(connection):
        runs.append("produce")  # again if the server breaks a deadlock
        return enqueue(connection, events, "audit", now=desk.clock())

    def erase_both(connection):
        runs.append("erase")
        return erase_batch(connection, [1, 2], key=key, now=desk.clock())

    async def both():
        async with postgresql.connected("test") as server:
            started = []
            async with desk.store.transaction() as transaction:
                lock = text("SELECT key FROM resonant_events WHERE id = 'b' FOR UPDATE")
                await transaction.run_sync(lambda connection: connection.execute(lock) and None)
                for store, work in ((desk.store, erase_both), (producer.store, produce)):
                    started.append(create_task(store.write(work)))
                    while await server.fetchval(NUMBER_WAITING) < len(started):
                        await asyncio.sleep(0.005)
            return await gather(*started)

    erased, produced = desk.run(both())
    assert (erased.events, produced.erased) == (2, 2), runs
    assert runs == ["erase", "produce"]


def test_an_erased_dead_letter_is_never_replayed(desk):
    desk.bury(about(), "evt_1", apart=1)
    run(desk)
    desk.clock.advance(1)
    request = ReplayRequest(Selection(), everything=True, include_permanent=True)
    found = desk.run(plan(desk.store, request))
    assert str(found) == "1 would be sent again; 1 skipped: the event was erased"
    [erased_id] = {row["event_id"] for row in desk.rows(schema.deliveries)} - {"evt_1"}
    for options in ({}, {"include_permanent": True}, {"to": "audit"}):
        assert desk.replay(Selection(ids=(erased_id,)), **options).leases == []
    of_id = ReplayRequest(Selection(ids=(erased_id,)), to="audit")
    assert (
        str(desk.run(plan(desk.store, of_id))) == "0 would be sent to audit; 1 skipped: the event was erased"
    )


def test_events_are_selected_by_subject_or_by_source_and_type(desk):
    given = [
        Event(id=f"evt_{number}", type=event_type, source=source, subject=subject)
        for number, (event_type, source, subject) in enumerate(
            [("order.paid", "/shop", "ann"), ("order.sent", "/shop", "bob"), ("order.paid", "/crm", "ann")]
        )
    ]
    desk.bury(*given)
    for what, number in (
        (Erasure(subject="an"), 0),
        (Erasure(source="/shop", event_type="user.*"), 0),
        (Erasure(subject="ann", source="/crm"), 1),
        (Erasure(source="/shop", event_type="order.*"), 2),
    ):
        assert desk.run(plan_erasure(desk.store, what)).events == number
        assert run(desk, what).events == number
        assert run(desk, what).events == 0, "nothing is erased twice"


def test_the_audit_has_neither_the_selection_nor_ids_of_earlier_operations(desk):
    bury(desk, about())
    cause = next(iter(desk.read(lambda connection: [*each_dead_letter(connection)]))).error
    assert SECRET in cause
    desk.cancel(ids=(ID, "evt_other"))
    desk.cancel(text=SECRET)
    [fingerprint] = {row["fingerprint"] for row in desk.rows(schema.causes)}
    desk.write(acknowledge, fingerprint, who="Zoë", note=f"ask {ID} again", now=desk.clock())
    entry = {"action": "pause", "selection": {"reason": f"the receiver lost {ID}."}}
    desk.write(record_change, at=desk.clock(), who="Zoë", **entry)
    desk.cancel(text=f"refused: {SECRET}")
    run(desk, Erasure(subject=SECRET))
    assert left(desk) == set()
    newest, *_, oldest = desk.read(read_audit)
    assert (newest.action, newest.count, newest.selection["by"]) == ("erase", 1, ["subject"])
    assert len(newest.selection["hmac"]) == 64
    assert newest.ended_at is not None
    assert oldest.selection["ids"][1] == "evt_other"


def test_causes_keep_the_errors_of_other_dead_letters(desk):
    desk.bury(about(), "evt_other", error="refused: too many")
    desk.bury(about("jm-example-org-2"), error=f"refused: {SECRET}")
    run(desk, Erasure(subject=SECRET))
    errors = {row["error"] for row in desk.rows(schema.causes)}
    assert errors == {"refused: too many", ""}
    assert desk.run(desk.store.dead_letters(Selection(text="too many")))[0].event_id == "evt_other"


def test_an_erasure_that_was_killed_after_a_transaction_is_finished_by_the_next_one(desk):
    desk.bury(*(about(f"jm-{number:04}") for number in range(110)))
    with pytest.raises(Killed):
        run(desk, Erasure(subject=SECRET), on_progress=kill)
    assert desk.run(plan_erasure(desk.store, Erasure(subject=SECRET))).events == 10
    assert run(desk, Erasure(subject=SECRET)).events == 10
    assert left(desk) == set()


def test_events_stored_while_an_erasure_runs_stay_and_those_before_all_go(desk, monkeypatch):
    monkeypatch.setattr("resonant.dead_letters.walking.SEARCHED", 20)
    desk.bury(*(about(f"jm-{number:04}") for number in range(70)))
    started = asyncio.Event()

    async def both():
        what = Erasure(subject=SECRET)
        erasing = create_task(
            erase(desk.store, what, who="Zoë", patience=0, on_progress=lambda _: started.set())
        )
        await started.wait()
        again = await desk.store.enqueue([about("jm-0000"), about("jm-new")], "orders")
        return again, await erasing

    again, report = desk.run(both())
    assert (report.events, again.erased, again.accepted) == (70, 1, 1)
    assert desk.run(plan_erasure(desk.store, Erasure(subject=SECRET))).events == 1
    assert desk.status().balanced


def test_two_erasures_at_once_erase_each_event_once(open_desk, store_url, monkeypatch):
    monkeypatch.setattr("resonant.dead_letters.walking.SEARCHED", 20)
    desk, other = open_desk(store_url), open_desk(store_url)
    desk.bury(*(about(f"jm-{number:04}") for number in range(70)))

    async def both():
        what = Erasure(subject=SECRET)
        return await gather(*(erase(each.store, what, who="Zoë", patience=0) for each in (desk, other)))

    assert sum(report.events for report in desk.run(both())) == 70
    assert desk.status().balanced


def test_the_systems_own_events_about_an_event_are_erased_with_it_once_none_is_being_sent(desk):
    for endpoint in ("ops", "log"):
        subscribe(desk, endpoint, "resonant.delivery.dead")
    bury(desk, about())
    lease = desk.claim_one(endpoint="ops")
    desk.begin(lease)
    report = run(desk)
    assert (report.events, report.being_sent) == (0, 1)
    desk.record(desk.delivered(lease))
    report = run(desk)
    assert (report.events, report.deliveries, report.cancelled) == (1, 3, 1)
    assert left(desk) == set()


def test_an_erased_event_that_an_older_version_stored_again_is_erased_again(desk):
    desk.bury(about())
    run(desk)
    set_key = text("UPDATE resonant_schema SET erasure_key = :key")
    [[key]] = [row.values() for row in rows(desk, "(SELECT erasure_key FROM resonant_schema) AS key")]

    def forget_key(connection):
        connection.execute(set_key, {"key": None})
        connection.info.pop("resonant_erasure_key", None)

    desk.write(forget_key)
    desk.enqueue(about())
    desk.write(lambda connection: connection.execute(set_key, {"key": key}))
    assert run(desk).events == 1
    assert left(desk) == set()
    assert desk.enqueue(about()).erased == 1


def test_on_postgresql_the_report_says_what_keeps_the_bytes(open_desk, postgresql_url):
    desk = open_desk(postgresql_url)
    desk.bury(about())
    assert "VACUUM FULL" in run(desk).kept


def test_a_log_that_another_process_reads_is_named(open_desk, sqlite_url, tmp_path):
    desk = open_desk(sqlite_url)
    desk.bury(about())
    with listening("connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout = 20")):
        desk = open_desk(sqlite_url)
    with closing(sqlite3.connect(tmp_path / "resonant.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM resonant_events").fetchone()
        assert (
            run(desk).kept
            == "resonant.db-wal, since another process is reading: run this again when it is done"
        )
    assert "resonant.db-wal" not in run(desk).kept


def test_a_build_of_sqlite_that_overwrites_nothing_by_itself_is_made_to(open_desk, sqlite_url, tmp_path):
    with listening("connect", lambda connection, _record: connection.execute("PRAGMA secure_delete = OFF")):
        desk = open_desk(sqlite_url)
        desk.enqueue(about())
        run(desk)
    assert files_with(tmp_path, *FORMS) == {}


@pytest.fixture
def purged(desk):
    """A dead letter was reported to ``ops``, and purged; its report is delivered."""
    subscribe(desk, "ops", "resonant.delivery.dead")
    bury(desk, about())
    desk.deliver(*desk.claim(endpoint="ops"))
    assert desk.purge(Chosen(Selection())) == 1
    return desk


@pytest.mark.parametrize(
    "what", [Erasure(ids=(ID,)), Erasure(source="/shop", event_type="order.*")], ids=["id", "source and type"]
)
def test_resonants_own_events_about_a_purged_event_can_still_be_erased(purged, what):
    assert ID in left(purged)
    assert purged.run(plan_erasure(purged.store, what)) == (1, 1, 0, 0)
    report = run(purged, what)
    assert (report.events, report.deliveries) == (1, 1)
    assert left(purged) == set()
    assert run(purged, what).events == 0, "a repeat is no error"


@pytest.mark.parametrize(
    "what", [Erasure(ids=("evt_typo",)), Erasure(ids=(ID,), source="/crm"), Erasure(ids=(ID, "evt_typo"))]
)
def test_an_id_without_an_event_or_a_report_is_an_error(purged, what):
    with pytest.raises(UnknownName, match=r"no event has the id .*: nothing was done"):
        run(purged, what)
    assert ID in left(purged)


@pytest.mark.parametrize("name", ["event_id", "source", "event_type"])
def test_a_forged_own_event_of_an_older_producer_does_not_stop_an_erasure(desk, name):
    desk.enqueue(about())
    desk.enqueue(Event(id="delivery-7-1-1", type="t", source="/shop", data=1))
    data = {"event_id": ID, "source": "/shop", "event_type": "order.paid"} | {name: ["not a text"]}
    changes = {"source": OWN_SOURCE, "type": DEAD, "body": json.dumps(data).encode()}
    change = schema.events.update().where(schema.events.c.id == "delivery-7-1-1").values(changes)
    desk.write(lambda connection: connection.execute(change).rowcount)
    assert run(desk, Erasure(ids=(ID,))).events == 1


def test_a_report_about_a_purged_delivery_is_erased_after_its_event_even_if_the_command_was_killed_between(
    desk,
):
    subscribe(desk, "ops", "resonant.delivery.dead")
    bury(desk, about())
    desk.enqueue(about(), endpoint="audit")
    desk.deliver(*desk.claim(endpoint="ops"), *desk.claim(endpoint="audit"))
    assert desk.purge(Chosen(Selection())) == 1
    assert desk.run(plan_erasure(desk.store, Erasure(subject=SECRET))).events == 2
    with pytest.raises(Killed):
        run(desk, Erasure(subject=SECRET), on_progress=kill)
    assert ID in left(desk), "the event is erased, and the report is not"
    assert run(desk, Erasure(subject=SECRET)).events == 1
    assert left(desk) == set()


def test_a_purge_removes_the_errors_of_causes_that_have_no_dead_letters_left(desk):
    bury(desk, about())
    desk.bury(about("other"), error=f"other: {SECRET}", code="http_422")
    [cause, other] = desk.rows(schema.causes)
    assert desk.purge(Chosen(Selection(ids=(ID,)))) == 1
    assert [row["error"] for row in desk.rows(schema.causes)] == ["", f"other: {SECRET}"]
    bury(desk, about())
    assert desk.rows(schema.causes) == [cause, other], "the same failure has its cause again"
    assert desk.run(desk.store.dead_letters(Selection(text="refused")))[0].event_id == ID


def test_ids_are_looked_up_before_their_hashes(desk, monkeypatch):
    """A store may have ten thousand sources."""
    desk.bury(*(Event(id=f"evt_{number}", type="t", source=f"/{number}") for number in range(50)))
    run(desk, Erasure(ids=("evt_0",)))
    hashed = []
    monkeypatch.setattr(
        "resonant.dead_letters.erase.erased_id", lambda *given: hashed.append(given) or "none"
    )
    desk.run(plan_erasure(desk.store, Erasure(ids=tuple(f"evt_{number}" for number in range(1, 50)))))
    assert hashed == []
