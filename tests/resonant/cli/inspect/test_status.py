"""``status``: the balance, alerts, endpoint problems, and the next step."""

import contextlib
import re
import sqlite3
import time
from dataclasses import replace

import pytest

from resonant.cli.inspect import status as status_commands
from resonant.delivery.retry import Park, Retry
from resonant.events import rfc3339
from resonant.metrics.alerts import AlertCondition, Crossing, record_crossings
from resonant.store.shared import drains
from resonant.store.shared.gates import FailingType, Gate, GateChange, change_gate
from resonant.store.views.reads import StoreStatus
from resonant.testing import nobody_listening

RAISED = Crossing("raised", AlertCondition.ERROR_RATE, "crm", 0.5, 0.25, "text", at=0.0, since=0.0)


def test_status_counts_and_balances(resonant, recent):
    now = recent.clock()
    recent.accept("evt_delivered", "evt_delivered_too")
    recent.attempt()
    recent.accept("evt_retrying")
    recent.attempt(Retry(1.0, now + 1))
    recent.accept("evt_parked", endpoint="crm")
    recent.attempt(Park(100.0, now + 100), endpoint="crm")
    recent.accept("evt_pending", endpoint="crm")
    found = resonant.json("status")
    counts = {"accepted": 8, "pending": 1, "retrying": 2, "in_flight": 1, "delivered": 2, "dead_letter": 3}
    by_category = {"permanent": 1, "transient": 1, "unknown": 1}
    others = {"purged": 0, "balanced": True, "by_category": by_category, "endpoint_problems": []}
    assert {name: found[name] for name in list(found)[:10]} == counts | others
    for name in ("crm", "webhook-endpoint/crm"):
        assert resonant.json("status", "--endpoint", name)["accepted"] == 3


def test_status_without_deployments_asks_no_prefect(resonant, recent, monkeypatch):
    with nobody_listening() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert resonant.json("status")["deployment_warnings"] == {}


def test_status_shows_active_alerts(resonant, recent):
    crossing = replace(RAISED, at=recent.clock() - 7200)
    of_all = replace(crossing, condition=AlertCondition.RETRIES, endpoint="", at=recent.clock() - 6_000)
    recent.do(lambda store: store.write(record_crossings, [of_all, crossing]))
    texts = [
        "100% of 1 attempts in 15 minutes failed, the limit is 25%",
        "0% of 1 attempts in 15 minutes were followed by a retry, the limit is 50%",
    ]
    assert resonant.json("status")["alerts"] == [
        {"condition": "error_rate", "endpoint": "crm", "since": rfc3339(crossing.at), "text": texts[0]},
        {"condition": "retries", "endpoint": None, "since": rfc3339(of_all.at), "text": texts[1]},
    ]
    shown = " ".join(resonant("status").out.split())
    assert f"alert error_rate for crm, raised 2 h ago, now: {texts[0]}" in shown
    assert f"alert retries for all endpoints, raised 2 h ago, now: {texts[1]}" in shown
    of_billing = resonant.json("status", "--endpoint", "billing")["alerts"]
    assert [each["condition"] for each in of_billing] == ["retries"]
    recovered = [replace(each, what="recovered") for each in (crossing, of_all)]
    recent.do(lambda store: store.write(record_crossings, recovered))
    assert resonant.json("status")["alerts"] == []
    assert "alert " not in resonant("status").out


def test_an_alert_in_the_status_has_the_number_beside_the_threshold(resonant, recent):
    recent.do(lambda store: store.fold())
    crossing = replace(RAISED, condition=AlertCondition.DEAD_LETTERS, at=recent.clock() - 6_000)
    held = replace(crossing, condition=AlertCondition.HELD)
    recent.do(lambda store: store.write(record_crossings, [crossing, held]))

    shown = " ".join(resonant("status").out.split())

    for said in (
        "dead_letters for crm, raised 2 h ago, now: 1 more dead letter in an hour; an alert begins at 5",
        "held for crm, raised 2 h ago, now: a gate holds a delivery, and 50% of its max_age has passed",
    ):
        assert f"alert {said}" in shown


