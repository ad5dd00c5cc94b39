"""``deliveries`` lists unfinished deliveries; ``cancel --dry-run`` counts the selected ones."""

from __future__ import annotations

import json
import re
from itertools import chain

import pytest

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import rfc3339

PLACE = re.compile(r"showing \d+ of [\d,]+: --after (\S+) shows the next, --limit 0 all\n")
ROW_KEYS = [
    *("event_id", "event_type", "endpoint", "status", "attempts", "replays", "accepted_at"),
    *("first_attempt_at", "next_attempt_at", "finished_at", "reason", "category", "code", "error_type"),
    *(
        "error",
        "status_code",
        "leased_by",
        "lease_until",
        "backoff_until",
        "state",
        "answer",
        "maybe_processed",
        "held",
    ),
]


@pytest.fixture
def waiting(worker):
    """One parked and two due ones, of two endpoints."""
    with worker.at_work():
        worker.accept("evt_parked", event_type="order.refunded")
        worker.attempt(Park(300.0, worker.clock() + 300), excerpt="down for maintenance")
        worker.clock.advance(-7_200)
        worker.accept("evt_due", "evt_due_too", endpoint="crm")
        worker.clock.advance(7_200)
    return worker


def ids(rows):
    return [row["event_id"] for row in rows]


def test_a_row_has_the_keys_of_a_delivery_and_its_state(resonant, waiting):
    rows = resonant.json("deliveries")

    assert ids(rows) == ["evt_due", "evt_due_too", "evt_parked"]
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    assert [row["state"] for row in rows] == ["due", "due", "parked"]
    assert rows[-1]["next_attempt_at"] == rfc3339(waiting.clock() + 300)
    assert rows[-1]["answer"] == "down for maintenance"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--endpoint", "crm"], ["evt_due", "evt_due_too"]),
        (["--type", "order.ref*"], ["evt_parked"]),
        (["--status", "pending"], ["evt_due", "evt_due_too"]),
        (["--status", "retrying"], ["evt_parked"]),
        (["--code", "http_503"], ["evt_parked"]),
        (["--category", "transient"], ["evt_parked"]),
        (["--text", "ANSWERED 503"], ["evt_parked"]),
        (["--since", "1h"], ["evt_parked"]),
        (["--until", "1h"], ["evt_due", "evt_due_too"]),
    ],
)
def test_filters_select(resonant, waiting, filters, found):
    assert ids(resonant.json("deliveries", *filters)) == found


def test_on_a_terminal_a_row_says_where_until_when_and_why(resonant, waiting):
    screen = resonant.on_a_terminal("deliveries")

    assert max(map(len, screen.splitlines())) <= 80
    first, _, parked = screen.rstrip().split("\n\n")
    assert re.fullmatch(
        r"evt_due  to crm\n  due since [\d-]+ \d\d:\d\dZ, 2 h ago, 0 tries, order.paid\n  not tried yet",
        first,
    )
    assert re.fullmatch(
        r"evt_parked  to billing\n  parked until [\d-]+ \d\d:\d\dZ, in 5 min, 1 try, order.refunded\n"
        r"  http 503: down for maintenance",
        parked,
    )


