"""``retry``, ``replay --dry-run``, ``cancel``, ``purge``, ``audit``: all that needs no Prefect."""

from __future__ import annotations

import gzip
import json
import re
import signal

import pytest

from resonant.dead_letters.audit import read_audit
from resonant.delivery.retry import GiveUp, Park
from resonant.events import rfc3339

PERMANENT = {"category": "permanent", "code": "http_400", "status_code": 400}
DAY = 86_400.0
WITHOUT_PREFECT = "import sys; sys.modules['prefect'] = None"
KILLED_IN_A_PURGE = """
import contextlib, os, signal
import resonant.cli.progress

@contextlib.contextmanager
def killed_at_the_first_batch(what, total=None):
    yield lambda done: os.kill(os.getpid(), signal.SIGKILL)

resonant.cli.progress.progress = killed_at_the_first_batch
"""


@pytest.fixture
def dead(worker):
    """Three dead letters, of forty, of two, and of no days, and one event that was delivered three days ago."""
    now = worker.clock()
    for event_id, days, decision, attempt in (
        ("evt_old", 40, GiveUp("exhausted"), {}),
        ("evt_delivered", 3, None, {}),
        ("evt_bad", 2, GiveUp("permanent"), PERMANENT),
        ("evt_new", 0, GiveUp("exhausted"), {}),
    ):
        worker.clock.advance(now - days * DAY - worker.clock())
        worker.accept(event_id)
        worker.attempt(decision, **attempt)
    return worker


def reasons(resonant) -> dict[str, str]:
    return {row["event_id"]: row["reason"] for row in resonant.json("dlq")}


# --- retry -------------------------------------------------------------------------------------------------------


def test_retry_of_what_is_no_dead_letter_sends_nothing(resonant, dead):
    before = resonant.json("status")

    answer = resonant("retry", "evt_new", "evt_delivered", "evt_nowhere", code=1)

    assert answer.err == (
        "resonant: evt_delivered, evt_nowhere are not in the dead-letter queue: nothing was sent "
        "(`resonant dlq` lists what is)\n"
    )
    assert answer.out == ""
    assert resonant.json("status") == before
    assert resonant.json("audit") == []


def test_of_many_that_are_no_dead_letters_ten_are_named(resonant):
    answer = resonant("retry", *(f"evt_{n:02}" for n in range(13)), code=1)

    assert answer.err.startswith("resonant: evt_00, evt_01, ")
    assert "evt_09 and 3 more are not in the dead-letter queue" in answer.err


def test_retry_of_a_permanent_one_is_refused_where_nobody_can_be_asked(resonant, dead):
    answer = resonant("retry", "evt_new", "evt_bad", code=2)

    assert answer.err == "resonant: the failure of evt_bad was permanent: --yes sends them all the same\n"
    assert resonant.json("audit") == []


def test_retry_of_a_permanent_one_asks_on_a_terminal_and_a_no_sends_nothing(resonant, dead):
    screen = resonant.on_a_terminal("retry", "evt_bad", typed="n\n", code=1)

    assert "evt_bad: http_400: the endpoint answered 503" in screen
    assert "The failure of evt_bad was permanent. Send again all the same? [y/N]" in screen
    assert reasons(resonant)["evt_bad"] == "permanent"
    assert resonant.json("audit") == []


# --- replay ------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_replay_counts_without_prefect_and_changes_nothing(resonant, dead):
    before = resonant.json("status")

    done = resonant.program("replay", "--all", "--dry-run", before=WITHOUT_PREFECT)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "2 would be sent again; 1 left out, as their failure was permanent (include them by asking for it)\n"
    )
    assert resonant.json("status") == before
    assert resonant.json("audit") == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--all", "--include-permanent"], "3 would be sent again\n"),
        (
            ["--all", "--include-permanent", "--limit", "2"],
            "2 would be sent again; 1 left out by the limit\n",
        ),
        (["--code", "http_503", "--limit", "5"], "2 would be sent again\n"),
        (["--since", "7d"], "1 would be sent again; 1 left out, as their failure was permanent (include"),
        (["--until", "7d", "--endpoint", "billing"], "1 would be sent again\n"),
        (["--type", "user.*"], "0 would be sent again\n"),
    ],
)
def test_a_dry_run_says_what_the_filters_and_the_limit_leave_out(resonant, dead, argv, said):
    assert resonant("replay", "--dry-run", *argv).out.startswith(said)


@pytest.mark.parametrize("argv", [[], ["--include-permanent"], ["--limit", "1", "--dry-run"]])
def test_a_replay_that_nothing_selects_must_be_asked_for(resonant, dead, argv):
    answer = resonant("replay", *argv, code=2)

    assert answer.err == ("resonant: nothing selects the dead letters to replay: give a filter, or --all\n")
    assert resonant.json("audit") == []


