"""``dlq``, ``failed``, ``retry-candidates`` and ``deliveries``: cards on a terminal, tables, JSON, groups and pages."""

import json
import re
import shlex
from dataclasses import replace
from itertools import chain

import pytest
from rich.cells import cell_len

from resonant.dead_letters.advice import advise
from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import rfc3339
from resonant.store.shared.gates import KEPT_SECONDS, FailingType, Gate, GateChange, change_gate

DEAD_LETTER_KEYS = (
    "event_id event_type source endpoint reason category code error_type error status_code attempts first_attempt_at "
    "dead_at replays replayed_to answer maybe_processed endpoint_state"
)
GROUP_KEYS = (
    "fingerprint endpoint code reason category error count first_dead_at last_dead_at example example_source advice "
    "answer maybe_processed acknowledged"
)
DELIVERY_KEYS = (
    "event_id event_type source endpoint status attempts replays accepted_at first_attempt_at next_attempt_at finished_at "
    "reason category code error_type error status_code leased_by lease_until backoff_until state answer maybe_processed "
    "held"
)
ANSWER = '{"error": "unprocessable", "message": "field \'amount\' is required"}'
PERMANENT = {
    "reason": "permanent",
    "category": "permanent",
    "code": "http_400",
    "status_code": 400,
    "error": "it answered 400",
}
REJECTED = {
    **PERMANENT,
    "code": "http_422",
    "status_code": 422,
    "excerpt": ANSWER,
    "error": "UnexpectedStatus: the endpoint answered 422",
}
UNAVAILABLE_ADVICE = advise(
    code="http_503", reason="exhausted", category="transient", endpoint="billing", event_id="evt_busy_2"
)
EACH = "--no-group lists each\n"
ACKNOWLEDGE = "`resonant dlq ack CAUSE` ends the alerts about a cause\n"
PLACE = re.compile(r"showing \d+ of [\d,]+(?: or more)?: --after (\S+) shows the next, --limit 0 all\n")


