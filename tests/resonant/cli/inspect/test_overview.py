"""``status`` below the balance: each endpoint, and the daily purge."""

import re
from functools import partial

import pytest

from resonant.dead_letters.purge import DAY_SECONDS
from resonant.delivery.retry import Park
from resonant.events import rfc3339
from resonant.gate.pausing import pause
from resonant.metrics.alerts import AlertCondition, Crossing, record_crossings
from resonant.store.counts.counters import Tally
from resonant.store.shared import drains
from resonant.store.shared.gates import Gate, GateChange, change_gate
from resonant.store.views.endpoint_problems import note_problems

GATE = ("since", "reason", "paused_by", "pace", "failing_since", "next_probe", "not_before")
REJECTED = {"reason": "permanent", "category": "permanent", "code": "http_400", "status_code": 400}


@pytest.fixture
def old(worker):
    """A dead letter and a delivery 40 days old, a dead letter 20 days old, and waiting deliveries."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-40 * DAY_SECONDS)
        worker.bury("evt_dead", **REJECTED)
        worker.accept("evt_delivered")
        worker.attempt()
        worker.clock.advance(20 * DAY_SECONDS)
        worker.bury("evt_kept", **REJECTED)
        worker.clock.advance(now - worker.clock())
        worker.accept("evt_parked", endpoint="crm")
        worker.attempt(Park(3_600.0, now + 3_600), endpoint="crm")
        worker.accept("evt_delivered_now", endpoint="crm")
        worker.attempt(endpoint="crm")
    return worker


def test_each_endpoint_is_an_object_of_the_document(resonant, old):
    found = resonant.json("status")

    assert found["oldest_due"] == rfc3339(old.clock() + 3_600)
    assert found["oldest_dead_letter"] == rfc3339(old.clock() - 40 * DAY_SECONDS)
    billing, crm = found["endpoints"]
    assert (billing["endpoint"], billing["dead_letter"], billing["oldest_due"]) == ("billing", 2, None)
    counts = {"pending": 0, "retrying": 1, "in_flight": 0, "due": 0, "parked": 1, "held": 0}
    ended = {"delivered": 1, "dead_letter": 0, "delivered_last_hour": 1, "failed_last_hour": 1}
    assert crm == counts | ended | {
        "endpoint": "crm",
        "oldest_due": rfc3339(old.clock() + 3_600),
        "oldest_due_backlog": None,
        "oldest_due_new": None,
        "gate": dict.fromkeys(GATE) | {"state": "normal", "failing_types": []},
    }


def test_a_backlog_and_new_events_have_separate_ages(resonant, recent):
    now = recent.clock()
    recent.clock.advance(-DAY_SECONDS)
    recent.accept("evt_first", endpoint="shop")
    recent.clock.advance(DAY_SECONDS - 100)
    recent.accept("evt_last", endpoint="shop")

    found = resonant.json("status")

    assert found["oldest_due_backlog"] == found["oldest_due"] == rfc3339(now - DAY_SECONDS)
    assert found["endpoints"][-1]["oldest_due_new"] == found["oldest_due_new"] == rfc3339(now - 100)
    new = f"oldest due of the last five minutes' events: 2 min ago, {rfc3339(now - 100)}"
    assert new in resonant("status").out.splitlines()


def test_the_endpoint_with_the_most_failures_is_first(resonant, old):
    lines = [line.split() for line in resonant("status").out.splitlines()]
    header = "ENDPOINT DELIVERED LAST HOUR ATTEMPTS FAILED LAST HOUR DUE PARKED DEAD LETTERS OLDEST DUE"
    start = [" ".join(line) for line in lines].index(header)
    assert lines[start + 1][:6] == ["crm", "1", "1", "0", "1", "0"]
    assert re.fullmatch("in (60|5.) min", " ".join(lines[start + 1][6:]))
    assert lines[start + 2] == ["billing", "0", "0", "0", "0", "2", "-"]


def test_long_names_large_counts_and_reasons_of_gates_fit_80_columns(resonant, worker):
    names = [f"partner-webhooks-production-eu-west-{number}" for number in range(22)]
    pause_each(worker, names, "maintenance of the whole region " * 3)
    tally = Tally(worker.clock())
    for name in names:
        tally.add("delivery", name, "t", "delivered", count=1_234_567)
    worker.do(lambda store: store.write(tally.write))

    screen = resonant.on_a_terminal("status", lines=200)

    lines = [line for line in screen.splitlines() if "/test_" not in line]  # a path is never cut
    assert max(map(len, lines)) <= 80
    assert "1.2M" in screen
    assert "2 more endpoints: --json lists all" in screen
    assert screen.count("sends again") == 20
    assert "2 more endpoints are not normal: --json lists all" in screen


def test_endpoints_with_the_same_problem_share_a_line(resonant, worker):
    now, down = worker.clock(), "no OAuth token: the server https://auth.example.com answered 503"
    missing = {f"e{number}": f"no endpoint is named 'e{number}'; known: orders" for number in range(50)}
    similar = {"order": "no endpoint is named 'order': did you mean orders?"}
    with worker.at_work():
        for name in (*missing, "order", "shop", "zoo"):
            worker.accept("evt_1", endpoint=name)
        worker.do(lambda store: store.write(note_problems, missing | similar, now=now - 6_000))
        worker.do(lambda store: store.write(note_problems, {"shop": down}, now=now - 6_000))
    shown = resonant("status").out
    found = {"endpoint": "shop", "reason": down, "since": rfc3339(now - 6_000)}
    assert found in resonant.json("status")["endpoint_problems"]
    of_missing = f"for example e0: {missing['e0']} (first seen 2 h ago)\n"
    assert f"51 endpoints cannot be opened, {of_missing}" in shown
    assert f"deliveries to shop wait: {down} (first seen 2 h ago)\n" in shown
    worker.do(lambda store: store.write(note_problems, {"zoo": down}, now=now))
    assert f"2 endpoints have no token, for example shop: {down} (first seen" in resonant("status").out


@pytest.fixture
def short_path(monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", "sqlite:///resonant.db")  # the path of a test is long


def pause_each(worker, names, reason):
    with worker.at_work():
        for name in names:
            worker.accept("evt_1", endpoint=name)
            worker.do(partial(pause, endpoint=name, who="me", reason=reason))


@pytest.mark.parametrize("ui_url", ["", "http://prefect.example"])
def test_a_terminal_of_24_lines_has_the_balance_and_the_problems_on_top(
    resonant, worker, short_path, monkeypatch, ui_url
):
    monkeypatch.setenv("PREFECT_UI_URL", ui_url)
    pause_each(worker, [f"partner-webhooks-eu-west-{number}" for number in range(9)], "maintenance")

    store, balance, more, *lines = resonant.on_a_terminal("status", lines=24).splitlines()

    assert store == "store: sqlite:///resonant.db"
    assert balance == "balanced: yes; 9 deliveries are held, as shown below"
    assert more.startswith("partner-webhooks-eu-west-0 is paused for ")
    assert any(line.endswith(" more lines: --json lists all") for line in lines)
    assert sum(" is paused " in line for line in lines) >= 3
    assert "9 endpoints: --json, a taller terminal or `resonant endpoint list` shows them" in lines
    assert not any(line.startswith("endpoint ") for line in lines)
    assert len(lines) + 3 <= 24 - 2, "the command and the next prompt take a line each"
    assert "taller" not in resonant.on_a_terminal("status", lines=60)


def test_of_many_problems_and_alerts_the_first_twenty_are_shown(resonant, worker):
    now = worker.clock()
    names = [f"partner-{number:02}" for number in range(22)]
    raised = [
        Crossing("raised", AlertCondition.ERROR_RATE, name, 0.5, 0.25, "text", at=now - 60, since=0.0)
        for name in names
    ]
    with worker.at_work():
        for name in names:
            worker.accept("evt_1", endpoint=name)
        problems = {name: f"problem {number}" for number, name in enumerate(names)}
        worker.do(lambda store: store.write(note_problems, problems, now=now))
        worker.do(lambda store: store.write(record_crossings, raised))

    shown = resonant("status").out

    for line in (" wait: problem ", "alert error_rate for partner-"):
        assert shown.count(line) == 20
    assert "\n2 more problems of endpoints: --json lists all\n" in shown
    assert "\n2 more alerts are active: --json lists all\n" in shown
    assert len(resonant.json("status")["alerts"]) == 22


def test_status_shows_the_events_that_the_daily_purge_removes_and_their_archive(resonant, old, tmp_path):
    out = resonant("status").out
    older = "1 dead letter older than 30 days and 1 delivered older than 30 days"
    archive = f"{tmp_path}/home/archive"
    assert (
        f"daily purge: {older} would be removed now; 2 would stay\nlast purge: never; archives: {archive}\n"
        in out
    )
    found = resonant.json("status")["retention"]
    days = {"dead_letters_days": 30.0, "delivered_days": 30.0, "bodies_days": None}
    would = {"would_purge": {"dead_letters": 1, "delivered": 1}, "would_keep": 2}
    others = {"by_reason": {}, "by_endpoint": {}, "archive": archive, "last_purge": None}
    assert found == days | would | others
    assert "daily purge" not in resonant("status", "--endpoint", "crm").out
    assert "retention" not in resonant.json("status", "--endpoint", "crm")


def test_the_retention_is_that_of_the_settings(resonant, old, monkeypatch):
    monkeypatch.setenv("RESONANT_RETENTION_DAYS", "10")
    monkeypatch.setenv("RESONANT_RETENTION_DELIVERED_DAYS", "never")
    monkeypatch.setenv("RESONANT_BODY_RETENTION_DAYS", "7")
    found = resonant.json("status")["retention"]
    days = [found[f"{name}_days"] for name in ("dead_letters", "delivered", "bodies")]
    assert days == [10.0, None, 7.0]
    assert found["would_purge"] == {"dead_letters": 2, "delivered": 0}
    said = "2 dead letters older than 10 days and no delivered history would be removed now"
    assert said in resonant("status").out

    monkeypatch.setenv("RESONANT_RETENTION_BY_ENDPOINT", '{"billing": 25}')
    assert resonant.json("status")["retention"]["would_purge"] == {"dead_letters": 1, "delivered": 0}
    assert "10 days (or as set for their endpoint or reason)" in resonant("status").out


def test_the_last_purge_is_shown(resonant, old, tmp_path):
    resonant("purge", "--older-than", "30", "--archive", "gone.jsonl")
    assert re.search(r"last purge: \d+ s ago, 1 removed, archived in gone.jsonl\n", resonant("status").out)
    last = resonant.json("status")["retention"]["last_purge"]
    assert (last["count"], last["archive"]) == (1, "gone.jsonl")

    resonant("purge", "--older-than", "15")
    assert resonant("status").out.count("/home/archive") == 1

    old.accept("evt_gone")
    resonant("cancel", "evt_gone")
    resonant("purge", "--older-than", "0", "--no-archive", "--yes")
    assert re.search(r"last purge: \d+ s ago, 1 removed, no archive\n", resonant("status").out)


def test_an_endpoint_whose_gate_is_not_normal_has_a_line_above_the_table(resonant, old):
    before = resonant("status").out
    assert "normal" not in before

    old.accept("evt_due_1", "evt_due_2", endpoint="crm")
    old.do(lambda store: store.write(drains.beat, None, owner="run", endpoint=None, clock=old.clock))
    gate = resonant.json("endpoint", "pause", "crm", "--reason", "maintenance")["gate"]

    out = resonant("status").out
    said = "balanced: yes; 2 deliveries are held, as shown below; 1 delivery is in progress; "
    assert out.splitlines()[1].startswith(said)
    pattern = r"crm is paused for .+ by .+ on the command line: maintenance; 2 held; `resonant endpoint resume crm` sends again"
    assert re.search(f"^{pattern}$", out, re.MULTILINE)
    assert " is paused " not in resonant("status", "--endpoint", "billing").out
    found = resonant.json("status")
    assert found["held"] == 2
    shown = {each["endpoint"]: (each["held"], each["gate"]) for each in found["endpoints"]}
    assert (shown["billing"][0], shown["billing"][1]["state"], shown["crm"]) == (0, "normal", (2, gate))
    assert gate["since"]


def test_a_drain_of_one_endpoint_promises_no_probe_for_another(resonant, worker):
    now = worker.clock()
    with worker.at_work():
        for name in ("crm", "shop"):
            worker.accept("evt_1", endpoint=name)
            down = Gate(name, "probing", reason="down", failing_since=now - 60, probe_at=now + 600)
            worker.do(
                lambda store, down=down: store.write(change_gate, GateChange(Gate(down.endpoint), down))
            )
        worker.do(lambda store: store.write(drains.beat, None, owner="r", endpoint="crm", clock=worker.clock))

    lines = {line.split()[0]: line for line in resonant("status").out.splitlines() if " is probing " in line}

    assert "next probe in " in lines["crm"]
    assert "next probe in " not in lines["shop"]
    assert "no run is sending to it" in lines["shop"]
