"""``dlq --group`` groups dead letters by cause; ``dlq --after`` shows a long queue in pages."""

from __future__ import annotations

import json
import re
from itertools import chain

import pytest

from resonant.dead_letters.advice import advise
from resonant.delivery.retry import GiveUp
from resonant.events import rfc3339

GROUP_KEYS = [
    *("fingerprint", "endpoint", "code", "reason", "category", "error", "count"),
    *("first_dead_at", "last_dead_at", "example", "advice", "answer", "maybe_processed"),
]
REJECTED = {"category": "permanent", "code": "http_400", "status_code": 400}
UNAVAILABLE_ADVICE = advise(
    code="http_503", reason="exhausted", category="transient", endpoint="billing", event_id="evt_busy_2"
)
PLACE = re.compile(r"showing \d+ of [\d,]+(?: or more)?: --after (\S+) shows the next, --limit 0 all\n")


@pytest.fixture
def dead(worker):
    """Two groups: three dead letters that differ by a number, and two of another endpoint that differ by a quoted id."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-3 * 3600)
        for number in range(3):
            worker.accept(f"evt_busy_{number}")
            worker.attempt(GiveUp("exhausted"), error=f"no answer within {number} s")
            worker.clock.advance(3600)
        worker.clock.advance(now - worker.clock())
        for number in range(2):
            worker.accept(f"evt_rejected_{number}", endpoint="crm", event_type="user.created")
            worker.attempt(
                GiveUp("permanent"), endpoint="crm", error=f"order 'o-{number}' is unknown", **REJECTED
            )
    return worker


@pytest.fixture
def many(worker):
    """Seventeen dead letters, some of which died in the same moment."""
    with worker.at_work():
        for number in range(17):
            worker.accept(f"evt_{number:02}", event_type="odd" if number % 2 else "even")
            worker.attempt(GiveUp("permanent"), **REJECTED)
            if number % 3 == 0:
                worker.clock.advance(0.1)
    return worker


# --- groups ------------------------------------------------------------------------------------------------------


def test_groups_as_json_are_the_largest_first_with_what_to_do(resonant, dead):
    now = dead.clock()

    busy, rejected = resonant.json("dlq", "--group")

    assert list(busy) == list(rejected) == GROUP_KEYS
    assert re.fullmatch("[0-9a-f]{12}", busy["fingerprint"])
    assert busy | {"fingerprint": ""} == {
        "fingerprint": "",
        "endpoint": "billing",
        "code": "http_503",
        "reason": "exhausted",
        "category": "transient",
        "error": "no answer within <n> s",
        "count": 3,
        "first_dead_at": rfc3339(now - 3 * 3600),
        "last_dead_at": rfc3339(now - 3600),
        "example": "evt_busy_2",
        "advice": UNAVAILABLE_ADVICE,
        "answer": "",
        "maybe_processed": False,
    }
    assert (rejected["count"], rejected["error"]) == (2, "order <text> is unknown")


def test_where_stdout_is_no_terminal_a_group_is_a_line(resonant, dead):
    header, busy, rejected = resonant("dlq", "--group").out.splitlines()

    assert " ".join(header.split()) == "COUNT ENDPOINT CODE REASON CAUSE FIRST LAST EXAMPLE ERROR WHAT TO DO"
    assert busy.split()[:4] == ["3", "billing", "http_503", "exhausted"]
    assert re.search(r"  evt_busy_2 +no answer within <n> s +wait until it answers ", busy)
    assert busy.endswith(UNAVAILABLE_ADVICE)
    assert rejected.split()[:4] == ["2", "crm", "http_400", "permanent"]


def test_on_a_terminal_a_group_fits_its_width_and_says_what_to_do(resonant, dead):
    screen = resonant.on_a_terminal("dlq", "--group")
    cause = resonant.json("dlq", "--group")[0]["fingerprint"]

    assert max(map(len, screen.splitlines())) <= 80
    first = " ".join(screen.partition("\n\n")[0].split())
    assert first == (
        "3 dead letters to billing last 1 h ago, first 3 h ago exhausted, http 503: no answer within <n> s "
        f"next: {UNAVAILABLE_ADVICE} example: evt_busy_2, cause: {cause}"
    )


def test_what_was_cancelled_before_it_was_sent_shows_its_reason_and_no_failure(resonant, worker):
    worker.accept("evt_1")
    resonant("cancel", "evt_1")

    [group] = resonant.json("dlq", "--group")
    assert (group["reason"], group["category"], group["code"], group["error"]) == ("cancelled", "", "", "")
    assert resonant("dlq", "--group").out.splitlines()[1].split()[:4] == ["1", "billing", "-", "cancelled"]
    for screen in (resonant.on_a_terminal("dlq", "--group"), resonant.on_a_terminal("dlq")):
        assert re.search(r"^  cancelled$", screen, re.MULTILINE), screen
        assert "None" not in screen
        assert "cancelled:" not in screen


@pytest.mark.parametrize(
    ("argv", "counts"),
    [
        (["dlq"], [3, 2]),
        (["dlq", "--endpoint", "crm"], [2]),
        (["dlq", "--type", "order.*"], [3]),
        (["dlq", "--code", "http_400"], [2]),
        (["dlq", "--text", "within 1 s"], [1]),
        (["dlq", "--since", "90m"], [2, 1]),
        (["dlq", "--until", "150m"], [1]),
        (["dlq", "--reason", "expired"], []),
        (["failed"], [2]),
        (["retry-candidates"], [3]),
    ],
)
def test_filters_select_the_dead_letters_to_group(resonant, dead, argv, counts):
    assert [group["count"] for group in resonant.json(*argv, "--group")] == counts


def test_the_limit_is_of_groups_and_a_list_that_was_cut_says_so(resonant, dead):
    answer = resonant("dlq", "--group", "--limit", "1", "--json")
    assert [group["count"] for group in json.loads(answer.out)] == [3]
    assert answer.err == "showing 1 of 2 groups: --limit 0 shows all\n"

    for limit in ("0", "2", "50"):
        answer = resonant("dlq", "--group", "--limit", limit)
        assert (len(answer.out.splitlines()), answer.err) == (3, "")


def test_no_groups_are_an_empty_array_and_a_word(resonant, dead):
    answer = resonant("dlq", "--group", "--json", "--code", "http_418")
    assert (json.loads(answer.out), answer.err) == ([], "no dead letters match\n")

    resonant("purge", "--older-than", "0", "--yes")
    answer = resonant("dlq", "--group")
    assert (answer.out, answer.err) == ("", "no dead letters\n")


def test_what_an_error_holds_is_shown_and_not_obeyed(resonant, worker):
    worker.accept("evt_1")
    worker.attempt(GiveUp("permanent"), error="[red]first\n\x1b[31msecond", **REJECTED)

    _, line = resonant("dlq", "--group").out.splitlines()
    screen = resonant.on_a_terminal("dlq", "--group")

    assert r"[red]first\n\x1b[<n>msecond" in line
    assert r"[red]first\n\x1b[<n>msecond" in screen
    assert "\x1b" not in screen


def test_on_a_terminal_more_than_a_screen_of_dead_letters_is_grouped(resonant, many):
    screen = resonant.on_a_terminal("dlq")

    assert screen.startswith("17 dead letters to billing ")
    assert screen.endswith("\n17 dead letters in 1 group: --no-group lists each\n")
    assert "\n  example: evt_16, cause: " in screen
    for argv in (("--no-group",), ("--limit", "17"), ("--after", "9999999999.0-1")):
        each = resonant.on_a_terminal("dlq", *argv)
        assert each.count(" to billing ") == 17, argv
        assert "\nresonant dlq --group  groups them by cause\n" in each
    assert len(resonant.json("dlq")) == 17
    assert len(resonant("dlq").out.splitlines()) == 18


def test_on_a_terminal_a_screen_of_dead_letters_is_listed(resonant, dead):
    assert resonant.on_a_terminal("dlq").count(" after 1 try") == 5


# --- pages -------------------------------------------------------------------------------------------------------


def read_pages(resonant, *argv: str) -> list[list[str]]:
    """Return the ids of each page, the place of the next taken from what the page before has said."""
    found: list[list[str]] = []
    after: tuple[str, ...] = ()
    while True:
        answer = resonant("dlq", *argv, "--json", *after)
        found.append([row["event_id"] for row in json.loads(answer.out)])
        if not (place := PLACE.fullmatch(answer.err)):
            assert re.fullmatch(r"showing \d+ of \d+: these are the last\n", answer.err)
            return found
        after = ("--after", place[1])


@pytest.mark.parametrize(
    "limit", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("argv", [(), ("--type", "odd"), ("--text", "ANSWERED 503", "--endpoint", "billing")])
def test_the_pages_put_together_are_the_whole_list(resonant, many, argv, limit):
    whole = [row["event_id"] for row in resonant.json("dlq", *argv, "--limit", "0")]
    assert len(whole) == (8 if "odd" in argv else 17)

    pages = read_pages(resonant, *argv, "--limit", str(min(limit, len(whole) - 1)))

    assert list(chain.from_iterable(pages)) == whole
    assert all(len(page) == len(pages[0]) for page in pages[:-1])


def test_a_place_is_said_and_taken_without_json_too(resonant, many):
    first = resonant("dlq", "--limit", "9")
    second = resonant("dlq", "--limit", "9", "--after", PLACE.fullmatch(first.err)[1])

    rows = [line.split()[0] for answer in (first, second) for line in answer.out.splitlines()[1:]]
    assert rows == [f"evt_{number:02}" for number in range(16, -1, -1)]
    assert second.err == "showing 8 of 17: these are the last\n"


def test_a_page_that_ends_with_the_oldest_is_said_to_be_the_last(resonant, many):
    first = resonant("dlq", "--limit", "8", "--type", "odd", "--json")
    assert first.err == ""

    half = resonant("dlq", "--limit", "4", "--type", "odd")
    rest = resonant("dlq", "--limit", "4", "--type", "odd", "--after", PLACE.fullmatch(half.err)[1])

    assert rest.err == "showing 4 of 8: these are the last\n"


def test_without_a_limit_the_rest_is_one_page(resonant, many):
    first = resonant("dlq", "--limit", "5", "--json")

    rest = resonant("dlq", "--limit", "0", "--json", "--after", PLACE.fullmatch(first.err)[1])

    assert (len(json.loads(rest.out)), rest.err) == (12, "")


def test_dead_letters_that_come_and_go_between_two_pages_shift_nothing(resonant, many):
    first = resonant("dlq", "--limit", "5", "--json")
    many.accept("evt_later")
    many.attempt(GiveUp("permanent"), **REJECTED)

    second = resonant("dlq", "--limit", "5", "--json", "--after", PLACE.fullmatch(first.err)[1])

    assert [row["event_id"] for row in json.loads(second.out)] == [f"evt_{n:02}" for n in range(11, 6, -1)]


@pytest.mark.parametrize(
    "place", ["", "evt_01", "1-", "-1", "1e9-1", "nan-1", "1.5-1.5", "1-1 ", "9" * 13 + "-1", "1--1"]
)
def test_what_is_no_place_is_one_line_and_exit_code_2(resonant, many, place):
    answer = resonant("dlq", f"--after={place}", code=2)

    assert answer.out == ""
    assert answer.err == (
        f"resonant: --after {place!r} is not a valid place: use the one printed at the end of a list\n"
    )


def test_a_place_before_all_and_one_after_all_are_places(resonant, many):
    assert resonant.json("dlq", "--after", "0-0") == []
    assert len(resonant.json("dlq", "--after", "999999999999.5-999999999999999999")) == 17


def test_groups_have_no_pages(resonant, many):
    answer = resonant("dlq", "--group", "--after", "0-0", code=2)

    assert answer.err == "resonant: --after cannot be combined with --group\n"


def test_postgresql_pages_and_groups_the_same(resonant, worker, postgresql_url, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", postgresql_url)
    there = type(worker)(postgresql_url)
    there.accept(*(f"evt_{n:02}" for n in range(7)))
    there.attempt(GiveUp("permanent"), **REJECTED)

    assert list(chain.from_iterable(read_pages(resonant, "--limit", "3"))) == [
        f"evt_{n:02}" for n in range(6, -1, -1)
    ]
    [group] = resonant.json("dlq", "--group")
    assert (group["count"], group["example"]) == (7, "evt_06")