@pytest.mark.parametrize(
    "argv", [["retry", "evt_new"], ["replay", "--all"], ["replay", "--all", "--dry-run"]]
)
def test_a_policy_that_there_is_none_of_is_one_line_and_nothing_is_sent(resonant, dead, argv):
    answer = resonant(*argv, "--policy", "nonsense", code=2)

    assert answer.err.startswith("resonant: --policy: no retry policy is named 'nonsense'")
    assert answer.err.count("\n") == 1
    assert resonant.json("audit") == []


@pytest.mark.parametrize("argv", [["--rate", "0"], ["--rate", "-1"], ["--limit", "0"], ["--since", "soon"]])
def test_a_replay_refuses_numbers_and_times_that_make_no_sense(resonant, dead, argv):
    resonant("replay", "--all", "--dry-run", *argv, code=2)


# --- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_gives_up_the_deliveries_of_these_events(resonant, worker):
    worker.accept("evt_1", "evt_2", "evt_3")

    answer = resonant("cancel", "evt_1", "evt_3")

    assert (answer.out, answer.err) == ("2 deliveries given up\n", "")
    assert reasons(resonant) == {"evt_1": "cancelled", "evt_3": "cancelled"}
    status = resonant.json("status")
    assert (status["pending"], status["dead_letter"], status["balanced"]) == (1, 2, True)


@pytest.mark.parametrize(
    ("argv", "given_up"),
    [
        (["--endpoint", "crm"], {"evt_crm"}),
        (["--type", "order.*"], {"evt_order", "evt_parked"}),
        (["--code", "http_503"], {"evt_parked"}),
        (["--category", "transient"], {"evt_parked"}),
        (["--text", "ANSWERED 503"], {"evt_parked"}),
        (["--since", "1h"], {"evt_crm", "evt_order"}),
        (["--until", "1h"], {"evt_parked"}),
        (["--endpoint", "billing", "--type", "order.*", "evt_order"], {"evt_order"}),
        (["--all"], {"evt_crm", "evt_order", "evt_parked"}),
        (["--type", "no.such"], set()),
    ],
)
def test_cancel_takes_the_same_filters_and_times_of_acceptance(resonant, worker, argv, given_up):
    now = worker.clock()
    worker.clock.advance(-2 * 3600)
    worker.accept("evt_parked")
    worker.attempt(Park(1e6, now + 1e6))
    worker.clock.advance(now - worker.clock())
    worker.accept("evt_order")
    worker.accept("evt_crm", endpoint="crm", event_type="user.created")

    assert resonant.json("cancel", *argv) == {"cancelled": len(given_up)}

    assert reasons(resonant).keys() == given_up


@pytest.mark.parametrize("argv", [[], ["--json"]])
def test_cancelling_what_nothing_selects_must_be_asked_for(resonant, worker, argv):
    worker.accept("evt_1")

    answer = resonant("cancel", *argv, code=2)

    assert answer.err == "resonant: nothing selects the deliveries to cancel: give ids, a filter, or --all\n"
    assert answer.out == ""
    assert resonant.json("status")["pending"] == 1


def test_cancel_leaves_alone_what_is_being_sent(resonant, worker):
    worker.accept("evt_sending", "evt_waiting")
    sending, _ = worker.claim_all()
    worker.do(lambda store: store.begin([sending]))

    assert resonant("cancel", "--all").out == "1 delivery given up\n"

    assert reasons(resonant).keys() == {"evt_waiting"}
    assert resonant.json("status")["in_flight"] == 1


def test_cancel_leaves_alone_what_is_final(resonant, dead):
    before = resonant.json("status")

    assert resonant("cancel", "--all").out == "0 deliveries given up\n"

    assert resonant.json("status") == before


# --- purge -------------------------------------------------------------------------------------------------------


def test_a_purge_removes_what_is_older_and_says_what_it_kept(resonant, dead):
    answer = resonant("purge", "--older-than", "30")

    assert (answer.out, answer.err) == ("1 purged, 3 kept\n", "")
    assert reasons(resonant).keys() == {"evt_new", "evt_bad"}
    status = resonant.json("status")
    assert (status["purged"], status["delivered"], status["balanced"]) == (1, 1, True)


def test_zero_days_are_every_dead_letter_and_nothing_else(resonant, dead):
    dead.accept("evt_pending")

    assert resonant.json("purge", "--older-than", "0") == {"purged": 3, "kept": 1, "dry_run": False}

    status = resonant.json("status")
    assert (status["dead_letter"], status["pending"], status["delivered"]) == (0, 1, 1)
    assert status["balanced"]


