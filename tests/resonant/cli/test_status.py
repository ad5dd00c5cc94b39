"""``status``, ``dlq``, ``failed``, ``retry-candidates``."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from resonant.cli import status as status_commands
from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import rfc3339
from resonant.metrics.alerts import Condition, Crossing, note_announced, record_crossings
from resonant.store.shared import drains
from resonant.store.views.reads import StoreStatus

ROW_KEYS = [
    *("event_id", "event_type", "endpoint", "reason", "category", "code", "error_type", "error"),
    *("status_code", "attempts", "first_attempt_at", "dead_at", "replays"),
    *("answer", "maybe_processed", "endpoint_state"),
]
PERMANENT = {"category": "permanent", "code": "http_400", "status_code": 400, "error": "it answered 400"}


@pytest.fixture
def dead(worker):
    """Three dead letters: of three hours, of one hour, and of now."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-3 * 3600)
        worker.accept("evt_old", event_type="order.paid")
        worker.attempt(GiveUp("exhausted"))
        worker.clock.advance(2 * 3600)
        worker.accept("evt_bad", event_type="order.refunded")
        worker.attempt(GiveUp("permanent"), **PERMANENT)
        worker.clock.advance(now - worker.clock())
        worker.accept("evt_new", event_type="user.created", endpoint="crm")
        worker.attempt(
            GiveUp("expired"), endpoint="crm", category="unknown", code="dns_not_found", status_code=None
        )
    return worker


def ids(rows):
    return [row["event_id"] for row in rows]


def test_status_counts_and_balances(resonant, dead):
    now = dead.clock()
    dead.accept("evt_delivered", "evt_delivered_too")
    dead.attempt()
    dead.accept("evt_retrying")
    dead.attempt(Retry(1.0, now + 1))
    dead.accept("evt_parked", endpoint="crm")
    dead.attempt(Park(100.0, now + 100), endpoint="crm")
    dead.accept("evt_pending", endpoint="crm")
    found = resonant.json("status")
    assert {name: found[name] for name in list(found)[:10]} == {
        "accepted": 8,
        "pending": 1,
        "retrying": 2,
        "in_flight": 1,
        "delivered": 2,
        "dead_letter": 3,
        "purged": 0,
        "balanced": True,
        "by_category": {"permanent": 1, "transient": 1, "unknown": 1},
        "endpoint_problems": [],
    }


def test_status_shows_active_alerts(resonant, dead):
    crossing = Crossing(
        "raised", Condition.ERROR_RATE, "crm", 0.5, 0.25, "text", at=dead.clock() - 7200, since=0.0
    )
    of_all = replace(crossing, condition=Condition.RETRIES, endpoint="", at=dead.clock() - 60)
    dead.do(lambda store: store.write(record_crossings, [of_all, crossing]))
    texts = [
        "0% of 0 attempts in 15 minutes failed, the limit is 25%",
        "0% of 0 attempts in 15 minutes were followed by a retry, the limit is 50%",
    ]
    assert resonant.json("status")["alerts"] == [
        {"condition": "error_rate", "endpoint": "crm", "since": rfc3339(crossing.at), "text": texts[0]},
        {"condition": "retries", "endpoint": None, "since": rfc3339(of_all.at), "text": texts[1]},
    ]
    shown = " ".join(resonant("status").out.split())
    assert f"alert error_rate for crm, raised 2 h ago, now: {texts[0]}" in shown
    assert f"alert retries for all endpoints, raised 1 min ago, now: {texts[1]}" in shown
    assert [each["condition"] for each in resonant.json("status", "--endpoint", "billing")["alerts"]] == [
        "retries"
    ]
    recovered = [replace(each, what="recovered") for each in (crossing, of_all)]
    dead.do(lambda store: store.write(note_announced, [crossing, of_all]))
    dead.do(lambda store: store.write(record_crossings, recovered))
    assert resonant.json("status")["alerts"] == []
    assert "alert " not in resonant("status").out


def test_an_alert_in_the_status_has_the_number_beside_the_threshold(resonant, dead):
    dead.do(lambda store: store.fold())
    crossing = Crossing(
        "raised", Condition.DEAD_LETTERS, "crm", 9, 5, "text", at=dead.clock() - 60, since=0.0
    )
    held = replace(crossing, condition=Condition.HELD)
    dead.do(lambda store: store.write(record_crossings, [crossing, held]))

    shown = " ".join(resonant("status").out.split())

    assert (
        "alert dead_letters for crm, raised 1 min ago, now: 1 more dead letter in an hour; an alert begins at 5"
        in shown
    )
    assert (
        "alert held for crm, raised 1 min ago, now: a gate holds a delivery, and 50% of its max_age has passed"
        in shown
    )


def test_status_can_count_one_endpoint(resonant, dead):
    assert resonant.json("status", "--endpoint", "crm")["accepted"] == 1
    assert resonant.json("status", "--endpoint", "webhook-endpoint/crm")["accepted"] == 1