@pytest.fixture
def groups(worker):
    """Two groups: three dead letters that differ by a number, and two of another endpoint that differ by a quoted id."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-3 * 3600)
        for number in range(3):
            worker.bury(f"evt_busy_{number}", error=f"no answer within {number} s")
            worker.clock.advance(3600)
        worker.clock.advance(now - worker.clock())
        for number in range(2):
            error = {**PERMANENT, "error": f"order 'o-{number}' is unknown"}
            worker.bury(f"evt_rejected_{number}", endpoint="crm", event_type="user.created", **error)
    return worker


@pytest.fixture
def many(worker):
    """Seventeen dead letters, some of which died in the same moment, and as many pending deliveries."""
    with worker.at_work():
        worker.clock.advance(-60)  # otherwise the last ones may not be due yet
        for number in range(17):
            worker.bury(f"evt_{number:02}", event_type="odd" if number % 2 else "even", **PERMANENT)
            if number % 3 == 0:
                worker.clock.advance(0.1)
        worker.accept(*(f"evt_{number}" for number in range(20, 37)), endpoint="crm")
    return worker


@pytest.fixture
def waiting(worker):
    """One parked and two due deliveries, of two endpoints."""
    with worker.at_work():
        worker.accept("evt_parked", event_type="order.refunded")
        worker.attempt(Park(6_000.0, worker.clock() + 6_000), excerpt="down for maintenance")
        worker.clock.advance(-7_200)
        worker.accept("evt_due", "evt_due_too", endpoint="crm")
        worker.clock.advance(7_200)
    return worker


def ids(rows):
    return [row["event_id"] for row in rows]


def words(text: str) -> str:
    return " ".join(text.split())


# --- dead letters ------------------------------------------------------------------------------------------------


def test_dead_letters_as_json_are_the_newest_first_with_the_keys_of_the_contract(resonant, recent):
    rows = resonant.json("dlq")
    assert ids(rows) == ["evt_new", "evt_bad", "evt_old"]
    assert [" ".join(row) for row in rows] == [DEAD_LETTER_KEYS] * 3
    hour_ago = rfc3339(recent.clock() - 3600)
    names = ("evt_bad", "order.refunded", "/shop", "billing", "permanent", "permanent", "http_400")
    of_error = ("UnexpectedStatus", "it answered 400", 400, 1, hour_ago, hour_ago, 0, None, None, False)
    assert list(rows[1].values()) == [*names, *of_error, "normal"]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("failed", ["evt_bad"]),
        ("retry-candidates", ["evt_old"]),
        ("dlq --endpoint crm", ["evt_new"]),
        ("dlq --type order.*", ["evt_bad", "evt_old"]),
        ("dlq --source /shop", ["evt_new", "evt_bad", "evt_old"]),
        ("failed --source /shop", ["evt_bad"]),
        ("dlq --category unknown", ["evt_new"]),
        ("dlq --code http_503", ["evt_old"]),
        ("dlq --reason expired", ["evt_new"]),
        ("dlq --text 'ANSWERED 400'", ["evt_bad"]),
        ("dlq --since 2h", ["evt_new", "evt_bad"]),
        ("dlq --until 30m", ["evt_bad", "evt_old"]),
        ("dlq --since 7d --until 90m", ["evt_old"]),
        ("dlq --endpoint crm --code http_503", []),
    ],
)
def test_filters_select_dead_letters_and_their_groups(resonant, recent, command, found):
    assert ids(resonant.json(*shlex.split(command))) == found
    groups = resonant.json(*shlex.split(command), "--group")
    assert sorted(group["example"] for group in groups) == sorted(found)


def test_a_card_says_where_when_why_and_the_next_step_once_for_equal_failures(resonant, worker):
    worker.clock.advance(-6_000)
    worker.bury("evt_1", "evt_2", event_type="com.[red]order[/red].paid", **REJECTED)

    screen = resonant.on_a_terminal("dlq")

    assert max(map(len, screen.splitlines())) <= 80
    assert "resonant detail evt_2" in screen
    head, happened, *rest = screen.splitlines()
    assert head == "evt_2 from /shop  to billing  2 h ago"
    paid = re.escape("com.[red]order[/red].paid")
    assert re.fullmatch(rf"  permanent after 1 try, [\d-]+ \d\d:\d\dZ, {paid}", happened)
    assert words(" ".join(rest)).startswith(f"http 422: {ANSWER} next: the receiver rejects these events: ")
    assert (screen.count("http 422: "), screen.count("next: ")) == (2, 1)


def test_cards_and_groups_name_the_setting_of_an_endpoint_that_cannot_be_used(resonant, worker):
    failure = PERMANENT | {"code": "endpoint_error", "status_code": None}
    for number, problem in enumerate(
        ["its ca_file cannot be read: Permission denied", "its proxy has no port"]
    ):
        worker.bury(f"evt_{number}", **failure | {"error": f"EndpointError: endpoint 'billing': {problem}"})

    cards = words(resonant.on_a_terminal("dlq"))
    grouped = " ".join(each["advice"] for each in resonant.json("dlq", "--group"))
    for said in (cards, grouped):
        assert "`resonant endpoint update billing --ca-file FILE`" in said
        assert "`resonant endpoint update billing --proxy URL`" in said


def test_a_row_of_the_table_is_a_line_with_nothing_cut(resonant, worker):
    error = "first line\nsecond \x1b[31mline [bold]" + " long" * 100
    long_id = "evt_" + "x" * 200
    worker.bury(long_id, event_type="[red]order[/red]", reason="permanent", error=error, excerpt=ANSWER)

    header, row = resonant("dlq").out.splitlines()

    assert words(header) == "EVENT TYPE ENDPOINT REASON CATEGORY CODE TRIES DEAD AT ERROR"
    expected = [long_id, "[red]order[/red]", "billing", "permanent", "transient", "http_503", "1"]
    assert row.split()[:7] == expected
    assert row.endswith(r"first line\nsecond \x1b[31mline [bold]" + " long" * 100 + f"; the answer: {ANSWER}")
    assert resonant.json("dlq")[0]["answer"] == ANSWER


def test_possibly_processed_dead_letters_are_marked(resonant, worker):
    worker.bury("evt_1", code="read_timeout", status_code=None, maybe_processed=True, error="no answer")

    screen = resonant.on_a_terminal("dlq")

    assert "\n  read timeout: no answer\n" in screen
    assert "\n  probably processed: check the receiver before a replay\n" in screen
    assert resonant("dlq").out.endswith("  no answer; probably processed\n")
    assert resonant.json("dlq")[0]["maybe_processed"] is True


def test_dead_letters_of_an_endpoint_that_holds_deliveries_are_marked(resonant, worker):
    for event_id, endpoint in (("evt_1", "billing"), ("evt_2", "crm")):
        worker.bury(event_id, endpoint=endpoint)
    resonant("endpoint", "pause", "crm")

    assert [row["endpoint_state"] for row in resonant.json("retry-candidates")] == ["paused", "normal"]
    held = "held: the endpoint is paused, so a replay would wait"
    rows = resonant("retry-candidates").out.splitlines()[1:]
    assert [row.endswith(f"; {held}") for row in rows] == [True, False]
    assert resonant.on_a_terminal("retry-candidates").count(f"\n  {held}\n") == 1


@pytest.mark.parametrize("command", ["dlq", "deliveries"])
def test_a_table_shows_the_source_only_if_it_distinguishes_rows(resonant, worker, command):
    end = GiveUp("permanent") if command == "dlq" else Park(300.0, worker.clock() + 300)
    worker.accept("evt_1", source="/crm")
    worker.accept("evt_2")
    worker.attempt(end)
    assert "SOURCE" not in resonant(command).out

    worker.accept("evt_1", source="/shop")
    worker.attempt(end)

    header, *rows = resonant(command).out.splitlines()
    assert header.split()[:3] == ["EVENT", "SOURCE", "TYPE"]
    found = {tuple(row.split()[:2]) for row in rows}
    assert found == {("evt_1", "/crm"), ("evt_1", "/shop"), ("evt_2", "/shop")}
    assert {(row["event_id"], row["source"]) for row in resonant.json(command)} == found
    assert resonant.on_a_terminal(command).count("evt_1 from /crm  to billing") == 1
    assert ids(resonant.json(command, "--source", "/crm")) == ["evt_1"]


def test_fifty_rows_are_shown_by_default(resonant, worker):
    with worker.at_work():
        worker.bury(*(f"evt_{n:02}" for n in range(60)), **PERMANENT)
    answer = resonant("dlq", "--json")
    assert len(json.loads(answer.out)) == 50
    assert answer.err.startswith("showing 50 of 60: ")
    assert PLACE.fullmatch(answer.err)
    assert len(resonant("dlq").out.splitlines()) == 51
    every = resonant("failed", "--limit", "0", "--json")
    assert (len(set(ids(json.loads(every.out)))), every.err) == (60, "")
    # Rows that died in the same moment are in one order.
    assert ids(resonant.json("dlq", "--limit", "59")) == [f"evt_{n:02}" for n in range(59, 0, -1)]


# --- groups of dead letters --------------------------------------------------------------------------------------


def test_groups_are_the_largest_first_with_their_advice(resonant, groups):
    now = groups.clock()

    busy, rejected = resonant.json("dlq", "--group")
    header, *rows = resonant("dlq", "--group").out.splitlines()
    screen = resonant.on_a_terminal("dlq", "--group")

    assert " ".join(busy) == " ".join(rejected) == GROUP_KEYS
    assert re.fullmatch("[0-9a-f]{12}", cause := busy.pop("fingerprint"))
    first, last = (rfc3339(now - hours * 3600) for hours in (3, 1))
    assert list(busy.values()) == [
        *("billing", "http_503", "exhausted", "transient", "no answer within <n> s", 3, first, last),
        *("evt_busy_2", "/shop", UNAVAILABLE_ADVICE, "", False, None),
    ]
    assert (rejected["count"], rejected["error"]) == (2, "order <text> is unknown")

    assert words(header) == "COUNT ENDPOINT CODE REASON CAUSE FIRST LAST EXAMPLE ERROR WHAT TO DO"
    assert [row.split()[:4] for row in rows] == [
        ["3", "billing", "http_503", "exhausted"],
        ["2", "crm", "http_400", "permanent"],
    ]
    assert re.search(r"  evt_busy_2 +no answer within <n> s +wait until it answers ", rows[0])
    assert rows[0].endswith(UNAVAILABLE_ADVICE)

    assert max(map(len, screen.splitlines())) <= 80
    assert words(screen.partition("\n\n")[0]) == (
        "3 dead letters to billing last 1 h ago, first 3 h ago exhausted, http 503: no answer within <n> s "
        f"next: {UNAVAILABLE_ADVICE} example: evt_busy_2, cause: {cause}"
    )


def test_groups_fit_80_columns_and_nothing_is_left_out(resonant, worker):
    endpoint = "partner-webhooks-production-eu-west-1-" + "customer-facing-orders-" * 2 + "v2"
    code, example, answer = "tls_client_certificate", "0190a3c2-" * 20, '{"error":"' + "x" * 100 + '"}'
    japanese = "受信者はこのイベントを処理できませんでした。" * 3
    worker.bury(example, endpoint=endpoint, **REJECTED | {"code": code, "excerpt": answer})
    worker.bury(*(f"evt_{number}" for number in range(1_000)), **PERMANENT | {"error": japanese})

    screen = resonant.on_a_terminal("dlq", "--group")

    assert max(map(cell_len, screen.splitlines())) == 80
    shown, causes = "".join(screen.split()), [each["fingerprint"] for each in resonant.json("dlq", "--group")]
    for text in ("1,000deadletters", endpoint, code, example, answer, japanese, *causes):
        assert text in shown, text


def test_a_delivery_cancelled_before_an_attempt_shows_its_reason_and_no_failure(resonant, worker):
    worker.accept("evt_1")
    resonant("cancel", "evt_1")

    [group] = resonant.json("dlq", "--group")
    assert [group[name] for name in ("reason", "category", "code", "error")] == ["cancelled", "", "", ""]
    assert resonant("dlq", "--group").out.splitlines()[1].split()[:4] == ["1", "billing", "-", "cancelled"]
    for screen in (resonant.on_a_terminal("dlq", "--group"), resonant.on_a_terminal("dlq")):
        assert re.search(r"^  cancelled$", screen, re.MULTILINE), screen
        assert "None" not in screen
        assert "cancelled:" not in screen


def test_the_limit_is_of_groups_and_a_list_that_was_cut_says_so(resonant, groups):
    answer = resonant("dlq", "--group", "--limit", "1", "--json")
    assert [group["count"] for group in json.loads(answer.out)] == [3]
    assert answer.err == "showing 1 of 2 groups: --limit 0 shows all\n"
    assert "--no-group lists each" not in resonant.on_a_terminal("dlq", "--group", "--limit", "1")

    for limit in ("0", "2", "50"):
        answer = resonant("dlq", "--group", "--limit", limit)
        assert (len(answer.out.splitlines()), answer.err) == (3, "")


@pytest.mark.parametrize(
    ("command", "begin", "end"),
    [
        ("dlq", "17 dead letters to billing ", f"17 dead letters in 1 group: {EACH}{ACKNOWLEDGE}"),
        ("deliveries", "crm: 17 due; oldest due ", f"17 deliveries in 1 group: {EACH}"),
    ],
)
def test_on_a_terminal_more_than_a_screen_is_grouped(resonant, many, command, begin, end):
    screen = resonant.on_a_terminal(command)

    assert screen.startswith(begin)
    assert screen.endswith(f"\n{end}")
    before_all = "9999999999.0-1" if command == "dlq" else "0-1"
    for argv in (("--no-group",), ("--limit", "17"), ("--after", before_all)):
        each = resonant.on_a_terminal(command, *argv)
        assert each.count(" from /shop  to ") == 17, argv
        assert ("\nresonant dlq --group  groups them by cause\n" in each) == (command == "dlq")
    assert len(resonant.json(command)) == 17
    assert len(resonant(command).out.splitlines()) == 18


def test_text_from_outside_is_shown_and_not_obeyed(resonant, worker):
    worker.bury("evt_1", **PERMANENT | {"error": "[red]first\n\x1b[31msecond"})
    worker.bury("evt_2", endpoint="crm", **REJECTED | {"excerpt": "[red]no\x1b[31m"})

    for argv, error in ((("dlq",), r"\x1b[31msecond"), (("dlq", "--group"), r"\x1b[<n>msecond")):
        for shown in (resonant.on_a_terminal(*argv), resonant(*argv).out):
            assert rf"[red]first\n{error}" in shown
            assert r"[red]no\x1b[31m" in shown
            assert "\x1b" not in shown


# --- deliveries --------------------------------------------------------------------------------------------------


def test_unfinished_deliveries_are_the_longest_due_first_with_their_state(resonant, waiting):
    rows = resonant.json("deliveries")
    header, *lines = resonant("deliveries").out.splitlines()
    screen = resonant.on_a_terminal("deliveries")

    assert ids(rows) == ["evt_due", "evt_due_too", "evt_parked"]
    assert [" ".join(row) for row in rows] == [DELIVERY_KEYS] * 3
    assert [row["state"] for row in rows] == ["due", "due", "parked"]
    assert rows[-1]["next_attempt_at"] == rfc3339(waiting.clock() + 6_000)
    assert rows[-1]["answer"] == "down for maintenance"

    assert words(header) == "EVENT TYPE ENDPOINT STATUS STATE DUE TRIES LAST ERROR"
    assert [line.split()[0] for line in lines] == ids(rows)
    assert lines[-1].split()[:5] == ["evt_parked", "order.refunded", "billing", "retrying", "parked"]
    assert lines[-1].endswith("http 503: down for maintenance")

    assert max(map(len, screen.splitlines())) <= 80
    first, _, parked = (card.splitlines() for card in screen.rstrip().split("\n\n"))
    assert (first[0], first[2]) == ("evt_due from /shop  to crm", "  not tried yet")
    assert re.fullmatch(r"  due since [\d-]+ \d\d:\d\dZ, 2 h ago, 0 tries, order.paid", first[1])
    assert (parked[0], parked[2]) == ("evt_parked from /shop  to billing", "  http 503: down for maintenance")
    assert re.fullmatch(r"  parked until [\d-]+ \d\d:\d\dZ, in 2 h, 1 try, order.refunded", parked[1])


def test_filters_select_unfinished_deliveries(resonant, waiting):
    for filters in ("--endpoint crm", "--status pending", "--until 1h"):
        assert ids(resonant.json("deliveries", *shlex.split(filters))) == ["evt_due", "evt_due_too"], filters
    by_failure = ("--code http_503", "--category transient", "--text 'ANSWERED 503'")
    for filters in ("--type order.ref*", "--status retrying", "--since 1h", *by_failure):
        assert ids(resonant.json("deliveries", *shlex.split(filters))) == ["evt_parked"], filters


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
    for name in ("crm", "billing"):
        resonant("endpoint", "pause", name)

    assert [row["held"] for row in resonant.json("deliveries")] == [True, True, False]
    states = [row.split()[4] for row in resonant("deliveries").out.splitlines()]
    assert states == ["STATE", "held", "held", "parked"]
    screen = resonant.on_a_terminal("deliveries")
    assert screen.count("\n  held because the endpoint is paused; due since ") == 2
    assert max(map(len, screen.splitlines())) <= 80
    assert [row["held"] for row in resonant.json("deliveries", "--group")] == [0, 2]
    grouped = resonant.on_a_terminal("deliveries", "--group")
    assert "\ncrm: 2 held (the endpoint is paused); oldest due " in grouped


def test_groups_show_how_many_deliveries_are_held_because_their_type_fails(resonant, waiting):
    waiting.accept("evt_held", "evt_held_too", "evt_not", endpoint="crm", event_type="bad")
    now = waiting.clock()
    types = ("bad", "order.refunded", "unseen")
    failing = tuple(FailingType(each, now - 60, "http 500", now + 60, now) for each in types)
    forgotten = replace(failing[0], event_type="order.paid", tried_at=now - KEPT_SECONDS)
    for name in ("crm", "billing"):
        change = GateChange(Gate(name), Gate(name, failing=(forgotten, *failing)))
        waiting.do(lambda store, change=change: store.write(change_gate, change))

    billing, crm = resonant.json("deliveries", "--group")

    assert (billing["due"], billing["held"], billing["parked"]) == (0, 0, 1)
    assert (crm["count"], crm["due"], crm["held"]) == (5, 5, 3)
    grouped = resonant.on_a_terminal("deliveries", "--group")
    assert "billing: 1 parked, " in grouped
    assert "\ncrm: 3 held (bad, order.refunded, unseen fail), 2 due; oldest due " in grouped
    table = [row.split() for row in resonant("deliveries", "--group").out.splitlines()]
    assert [row[3:5] for row in table] == [["DUE", "HELD"], ["0", "0"], ["5", "3"]]


def test_groups_show_the_waiting_deliveries_of_each_endpoint(resonant, waiting):
    until = rfc3339(waiting.clock() + 6_000)[:16].replace("T", " ")
    assert resonant.on_a_terminal("deliveries", "--group") == (
        f"billing: 1 parked, the last until {until}Z; oldest due in 2 h\n"
        "      1  http 503: down for maintenance, up to 1 try, e.g. evt_parked\n"
        "\n"
        "crm: 2 due; oldest due 2 h ago\n"
        "      2  not tried yet, e.g. evt_due_too\n"
        "\n"
        "3 deliveries in 2 groups: --no-group lists each\n"
    )
    billing, crm = resonant.json("deliveries", "--group")
    assert (billing["code"], billing["parked"], billing["example"]) == ("http_503", 1, "evt_parked")
    assert billing["example_source"] == "/shop"
    assert (crm["count"], crm["due"], crm["error"]) == (2, 2, "")
    assert len(resonant("deliveries", "--group").out.splitlines()) == 3


# --- pages and empty lists ---------------------------------------------------------------------------------------


def read_pages(resonant, *argv: str) -> list[list[str]]:
    """Return the ids of each page; the place of the next is taken from the message of the page before."""
    found: list[list[str]] = []
    after: tuple[str, ...] = ()
    while True:
        answer = resonant(*argv, "--json", *after)
        found.append(ids(json.loads(answer.out)))
        if not (place := PLACE.fullmatch(answer.err)):
            assert re.fullmatch(r"showing \d+ of \d+: these are the last\n", answer.err)
            return found
        after = ("--after", place[1])


@pytest.mark.parametrize(
    "limit", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "command", ["dlq", "dlq --type odd", "dlq --text 'ANSWERED 400' --endpoint billing", "deliveries"]
)
def test_the_pages_put_together_are_the_whole_list(resonant, many, command, limit):
    argv = shlex.split(command)
    whole = ids(resonant.json(*argv, "--limit", "0"))
    assert len(whole) == (8 if "odd" in argv else 17)

    pages = read_pages(resonant, *argv, "--limit", str(min(limit, len(whole) - 1)))

    assert list(chain.from_iterable(pages)) == whole
    assert all(len(page) == len(pages[0]) for page in pages[:-1])


def test_dead_letters_that_come_between_two_pages_shift_nothing(resonant, many):
    first = resonant("dlq", "--limit", "9")
    after = ("--after", PLACE.fullmatch(first.err)[1])
    many.bury("evt_later", **PERMANENT)
    second = resonant("dlq", "--limit", "9", *after)

    rows = [line.split()[0] for answer in (first, second) for line in answer.out.splitlines()[1:]]
    assert rows == [f"evt_{number:02}" for number in range(16, -1, -1)]
    assert second.err == "showing 8 of 18: these are the last\n"
    assert len(resonant.json("dlq", "--limit", "0", *after)) == 8
    assert resonant("dlq", "--limit", "18").err == ""
    assert resonant.json("dlq", "--after", "0-0") == [], "after all rows"
    assert len(resonant.json("dlq", "--after", "999999999999.5-999999999999999999")) == 18, "before all"


@pytest.mark.parametrize("group", [[], ["--group"]])
def test_an_empty_list_is_an_empty_array_or_a_word(resonant, recent, group):
    for command, said in (
        ("dlq --code http_418", "no dead letters match\n"),
        ("deliveries", "no unfinished deliveries\n"),
        ("deliveries --endpoint crm", "no unfinished deliveries match\n"),
    ):
        answer = resonant(*command.split(), *group)
        assert (answer.out, answer.err) == ("", said)
        assert resonant.json(*command.split(), *group) == []
    resonant("purge", "--older-than", "0", "--yes")
    answer = resonant("dlq", *group)
    assert (answer.out, answer.err) == ("", "no dead letters\n")


def test_postgresql_lists_the_same(resonant, on_postgresql):
    on_postgresql.bury(*(f"evt_{n:02}" for n in range(30)), **PERMANENT)
    newest = [f"evt_{n:02}" for n in range(29, -1, -1)]
    assert list(chain.from_iterable(read_pages(resonant, "dlq", "--limit", "15"))) == newest
    [group] = resonant.json("dlq", "--group")
    assert (group["count"], group["example"]) == (30, "evt_29")
    assert "several events begin with 'evt_0'" in resonant("detail", "evt_0", code=1).err
    assert len(json.loads(resonant("export", "-o", "-", "--with-data").out)["dead_letters"]) == 30
    assert resonant.json("status")["by_category"] == {"permanent": 30}

    on_postgresql.accept("evt_x", "evt_y")
    on_postgresql.accept("evt_x", source="/crm")
    assert [group["count"] for group in resonant.json("deliveries", "--group")] == [3]
    for command in ("detail evt_x", "cancel evt_x", "retry evt_x"):
        assert "several sources use the same id: evt_x of '/crm' (" in resonant(*command.split(), code=2).err
    webhook_id = resonant.json("detail", "evt_x", "--source", "/crm")["webhook_id"]
    assert resonant.json("detail", webhook_id)["source"] == "/crm"
    assert resonant.json("cancel", "evt_x", "--source", "/crm") == {"cancelled": 1}
    assert [row["source"] for row in resonant.json("deliveries", "--source", "/shop")] == ["/shop"] * 2


def test_on_a_terminal_dead_letters_link_the_page_of_prefect_that_shows_them(resonant, groups, monkeypatch):
    line = "Prefect's UI shows the causes: http://prefect.example/artifacts/key/dead-letter-triage\n"
    assert "artifacts" not in resonant.on_a_terminal("dlq")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    for options in ((), ("--group",)):
        assert resonant.on_a_terminal("dlq", *options, columns=120).count(line) == 1
        assert resonant("dlq", *options).err == ""
    assert "artifacts" not in resonant.on_a_terminal("dlq", "--endpoint", "nobody", code=2)
