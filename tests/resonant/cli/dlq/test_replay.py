"""Commands that act on dead letters: retry, replay, cancel."""

import json
import re
import sys

import pytest

from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.delivery.retry import Park
from resonant.store.views.selection import Selection
from support.dlq_actions import reasons


def test_retry_of_an_event_that_is_no_dead_letter_sends_nothing(resonant, dead):
    before = resonant.json("status")

    answer = resonant("retry", "evt_new", "evt_delivered", "evt_nowhere", code=1)

    assert answer.err == (
        "resonant: evt_delivered, evt_nowhere are not in the dead-letter queue: nothing was sent "
        "(`resonant dlq` lists the queue)\n"
    )
    assert answer.out == ""
    many = resonant("retry", *(f"evt_{n:02}" for n in range(13)), code=1).err
    assert many.startswith("resonant: evt_00, evt_01, ")
    assert "evt_09 and 3 more are not in the dead-letter queue" in many
    assert resonant.json("status") == before
    assert resonant.json("audit") == []


def test_retry_of_a_permanent_one_asks_on_a_terminal_and_a_no_sends_nothing(resonant, dead):
    screen = resonant.on_a_terminal("retry", "evt_bad", typed="n\n", code=1)

    assert "evt_bad: http_400: the endpoint answered 503" in screen
    assert "the failure of evt_bad was permanent\nSend again anyway? [y/N]" in screen
    assert reasons(resonant)["evt_bad"] == "permanent"
    assert resonant.json("audit") == []


def test_a_dry_run_of_a_replay_counts_without_prefect_and_changes_nothing(resonant, dead, monkeypatch):
    before = resonant.json("status")

    monkeypatch.setitem(sys.modules, "prefect", None)
    done = resonant("replay", "--all", "--dry-run")

    remedy = "include_permanent=True (`resonant replay --include-permanent`) sends them too\n"
    said = f"2 would be sent again; 1 skipped because their failure was permanent: {remedy}"
    assert (done.out, done.err) == (said, "")
    assert resonant.json("status") == before
    assert resonant.json("audit") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--all --include-permanent --limit 2", "2 would be sent again; 1 skipped because of the limit\n"),
        (
            "--all --max-rounds 1",
            "0 would be sent again; 1 skipped because their failure was permanent: include",
        ),
        (
            "--all --max-rounds 1 --include-permanent",
            "0 would be sent again; 3 skipped: 1 round or more\n",
        ),
        ("--code http_503 --limit 5", "2 would be sent again\n"),
        ("--until 7d --endpoint billing", "1 would be sent again\n"),
        ("--since 7d --type user.*", "0 would be sent again\n"),
    ],
)
def test_a_dry_run_says_how_many_the_filters_and_the_limit_exclude(resonant, dead, options, said):
    assert resonant("replay", "--dry-run", *options.split()).out.startswith(said)


def test_a_dry_run_of_a_replay_to_another_endpoint_counts_the_events_that_it_has(resonant, dead):
    dead.accept("evt_new", endpoint="crm")
    found = resonant.json("replay", "--all", "--to", "crm", "--dry-run")

    left_out = {"permanent": 1, "by_rounds": 0, "erased": 0, "by_limit": 0, "existing": 1}
    counts = {f"left_out_{why}": number for why, number in left_out.items()}
    assert found == {"dry_run": True, "selected": 1, "to": "crm"} | counts


def test_a_dead_letter_says_to_which_endpoint_its_event_was_replayed(resonant, dead):
    request = ReplayRequest(Selection(ids=("evt_new",)), to="crm")
    lease = {"owner": "replay", "died_before": dead.clock() + 1, "limit": 1}
    dead.do(lambda store: store.write_leases(replay_batch, request, **lease))

    [row] = [row for row in resonant.json("dlq") if row["event_id"] == "evt_new"]
    assert row["replayed_to"] == "crm"
    crm, own = resonant.json("detail", "evt_new")["deliveries"][::-1]
    assert (own["replayed_to"], crm["replayed_to"]) == ("crm", None)
    assert "replayed to crm" in resonant("detail", "evt_new").out
    assert "replayed to crm" in resonant("dlq").out
    assert ", replayed to crm" in resonant.on_a_terminal("dlq", columns=200)


