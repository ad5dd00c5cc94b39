"""The output of ``dlq`` on a terminal of 80 columns, and elsewhere."""

from __future__ import annotations

import re

from resonant.delivery.retry import GiveUp

ANSWER = '{"error": "unprocessable", "message": "field \'amount\' is required"}'
REJECTED = {
    "category": "permanent",
    "code": "http_422",
    "status_code": 422,
    "error": "UnexpectedStatus: the endpoint answered 422",
    "excerpt": ANSWER,
}
TIMED_OUT = {
    "code": "read_timeout",
    "status_code": None,
    "error": "TimeoutError: no answer within 15 s",
    "maybe_processed": True,
}


def test_a_row_says_where_when_why_and_what_next(resonant, worker):
    worker.accept("evt_1", event_type="com.example.order.paid")
    worker.attempt(GiveUp("permanent"), **REJECTED)

    screen = resonant.on_a_terminal("dlq")

    assert max(map(len, screen.splitlines())) <= 80
    head, happened, *rest = screen.splitlines()
    assert re.fullmatch(r"evt_1  to billing  \d+ s ago", head)
    assert re.fullmatch(r"  permanent after 1 try, [\d-]+ \d\d:\d\dZ, com.example.order.paid", happened)
    text = " ".join(" ".join(rest).split())
    assert text.startswith(f"http 422: {ANSWER} next: the receiver rejects these events: ")


def test_rows_that_failed_alike_say_once_what_to_do(resonant, worker):
    worker.accept("evt_1", "evt_2", "evt_3")
    worker.attempt(GiveUp("permanent"), **REJECTED)

    screen = resonant.on_a_terminal("dlq")

    assert screen.count("http 422: ") == 3
    assert screen.count("next: ") == 1


def test_possibly_processed_dead_letters_are_marked(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("exhausted"), **TIMED_OUT)

    screen = resonant.on_a_terminal("dlq")

    assert "\n  read timeout: no answer within 15 s\n" in screen
    assert "\n  probably processed: check the receiver before a replay\n" in screen
    assert resonant("dlq").out.endswith("  TimeoutError: no answer within 15 s; probably processed\n")
    assert resonant.json("dlq")[0]["maybe_processed"] is True


def test_where_stdout_is_no_terminal_the_answer_follows_the_error(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("permanent"), **REJECTED)

    expected = f"UnexpectedStatus: the endpoint answered 422; the answer: {ANSWER}\n"
    assert resonant("dlq").out.endswith(expected)
    assert (
        f"UnexpectedStatus: the endpoint answered <n>; the answer: {ANSWER}" in resonant("dlq", "--group").out
    )
    assert resonant.json("dlq")[0]["answer"] == ANSWER


def test_a_group_shows_what_the_receiver_answered(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("permanent"), **REJECTED)

    text = " ".join(resonant.on_a_terminal("dlq", "--group").split())

    assert f"permanent, http 422: {ANSWER} next: the receiver rejects these events" in text


def test_control_characters_in_an_answer_are_escaped(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("permanent"), **REJECTED | {"excerpt": "[red]no\x1b[31m"})

    for argv in (("dlq",), ("dlq", "--group")):
        for shown in (resonant.on_a_terminal(*argv), resonant(*argv).out):
            assert r"[red]no\x1b[31m" in shown
            assert "\x1b" not in shown


def test_dead_letters_of_an_endpoint_that_holds_deliveries_are_marked(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("exhausted"))
    worker.accept("evt_2", endpoint="crm")
    worker.attempt(GiveUp("exhausted"), endpoint="crm")
    resonant("endpoint", "pause", "crm")

    states = {row["event_id"]: row["endpoint_state"] for row in resonant.json("retry-candidates")}
    assert states == {"evt_1": "normal", "evt_2": "paused"}
    held = "held: the endpoint is paused, so a replay would wait"
    rows = resonant("retry-candidates").out.splitlines()[1:]
    assert {row.split()[0]: row.endswith(f"; {held}") for row in rows} == {"evt_1": False, "evt_2": True}
    assert resonant.on_a_terminal("retry-candidates").count(f"\n  {held}\n") == 1