def test_delivered_history_goes_by_an_option_of_its_own(resonant, dead):
    assert resonant("purge", "--older-than", "30", "--delivered-older-than", "4").out == "1 purged, 3 kept\n"
    assert resonant("purge", "--older-than", "30", "--delivered-older-than", "2").out == "1 purged, 2 kept\n"

    assert resonant.json("status")["delivered"] == 0
    assert "evt_delivered" in resonant("detail", "evt_delivered", code=1).err


def test_a_dry_run_of_a_purge_counts_and_changes_nothing(resonant, dead, tmp_path):
    before = resonant.json("status")
    argv = ("purge", "--older-than", "0", "--delivered-older-than", "1", "--archive", "a.jsonl", "--dry-run")

    assert resonant(*argv).out == "4 would be purged, 0 kept\n"
    assert resonant.json(*argv) == {"purged": 4, "kept": 0, "dry_run": True}

    assert resonant.json("status") == before
    assert resonant.json("audit") == []
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("name", ["purged.jsonl", "purged.jsonl.gz"])
def test_an_archive_holds_all_that_is_removed_after_what_it_held(resonant, dead, tmp_path, name):
    assert resonant("purge", "--older-than", "30", "--archive", name).out == "1 purged, 3 kept\n"
    assert resonant("purge", "--older-than", "0", "--archive", name).out == "2 purged, 1 kept\n"

    read = gzip.decompress if name.endswith(".gz") else bytes
    rows = [json.loads(line) for line in read((tmp_path / name).read_bytes()).splitlines()]
    assert [row["event"]["id"] for row in rows] == ["evt_old", "evt_bad", "evt_new"]
    assert [row["delivery"]["reason"] for row in rows] == ["exhausted", "permanent", "exhausted"]
    assert [len(row["attempts"]) for row in rows] == [1, 1, 1]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/purged.jsonl", "missing/purged.jsonl: No such file or directory; nothing was purged"),
        (".", ".: Is a directory; nothing was purged"),
        ("/dev/full", "/dev/full: No space left on device; what was not archived was not purged"),
    ],
)
def test_what_cannot_be_archived_is_not_purged(resonant, dead, place, said):
    answer = resonant("purge", "--older-than", "0", "--archive", place, code=1)

    assert (answer.out, answer.err) == ("", f"resonant: {said}\n")
    assert resonant.json("status")["dead_letter"] == 3
    [entry] = resonant.json("audit")
    assert (entry["action"], entry["count"]) == ("purge", 0)


def test_retention_by_reason_and_by_endpoint_goes_before_the_option(resonant, dead, monkeypatch):
    dead.accept("evt_crm", endpoint="crm")
    dead.attempt(GiveUp("permanent"), endpoint="crm", **PERMANENT)
    monkeypatch.setenv("RESONANT_RETENTION_BY_REASON", '{"permanent": 1, "exhausted": 90}')
    monkeypatch.setenv("RESONANT_RETENTION_BY_ENDPOINT", '{"crm": 365}')

    assert resonant("purge", "--older-than", "0").out == "1 purged, 4 kept\n"

    assert reasons(resonant).keys() == {"evt_old", "evt_new", "evt_crm"}


def test_a_purge_needs_to_be_told_how_old(resonant, dead):
    assert "--older-than" in resonant("purge", code=2).err
    resonant("purge", "--older-than", "-1", code=2)
    assert resonant.json("status")["dead_letter"] == 3


def test_a_purge_on_a_terminal_says_the_same_and_leaves_no_bar(resonant, dead):
    assert resonant.on_a_terminal("purge", "--older-than", "0").strip().endswith("3 purged, 1 kept")


# --- audit -------------------------------------------------------------------------------------------------------


def test_the_audit_of_nothing_is_an_empty_array_and_a_word(resonant, dead):
    resonant.json("dlq")
    resonant("replay", "--all", "--dry-run")

    assert resonant.json("audit") == []
    answer = resonant("audit")
    assert (answer.out, answer.err) == ("", "nothing was replayed, cancelled or purged\n")


def test_the_audit_lists_who_did_what_the_newest_first(resonant, dead):
    dead.accept("evt_waiting")
    resonant("cancel", "evt_waiting")
    resonant("purge", "--older-than", "30")

    purged, cancelled = resonant.json("audit")

    assert list(purged) == ["at", "who", "action", "selection", "count", "ended_at"]
    assert (purged["action"], purged["count"]) == ("purge", 1)
    assert purged["selection"]["dead_letters"] == 30
    assert (cancelled["action"], cancelled["selection"]) == ("cancel", {"ids": ["evt_waiting"]})
    assert purged["who"] == cancelled["who"]
    assert purged["who"].endswith("the command line")
    assert cancelled["at"] <= cancelled["ended_at"] <= purged["at"] <= purged["ended_at"]