def test_a_delivery_that_waits_in_its_process_for_a_retry_says_when_it_is_due(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(Retry(45.0, worker.clock() + 45))

    screen = resonant.on_a_terminal("deliveries")

    assert re.search(r"waits in its process for the retry at [\d-]+ \d\d:\d\dZ, in \d+ s, 1 try,\s", screen)
    assert "leased by" not in screen
    [row] = resonant.json("deliveries")
    assert (row["state"], row["leased_by"]) == ("in_flight", "run-1")
    assert resonant("deliveries").out.splitlines()[1].split()[4] == "waits"


def test_a_due_delivery_of_a_paused_endpoint_is_held(resonant, waiting):
    resonant("endpoint", "pause", "crm")
    resonant("endpoint", "pause", "billing")

    assert [row["held"] for row in resonant.json("deliveries")] == [True, True, False]
    assert [row.split()[4] for row in resonant("deliveries").out.splitlines()] == [
        *("STATE", "held", "held", "parked")
    ]
    screen = resonant.on_a_terminal("deliveries")
    assert screen.count("\n  held because the endpoint is paused; due since ") == 2
    assert max(map(len, screen.splitlines())) <= 80


def test_where_stdout_is_no_terminal_a_row_is_a_line(resonant, waiting):
    header, *rows = resonant("deliveries").out.splitlines()

    assert header.split() == ["EVENT", "TYPE", "ENDPOINT", "STATUS", "STATE", "DUE", "TRIES", "LAST", "ERROR"]
    assert len(rows) == 3
    assert rows[-1].split()[:5] == ["evt_parked", "order.refunded", "billing", "retrying", "parked"]
    assert rows[-1].endswith("http 503: down for maintenance")


def test_groups_show_the_waiting_deliveries_of_each_endpoint(resonant, waiting):
    screen = resonant.on_a_terminal("deliveries", "--group")
    until = rfc3339(waiting.clock() + 300)[:16].replace("T", " ")
    assert screen == (
        f"billing: 1 parked, the last until {until}Z; oldest due in 5 min\n"
        "      1  http 503: down for maintenance, up to 1 try, e.g. evt_parked\n"
        "\n"
        "crm: 2 due; oldest due 2 h ago\n"
        "      2  not tried yet, e.g. evt_due_too\n"
        "\n"
    )
    billing, crm = resonant.json("deliveries", "--group")
    assert (billing["code"], billing["parked"], billing["example"]) == ("http_503", 1, "evt_parked")
    assert (crm["count"], crm["due"], crm["error"]) == (2, 2, "")
    assert len(resonant("deliveries", "--group").out.splitlines()) == 3


def test_groups_of_a_paused_endpoint_say_that_they_are_held(resonant, waiting):
    resonant("endpoint", "pause", "crm")

    assert "\ncrm: 2 held (the endpoint is paused); oldest due " in resonant.on_a_terminal(
        "deliveries", "--group"
    )
    assert [row["held"] for row in resonant.json("deliveries", "--group")] == [0, 2]


def test_the_pages_put_together_are_the_whole_list(resonant, worker):
    worker.accept(*(f"evt_{number:02}" for number in range(7)))
    pages, after = [], ()
    while True:
        answer = resonant("deliveries", "--limit", "3", "--json", *after)
        pages.append(ids(json.loads(answer.out)))
        if not (place := PLACE.fullmatch(answer.err)):
            assert answer.err == "showing 1 of 7: these are the last\n"
            break
        after = ("--after", place[1])
    assert list(chain.from_iterable(pages)) == [f"evt_{number:02}" for number in range(7)]


def test_an_empty_list_is_an_empty_array_or_one_line(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("permanent"))
    answer = resonant("deliveries", "--json")
    assert (json.loads(answer.out), answer.err) == ([], "no unfinished deliveries\n")
    assert resonant("deliveries", "--group", "--status", "pending").err == "no unfinished deliveries\n"


def test_after_does_not_go_with_group_and_is_checked(resonant, waiting):
    assert (
        "--after cannot be combined with --group"
        in resonant("deliveries", "--group", "--after", "1-1", code=2).err
    )
    assert "is not a valid place" in resonant("deliveries", "--after", "evt_due", code=2).err


def test_cancel_can_count_first(resonant, waiting):
    assert resonant("cancel", "--endpoint", "crm", "--dry-run").out == "2 would be given up\n"
    assert resonant.json("cancel", "--all", "--dry-run") == {
        "would_cancel": 3,
        "being_sent": 0,
        "dry_run": True,
    }
    assert len(resonant.json("deliveries")) == 3
    assert resonant.json("audit") == []
    assert resonant.json("cancel", "--endpoint", "crm") == {"cancelled": 2}


def test_a_dry_run_counts_deliveries_being_sent(resonant, waiting):
    [lease, *_] = waiting.claim_all("crm")
    waiting.do(lambda store: store.begin([lease]))
    expected = "2 would be given up; 1 being sent now would not be cancelled\n"
    assert resonant("cancel", "--all", "--dry-run").out == expected


def test_postgresql_lists_and_groups_the_same(resonant, worker, postgresql_url, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", postgresql_url)
    there = type(worker)(postgresql_url)
    there.accept("evt_1", "evt_2")
    there.attempt(Park(300.0, there.clock() + 300))
    assert len(resonant.json("deliveries", "--code", "http_503")) == 2
    assert [group["count"] for group in resonant.json("deliveries", "--group")] == [2]
    assert resonant("cancel", "--all", "--dry-run").out == "2 would be given up\n"