def test_status_says_last_whether_it_balances_and_what_to_do_next(resonant, dead):
    *lines, last = resonant("status").out.splitlines()
    assert last == "balanced: yes; `resonant dlq` shows 3 dead letters"
    header = lines.index("ACCEPTED  PENDING  RETRYING  DELIVERED  DEAD LETTER  PURGED")
    assert lines[header + 1].split() == ["3", "0", "0", "0", "3", "0"]
    assert lines[header + 2] == "in flight: 0; dead letters: 1 permanent, 1 transient, 1 unknown"
    assert lines[header + 3].startswith("oldest dead letter: 3 h ago, ")


def test_on_a_terminal_of_24_lines_the_whole_status_of_three_endpoints_is_visible(resonant, dead):
    dead.accept("evt_due", endpoint="shop")
    crossing = Crossing(
        "raised", Condition.ERROR_RATE, "crm", 0.5, 0.25, "text", at=dead.clock() - 7200, since=0.0
    )
    dead.do(lambda store: store.write(record_crossings, [crossing]))

    lines = resonant.on_a_terminal("status").splitlines()

    # The command and the next prompt take a line each; the path of a test's archive is longer than usual.
    assert len(lines) <= 24 - 2 + 1
    assert lines[-1] == "balanced: yes; 1 delivery is in progress; `resonant dlq` shows 3 dead letters"


def status_of(**counts) -> StoreStatus:
    nothing = dict.fromkeys(
        ("accepted", "pending", "retrying", "in_flight", "delivered", "dead_letter", "purged"), 0
    )
    times = {"oldest_due_at": None, "oldest_dead_at": None}
    return StoreStatus(**nothing | times | {"by_category": {}} | counts)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (status_of(), "nothing is stored yet: `resonant emit FILE --endpoint URL` stores and sends"),
        (status_of(accepted=2, delivered=2), "nothing to do"),
        (status_of(accepted=1, pending=1, oldest_due_at=995.0), "1 delivery is in progress"),
        (
            status_of(accepted=2, pending=2, oldest_due_at=100.0),
            "2 deliveries wait: `resonant emit` sends them, `resonant deliveries` lists them",
        ),
        (
            status_of(accepted=2, pending=2, in_flight=2, oldest_due_at=100.0),
            "2 deliveries are in progress",
        ),
        (
            status_of(accepted=3, delivered=2),
            "3 were accepted and 2 are accounted for: keep a copy of the database and report this",
        ),
    ],
)
def test_the_next_step(status, said):
    assert status_commands.next_step(status, now=1_000.0, is_sent=True) == said


@pytest.mark.parametrize(
    ("sender", "is_sent"),
    [("none", False), ("drain", True), ("drain of crm", False), ("old drain", False), ("claim", True)],
)
def test_deliveries_that_no_run_sends_are_not_said_to_be_in_progress(resonant, worker, sender, is_sent):
    worker.accept("evt_1", "evt_2")

    async def begin(store):
        endpoint, clock = ("crm" if "crm" in sender else None), worker.clock
        if sender == "claim":
            [lease] = await store.claim("billing", owner="run-1", limit=1)
            await store.release([lease])
        elif sender != "none":
            age = 11 if sender == "old drain" else 0
            await store.write(
                drains.beat, None, owner="run-1", endpoint=endpoint, clock=lambda: clock() - age
            )

    worker.do(begin)

    last = resonant("status", "--endpoint", "billing").out.splitlines()[-1]
    waiting = (
        "2 deliveries are in progress"
        if is_sent
        else "2 deliveries wait, and no run sends them: `resonant emit` sends what is due, `resonant up` sends all"
    )
    assert last == f"balanced: yes; {waiting}"


def test_an_imbalance_is_said_last(resonant, worker, url):
    import contextlib
    import sqlite3

    worker.accept("evt_1", "evt_2")
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM resonant_deliveries WHERE event_id = 'evt_1'")
    last = resonant("status").out.splitlines()[-1]
    assert last.startswith("balanced: NO; 2 were accepted and 1 are accounted for")
    assert resonant.json("status")["balanced"] is False


def test_dlq_lists_the_newest_first_with_the_keys_of_the_contract(resonant, dead):
    rows = resonant.json("dlq")
    assert ids(rows) == ["evt_new", "evt_bad", "evt_old"]
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    assert rows[1] == {
        "event_id": "evt_bad",
        "event_type": "order.refunded",
        "endpoint": "billing",
        "reason": "permanent",
        "category": "permanent",
        "code": "http_400",
        "error_type": "UnexpectedStatus",
        "error": "it answered 400",
        "status_code": 400,
        "attempts": 1,
        "first_attempt_at": rfc3339(dead.clock() - 3600),
        "dead_at": rfc3339(dead.clock() - 3600),
        "replays": 0,
        "answer": None,
        "maybe_processed": False,
        "endpoint_state": "normal",
    }


def test_failed_lists_the_permanent_ones(resonant, dead):
    assert ids(resonant.json("failed")) == ["evt_bad"]