@pytest.mark.engine
def test_a_replay_without_a_known_endpoint_or_a_match_sends_nothing(resonant, dead, on_server):
    dead.accept("evt_crm", endpoint="crm")

    answer = resonant.on_prefect("replay", "--all", "--to", "crm", code=1)

    assert answer.err.startswith("resonant: no endpoint is named 'crm'")
    assert answer.out == ""
    assert resonant.on_prefect("replay", "--type", "user.*").out == "no dead letter matches\n"
    assert resonant.json("status")["accepted"] == 5
    assert {each["replayed_to"] for each in resonant.json("dlq")} == {None}


@pytest.mark.engine
def test_a_replay_of_events_that_the_other_endpoint_has_counts_them(resonant, dead, webhook):
    for name in ("evt_old", "evt_new"):
        dead.accept(name, endpoint=webhook("crm"))

    answer = resonant.on_prefect("replay", "--category", "transient", "--to", "crm", "--json", code=1)

    assert answer.err == (
        "resonant: nothing was sent to crm; 2 skipped because crm already has a delivery of the event\n"
    )
    found = json.loads(answer.out)
    assert (found["selected"], found["left_out_existing"], found["replayed"]) == (0, 2, 0)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("command", "waits"),
    [("replay --code http_503", "2 deliveries wait"), ("retry evt_old", "1 delivery waits")],
)
def test_a_replay_says_why_and_how_long_its_parked_deliveries_wait(
    resonant, dead, webhook, monkeypatch, command, waits
):
    webhook("billing", "http://127.0.0.1:9/", allow_private=True)
    monkeypatch.setenv("RESONANT_POLICIES", '{"slow": {"base": 500, "jitter": "none"}}')

    answer = resonant.on_prefect(*command.split(), "--policy", "slow")

    why = r"for a retry; last failure: connect_refused; the next is due in \d min; no drain runs: "
    assert re.match(f"{waits} {why}", answer.err)