def test_status_begins_with_the_store_the_balance_and_the_next_step(resonant, recent):
    store, first, *lines = resonant("status").out.splitlines()
    assert store.startswith("store: ")
    assert first == "balanced: yes; `resonant dlq` shows 3 dead letters"
    header = lines.index("ACCEPTED  PENDING  RETRYING  DELIVERED  DEAD LETTER  PURGED")
    assert lines[header + 1].split() == ["3", "0", "0", "0", "3", "0"]
    assert lines[header + 2] == "in flight: 0; dead letters: 1 permanent, 1 transient, 1 unknown"
    assert lines[header + 3].startswith("oldest dead letter: 3 h ago, ")


@pytest.mark.parametrize("ui_url", ["", "http://prefect.example"])
def test_on_a_terminal_of_24_lines_the_status_of_three_endpoints_is_visible(
    resonant, recent, monkeypatch, ui_url
):
    monkeypatch.setenv("PREFECT_UI_URL", ui_url)
    # The path of a test's store is longer than usual.
    monkeypatch.setenv("RESONANT_DATABASE_URL", "sqlite:///resonant.db")
    monkeypatch.setenv("RESONANT_HOME", "home")
    recent.accept("evt_due", endpoint="shop")
    crossing = replace(RAISED, at=recent.clock() - 7200)
    recent.do(lambda store: store.write(record_crossings, [crossing]))
    recent.do(lambda store: store.write(drains.beat, None, owner="run", endpoint=None, clock=recent.clock))

    lines = resonant.on_a_terminal("status", lines=24).splitlines()

    assert len(lines) <= 24 - 2, "the command and the next prompt take a line each"
    assert sum(line.startswith(("crm ", "shop ", "billing ")) for line in lines) == 3
    is_whole = any(line.startswith("daily purge: ") for line in lines)
    assert is_whole or ui_url, "without a page, nothing is omitted"
    assert lines[1] == "balanced: yes; 1 delivery is in progress; `resonant dlq` shows 3 dead letters"


COUNTS = ("accepted", "pending", "retrying", "in_flight", "delivered", "dead_letter")


def status_of(**counts) -> StoreStatus:
    nothing = dict.fromkeys((*COUNTS, "purged"), 0)
    return StoreStatus(
        **nothing | {"oldest_due_at": None, "oldest_dead_at": None, "by_category": {}} | counts
    )


TWO_WAIT = {"accepted": 2, "pending": 2, "oldest_due_at": 100.0}
UNBALANCED = "3 were accepted and 2 are accounted for: keep a copy of the database and report this"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "nothing is stored yet: `resonant emit FILE --endpoint URL` stores and sends"),
        ({"accepted": 2, "delivered": 2}, "nothing to do"),
        ({"accepted": 1, "pending": 1, "oldest_due_at": 995.0}, "1 delivery is in progress"),
        (TWO_WAIT, "2 deliveries wait: `resonant emit` sends them, `resonant deliveries` lists them"),
        (TWO_WAIT | {"in_flight": 2}, "2 deliveries are in progress"),
        ({"accepted": 3, "delivered": 2}, UNBALANCED),
    ],
)
def test_the_next_step(counts, said):
    assert status_commands.next_step(status_of(**counts), now=1_000.0, is_sent=True) == said


def beat(store, endpoint, age=0):
    now = store.clock() - age
    return store.write(drains.beat, None, owner="run-1", endpoint=endpoint, clock=lambda: now)


def claim(store):
    return store.claim("billing", owner="run-1", limit=1)