def test_retry_candidates_lists_the_transient_ones(resonant, dead):
    assert ids(resonant.json("retry-candidates")) == ["evt_old"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--endpoint", "crm"], ["evt_new"]),
        (["--type", "order.*"], ["evt_bad", "evt_old"]),
        (["--type", "order.pai?"], ["evt_old"]),
        (["--category", "unknown"], ["evt_new"]),
        (["--code", "http_503"], ["evt_old"]),
        (["--reason", "expired"], ["evt_new"]),
        (["--text", "ANSWERED 400"], ["evt_bad"]),
        (["--since", "2h"], ["evt_new", "evt_bad"]),
        (["--until", "30m"], ["evt_bad", "evt_old"]),
        (["--since", "7d", "--until", "90m"], ["evt_old"]),
        (["--since", "2000-01-01T00:00:00Z"], ["evt_new", "evt_bad", "evt_old"]),
        (["--until", "2000-01-01T00:00:00+02:00"], []),
        (["--endpoint", "crm", "--code", "http_503"], []),
    ],
)
def test_filters_select(resonant, dead, filters, found):
    assert ids(resonant.json("dlq", *filters)) == found


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dlq", "--since", "yesterday"], "--since 'yesterday' is not a time"),
        (["dlq", "--since", "2026-01-31T12:00:00"], "is not a time"),
        (["dlq", "--until", "2"], "--until '2' is not a time"),
        (["dlq", "--endpoint", "Crm!"], "--endpoint 'Crm!' is not a valid name"),
        (["failed", "--reason", "expired"], "`resonant dlq --reason expired`"),
        (["retry-candidates", "--category", "permanent"], "`resonant dlq --category permanent`"),
    ],
)
def test_a_filter_that_makes_no_sense_is_one_line_and_exit_code_2(resonant, argv, said):
    answer = resonant(*argv, code=2)
    assert said in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--category", "odd"], ["--reason", "odd"], ["--limit", "-1"]])
def test_a_value_that_is_none_of_its_choices_is_exit_code_2(resonant, argv):
    resonant("dlq", *argv, code=2)


def test_fifty_rows_are_shown_unless_more_are_asked_for(resonant, worker):
    worker.accept(*(f"evt_{n}" for n in range(1_234)))
    worker.attempt(GiveUp("permanent"), **PERMANENT)
    worker.attempt(GiveUp("permanent"), **PERMANENT)
    answer = resonant("dlq", "--json")
    assert len(json.loads(answer.out)) == 50
    assert re.fullmatch(
        r"showing 50 of 1,234: --after [\d.]+-\d+ shows the next, --limit 0 all\n", answer.err
    )
    assert len(resonant("dlq").out.splitlines()) == 51
    every = resonant("failed", "--limit", "0", "--json")
    assert every.err == ""
    assert len(set(ids(json.loads(every.out)))) == 1_234
    assert len(resonant.json("dlq", "--limit", "7")) == 7


def test_rows_that_died_in_the_same_moment_are_all_listed_over_pages(resonant, worker):
    worker.accept(*(f"evt_{n:04}" for n in range(1_000)))
    worker.attempt(GiveUp("permanent"), **PERMANENT)
    rows = ids(resonant.json("dlq", "--limit", "999"))
    assert rows == [f"evt_{n:04}" for n in range(999, 0, -1)]


def test_where_stdout_is_no_terminal_a_row_is_a_line_with_nothing_cut(resonant, worker):
    error = "first line\nsecond \x1b[31mline [bold]" + " long" * 100
    long_id = "evt_" + "x" * 200
    worker.accept(long_id, event_type="[red]order[/red]")
    worker.attempt(GiveUp("permanent"), error=error)
    header, row = resonant("dlq").out.splitlines()
    assert " ".join(header.split()) == "EVENT TYPE ENDPOINT REASON CATEGORY CODE TRIES DEAD AT ERROR"
    assert row.split()[:7] == [
        *(long_id, "[red]order[/red]", "billing", "permanent", "transient", "http_503", "1"),
    ]
    assert row.endswith(r"first line\nsecond \x1b[31mline [bold]" + " long" * 100)


def test_no_dead_letters_are_an_empty_array_and_a_word(resonant):
    answer = resonant("dlq", "--json")
    assert (json.loads(answer.out), answer.err) == ([], "no dead letters\n")
    assert resonant("failed", "--code", "http_418").err == "no dead letters match\n"


def test_postgresql_answers_the_same(resonant, worker, postgresql_url, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", postgresql_url)
    there = type(worker)(postgresql_url)
    there.accept(*(f"evt_{n:04}" for n in range(1_000)), data={"n": 1})
    there.attempt(GiveUp("permanent"), **PERMANENT)
    assert ids(resonant.json("dlq", "--limit", "999")) == [f"evt_{n:04}" for n in range(999, 0, -1)]
    assert resonant.json("detail", "evt_0999")["deliveries"][0]["reason"] == "permanent"
    assert "several events begin with 'evt_09'" in resonant("detail", "evt_09", code=1).err
    assert len(json.loads(resonant("export", "-o", "-", "--with-data").out)["dead_letters"]) == 1_000
    assert resonant.json("status")["by_category"] == {"permanent": 1_000}