def test_the_audit_is_as_long_as_it_is_asked_to_be(resonant, worker):
    worker.accept(*(f"evt_{number}" for number in range(53)))
    for number in range(53):
        resonant("cancel", f"evt_{number}")

    newest = [row["selection"]["ids"][0] for row in resonant.json("audit", "--limit", "2")]
    assert newest == ["evt_52", "evt_51"]
    assert len(resonant.json("audit")) == 50
    assert len(resonant.json("audit", "--limit", "0")) == 53


def test_the_audit_is_a_line_each_where_stdout_is_no_terminal(resonant, worker):
    worker.accept("evt_1", "evt_2")
    resonant("cancel", "--type", "order.*")
    resonant("cancel", "--code", "http_503")

    header, *lines = resonant("audit").out.splitlines()

    assert header.split() == ["AT", "WHO", "ACTION", "COUNT", "TOOK", "SELECTION"]
    assert len(lines) == 2
    at = resonant.json("audit")[1]["at"]
    assert re.fullmatch(
        rf'{re.escape(at)}  .+ on the command line  cancel  2 +\d\.\d s  {{"event_type": "order\.\*"}}',
        lines[1],
    )


def test_a_purge_that_was_killed_shows_as_not_ended_with_what_it_did(resonant, dead):
    killed = resonant.program("purge", "--older-than", "30", before=KILLED_IN_A_PURGE)

    assert killed.returncode == -signal.SIGKILL
    [entry] = resonant.json("audit")
    assert (entry["count"], entry["ended_at"]) == (1, None)
    assert "not ended" in resonant("audit").out
    status = resonant.json("status")
    assert (status["dead_letter"], status["purged"], status["balanced"]) == (2, 1, True)


def test_the_moments_of_the_audit_are_rfc_3339(resonant, worker):
    worker.accept("evt_1")
    resonant("cancel", "evt_1")

    [entry] = resonant.json("audit")

    [stored] = worker.do(lambda store: store.read(read_audit))
    assert (entry["at"], entry["ended_at"]) == (rfc3339(stored.at), rfc3339(stored.ended_at))


# --- Values that are empty, or that no database stores -----------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("cancel", "--text", ""), "--text is empty"),
        (("cancel", ""), "an id is empty"),
        (("replay", "--code", "", "--dry-run"), "--code is empty"),
        (("dlq", "--type", ""), "--type is empty"),
        (("purge", "--older-than", "0", "--archive", ""), "--archive is empty"),
        (("purge", "--older-than", "inf"), "an age in days is a finite number"),
        (("purge", "--older-than", "0", "--delivered-older-than", "inf"), "finite"),
    ],
    ids=str,
)
def test_a_variable_that_was_not_set_is_a_misuse_and_changes_nothing(resonant, dead, command, told):
    before = resonant.json("status")
    assert told in resonant(*command, code=2).err
    assert resonant.json("status") == before


def test_bytes_that_are_no_text_are_refused_in_one_line(resonant, dead):
    answer = resonant("dlq", "--text", "\udcff", code=1)
    assert "no UTF-8" in answer.err
    assert answer.err.count("\n") == 1


def test_a_misspelt_reason_in_the_retention_is_told(resonant, dead, monkeypatch):
    monkeypatch.setenv("RESONANT_RETENTION_BY_REASON", '{"permanant": 3}')
    answer = resonant("purge", "--older-than", "0", code=1)
    assert "RESONANT_RETENTION_BY_REASON" in answer.err
    monkeypatch.delenv("RESONANT_RETENTION_BY_REASON")
    assert len(reasons(resonant)) == 3


def test_on_a_terminal_the_audit_fits_its_width_and_shows_the_whole_selection(resonant, worker):
    worker.accept("evt_1")
    selection = ("--endpoint", "billing", "--type", "com.example.a-rather-long-name.order.*", "--since", "2h")
    resonant("cancel", *selection)
    resonant("purge", "--older-than", "0.5", "--archive", "purged.jsonl")

    screen = resonant.on_a_terminal("audit")

    assert max(map(len, screen.splitlines())) <= 80
    purged, cancelled = (" ".join(entry.split()) for entry in screen.strip().split("\n\n"))
    assert re.match(r"[\d-]+ [\d:]+Z purge, 0 deliveries, took \d\.\d s by \S+ on the command line ", purged)
    assert purged.endswith(" dead letters older than 0.5 days, archive purged.jsonl")
    assert " cancel, 0 deliveries, took " in cancelled
    assert "event type com.example.a-rather-long-name.order.*, endpoint billing, since 20" in cancelled