@pytest.fixture
def waiting(worker):
    """A parked delivery of two hours ago, a new one, and one of another endpoint and type."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-2 * 3600)
        worker.accept("evt_parked")
        worker.attempt(Park(1e6, now + 1e6))
        worker.clock.advance(now - worker.clock())
        worker.accept("evt_order")
        worker.accept("evt_crm", endpoint="crm", event_type="user.created")
    return worker


@pytest.mark.parametrize(
    ("argv", "given_up"),
    [
        (["evt_parked", "evt_crm"], {"evt_crm", "evt_parked"}),
        (["--endpoint", "crm"], {"evt_crm"}),
        (["--type", "order.*"], {"evt_order", "evt_parked"}),
        (["--code", "http_503", "--category", "transient", "--text", "ANSWERED 503"], {"evt_parked"}),
        (["--since", "1h"], {"evt_crm", "evt_order"}),
        (["--until", "1h"], {"evt_parked"}),
        (["--endpoint", "billing", "evt_order"], {"evt_order"}),
        (["--all"], {"evt_crm", "evt_order", "evt_parked"}),
        (["--type", "no.such"], set()),
    ],
)
def test_cancel_counts_and_gives_up_the_selected_deliveries(resonant, waiting, argv, given_up):
    expected = {"would_cancel": len(given_up), "being_sent": 0, "dry_run": True}
    assert resonant.json("cancel", *argv, "--dry-run") == expected
    assert (len(resonant.json("deliveries")), resonant.json("audit")) == (3, [])

    assert resonant.json("cancel", *argv) == {"cancelled": len(given_up)}

    assert reasons(resonant) == dict.fromkeys(given_up, "cancelled")
    status = resonant.json("status")
    assert (status["dead_letter"], status["balanced"]) == (len(given_up), True)
    assert status["pending"] + status["retrying"] == 3 - len(given_up)


@pytest.fixture
def two_sources(worker):
    """The same id of two sources, each a dead letter and an unfinished delivery."""
    with worker.at_work():
        for source in ("/crm", "/shop"):
            worker.bury("evt_1", source=source)
            worker.accept("evt_1", source=source, endpoint="later")
        worker.accept("evt_2", source="/shop", endpoint="later")
    return worker


ON_EVENTS = pytest.mark.parametrize(
    "command",
    [
        "cancel evt_2 evt_1",
        "cancel evt_2 evt_1 --dry-run",
        "retry evt_1 evt_2",
        "erase --id evt_1 --id evt_2 --yes",
    ],
)


@ON_EVENTS
def test_an_id_of_two_sources_changes_nothing_until_the_source_is_given(resonant, two_sources, command):
    before = resonant.json("status")

    answer = resonant(*command.split(), code=2)

    assert answer.out == ""
    assert answer.err.startswith(
        "resonant: several sources use the same id: evt_1 of '/crm' (order.paid, accepted "
    )
    assert "evt_1 of '/shop' (order.paid, accepted " in answer.err
    assert answer.err.endswith("): give --source\n")
    assert resonant.json("status") == before
    assert resonant.json("audit") == []


@ON_EVENTS
def test_a_source_that_does_not_use_an_id_is_refused_with_those_that_do(resonant, two_sources, command):
    answer = resonant(*command.split(), "--source", "/crm", code=2)

    known = "known: evt_2 of '/shop' (order.paid, accepted "
    assert answer.err.startswith(f"resonant: no event with this id is of the source '/crm'; {known}")
    assert resonant.json("audit") == []


def test_a_command_with_the_source_acts_on_the_event_of_this_source(resonant, two_sources):
    assert resonant.json("cancel", "evt_1", "--source", "/crm") == {"cancelled": 1}

    [left, other] = sorted(resonant.json("deliveries"), key=lambda row: row["event_id"])
    assert (left["event_id"], left["source"], other["event_id"]) == ("evt_1", "/shop", "evt_2")
    [entry] = resonant.json("audit")
    assert entry["selection"] == {"ids": ["evt_1"], "source": "/crm"}
    assert resonant.json("replay", "--source", "/crm", "--dry-run")["selected"] == 2
    assert resonant.json("purge", "--source", "/crm", "--yes")["purged"] == 2
    assert {row["source"] for row in resonant.json("dlq")} == {"/shop"}
    assert resonant.json("erase", "--id", "evt_1", "--source", "/shop", "--yes")["events"] == 1


def test_of_many_events_with_the_same_id_ten_are_named(resonant, worker):
    with worker.at_work():
        for number in range(13):
            worker.accept("1", source=f"/device/{number:02}")
    said = resonant("cancel", "1", code=2).err
    assert "1 of '/device/09' (" in said
    assert said.endswith(") and 3 more: give --source\n")


def test_cancel_asks_on_a_terminal_and_gives_up_nothing_without_a_yes(resonant, worker):
    assert resonant.on_a_terminal("cancel", "--all") == "0 deliveries given up\n"
    worker.accept("evt_1", "evt_2")

    shown = resonant.on_a_terminal("cancel", "--endpoint", "billing", typed="n\n", code=1)

    assert "2 would be given up, and can be replayed later Give up? [y/N]" in " ".join(shown.split())
    assert shown.rstrip().endswith("nothing was changed")
    assert resonant.json("status")["pending"] == 2
    assert resonant.on_a_terminal("cancel", "evt_1", "--yes") == "1 delivery given up\n"
    assert resonant.on_a_terminal("cancel", "--all", typed="y\n").endswith("1 delivery given up\n")


def test_cancel_skips_deliveries_that_are_final_or_being_sent(resonant, dead):
    dead.accept("evt_sending", "evt_waiting")
    sending, _ = dead.claim_all()
    dead.do(lambda store: store.begin([sending]))
    before = reasons(resonant)

    said = "1 would be given up; 1 being sent now would not be cancelled\n"
    assert resonant("cancel", "--all", "--dry-run").out == said
    answer = resonant("cancel", "--all")

    assert (answer.out, answer.err) == ("1 delivery given up\n", "")
    assert reasons(resonant) == before | {"evt_waiting": "cancelled"}
    assert resonant.json("status")["in_flight"] == 1