@pytest.mark.parametrize(
    ("sending", "is_sent"),
    [
        ([], False),
        ([lambda store: beat(store, None)], True),
        ([lambda store: beat(store, "crm")], False),
        ([lambda store: beat(store, None, age=drains.LIVE_SECONDS + 1)], False),
        ([claim], False),
        ([claim, lambda store: beat(store, drains.NO_DRAIN)], True),
        ([lambda store: beat(store, drains.NO_DRAIN)], False),
    ],
    ids=["none", "drain", "drain of crm", "old drain", "a killed run's claim", "run", "run of others"],
)
def test_deliveries_that_no_run_sends_are_not_shown_as_in_progress(resonant, worker, sending, is_sent):
    worker.accept("evt_1", "evt_2")
    for each in sending:
        worker.do(each)

    first = resonant("status", "--endpoint", "billing").out.splitlines()[1]
    no_run = "no run sends them: `resonant emit` sends what is due, `resonant up` sends all"
    said = "2 deliveries are in progress" if is_sent else f"2 deliveries wait, and {no_run}"
    assert first == f"balanced: yes; {said}"


@pytest.mark.parametrize(
    ("state", "age", "said"),
    [
        ("normal", 120, "1 delivery waits: `resonant emit` sends them"),
        ("normal", 10, "1 delivery is in progress"),
        ("paced", 120, "2 deliveries are held, as shown below"),
    ],
    ids=["an overdue one of another type", "a new one of another type", "the whole endpoint"],
)
def test_deliveries_of_other_types_than_those_that_fail_may_be_overdue(resonant, worker, state, age, said):
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-600)
        worker.accept("evt_bad", event_type="bad")
        worker.clock.advance(600 - age)
        worker.accept("evt_good", event_type="good")
        worker.clock.advance(age)
        bad = FailingType("bad", now - 600, "http 500", now + 60, now)
        gate = Gate("billing", state, since=now, failing=(bad,))
        worker.do(lambda store: store.write(change_gate, GateChange(Gate("billing"), gate)))
        worker.do(lambda store: beat(store, None))

    first = resonant("status").out.splitlines()[1]

    held = "1 delivery is held, as shown below; " if state == "normal" else ""
    assert first.startswith(f"balanced: yes; {held}{said}")


def test_an_imbalance_is_shown_first(resonant, worker, url):
    worker.accept("evt_1", "evt_2")
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM resonant_deliveries WHERE id = 1")
    first = resonant("status").out.splitlines()[1]
    assert first.startswith("balanced: NO; 2 were accepted and 1 are accounted for")
    assert resonant.json("status")["balanced"] is False


@pytest.mark.parametrize("what", ["dead letters", "held deliveries"])
def test_status_links_the_page_of_prefect_that_shows_undelivered_events(resonant, worker, monkeypatch, what):
    if what == "dead letters":
        worker.bury("evt_1")
    else:
        worker.accept("evt_1")
        resonant("endpoint", "pause", "billing")
    assert "Prefect" not in resonant("status").out
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    key = {"dead letters": "dead-letter-triage", "held deliveries": "held-endpoints"}[what]
    page = f"http://prefect.example/artifacts/key/{key}"
    assert f"\nPrefect's UI shows the {what}: {page}\n" in resonant("status").out
    assert "Prefect" not in resonant("status", "--json").out


def test_the_time_is_that_of_the_store_and_not_of_the_operators_machine(resonant, on_postgresql, monkeypatch):
    """The machine's clock is an hour ahead, when the delivery and the run would be old."""
    on_postgresql.accept("evt_1")
    on_postgresql.accept("evt_later", endpoint="crm")
    on_postgresql.attempt(Park(1_000.0, on_postgresql.clock() + 1_000), endpoint="crm")
    on_postgresql.do(lambda store: beat(store, None))
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + 3_600)

    shown = resonant("status").out

    assert shown.splitlines()[1] == "balanced: yes; 2 deliveries are in progress"
    assert re.search(r"oldest due: \d+ s ago", shown)
    states = {each["event_id"]: each["state"] for each in resonant.json("deliveries")}
    assert states == {"evt_1": "due", "evt_later": "parked"}


def test_status_names_a_server_that_may_lose_commits(resonant, on_postgresql, postgresql):
    assert resonant.json("status")["durability_problem"] is None
    line = "PostgreSQL runs with fsync=off: a crash of its machine may lose or damage stored events"
    with postgresql.without_accepted_risk():
        assert resonant.json("status")["durability_problem"].startswith(line)
        assert line in " ".join(resonant("status").out.split())
