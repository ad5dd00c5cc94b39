"""The commands that purge dead letters and show the audit."""

from __future__ import annotations

import gzip
import json
import re
import signal

import pytest

from resonant.delivery.retry import GiveUp
from resonant.events import rfc3339
from resonant.store.audit import read_audit
from support.dlq_actions import PERMANENT, reasons

KILLED_IN_A_PURGE = """
import contextlib, os, signal
import resonant.cli.progress

@contextlib.contextmanager
def killed_at_the_first_batch(what, total=None):
    yield lambda done: os.kill(os.getpid(), signal.SIGKILL)

resonant.cli.progress.progress = killed_at_the_first_batch
"""


def test_a_purge_removes_what_is_older_and_says_what_it_kept(resonant, dead):
    answer = resonant("purge", "--older-than", "30")

    assert re.fullmatch(r"1 purged, 3 kept; archived in .*/archive/purged-[\d-]{10}\.jsonl\.gz\n", answer.out)
    assert answer.err == ""
    assert reasons(resonant).keys() == {"evt_new", "evt_bad"}
    status = resonant.json("status")
    assert (status["purged"], status["delivered"], status["balanced"]) == (1, 1, True)


def test_zero_days_are_every_dead_letter_and_nothing_else(resonant, dead):
    dead.accept("evt_pending")

    done = resonant.json("purge", "--older-than", "0", "--yes", "--no-archive")
    assert done == {"purged": 3, "kept": 1, "dry_run": False, "archive": None}

    status = resonant.json("status")
    assert (status["dead_letter"], status["pending"], status["delivered"]) == (0, 1, 1)
    assert status["balanced"]


def test_delivered_history_goes_by_an_option_of_its_own(resonant, dead):
    by_age = ("purge", "--older-than", "30", "--no-archive", "--delivered-older-than")
    assert resonant(*by_age, "4").out == "1 purged, 3 kept\n"
    assert resonant(*by_age, "2").out == "1 purged, 2 kept\n"

    assert resonant.json("status")["delivered"] == 0
    assert "evt_delivered" in resonant("detail", "evt_delivered", code=1).err


def test_a_dry_run_of_a_purge_counts_and_changes_nothing(resonant, dead, tmp_path):
    before = resonant.json("status")
    argv = ("purge", "--older-than", "0", "--delivered-older-than", "1", "--archive", "a.jsonl", "--dry-run")

    assert resonant(*argv).out == "4 would be purged, 0 kept\n"
    assert resonant.json(*argv) == {"purged": 4, "kept": 0, "dry_run": True, "archive": None}

    assert resonant.json("status") == before
    assert resonant.json("audit") == []
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(("name", "next_name"), [("a.jsonl", "a-2.jsonl"), ("a.jsonl.gz", "a-2.jsonl.gz")])
def test_each_purge_writes_a_new_archive_and_names_it(resonant, dead, tmp_path, name, next_name):
    to_file = ("--archive", name, "--yes")
    said = resonant("purge", "--older-than", "30", *to_file).out
    assert said == f"1 purged, 3 kept; archived in {name}\n"
    assert resonant.json("purge", "--older-than", "0", *to_file)["archive"] == next_name

    read = gzip.decompress if name.endswith(".gz") else bytes
    rows = [
        json.loads(line)
        for path in (name, next_name)
        for line in read((tmp_path / path).read_bytes()).splitlines()
    ]
    assert [row["event"]["id"] for row in rows] == ["evt_old", "evt_bad", "evt_new"]
    assert [row["delivery"]["reason"] for row in rows] == ["exhausted", "permanent", "exhausted"]
    assert [len(row["attempts"]) for row in rows] == [1, 1, 1]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/purged.jsonl", "No such file or directory"),
        (".", "is not a regular file"),
        ("/dev/full", "is not a regular file"),
    ],
)
def test_nothing_is_purged_if_the_archive_cannot_be_created(resonant, dead, place, said):
    answer = resonant("purge", "--older-than", "0", "--yes", "--archive", place, code=1)

    assert (answer.out, answer.err) == ("", f"resonant: {place}: {said}; nothing was purged\n")
    assert resonant.json("status")["dead_letter"] == 3


def test_retention_by_reason_and_by_endpoint_goes_before_the_option(resonant, dead, monkeypatch):
    dead.accept("evt_crm", endpoint="crm")
    dead.attempt(GiveUp("permanent"), endpoint="crm", **PERMANENT)
    monkeypatch.setenv("RESONANT_RETENTION_BY_REASON", '{"permanent": 1, "exhausted": 90}')
    monkeypatch.setenv("RESONANT_RETENTION_BY_ENDPOINT", '{"crm": 365}')

    assert resonant.json("purge", "--older-than", "0", "--yes")["purged"] == 1

    assert reasons(resonant).keys() == {"evt_old", "evt_new", "evt_crm"}


def test_a_purge_needs_to_be_told_how_old(resonant, dead):
    assert "--older-than" in resonant("purge", code=2).err
    assert "--older-than" in resonant("purge", "--yes", code=2).err
    resonant("purge", "--older-than", "-1", code=2)
    assert resonant.json("status")["dead_letter"] == 3


def test_the_audit_of_nothing_is_an_empty_array_and_a_word(resonant, dead):
    resonant.json("dlq")
    resonant("replay", "--all", "--dry-run")

    assert resonant.json("audit") == []
    answer = resonant("audit")
    assert (answer.out, answer.err) == ("", "nothing was replayed, cancelled, purged, paused or resumed\n")


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


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("cancel", "--text", ""), "--text is empty"),
        (("cancel", ""), "an id is empty"),
        (("replay", "--code", "", "--dry-run"), "--code is empty"),
        (("dlq", "--type", ""), "--type is empty"),
        (("purge", "--older-than", "0", "--archive", ""), "--archive is empty"),
        (("purge", "--older-than", "inf"), "an age in days must be a finite number"),
        (("purge", "--older-than", "0", "--delivered-older-than", "inf"), "finite"),
    ],
    ids=str,
)
def test_a_variable_that_was_not_set_is_a_misuse_and_changes_nothing(resonant, dead, command, told):
    before = resonant.json("status")
    assert told in resonant(*command, code=2).err
    assert resonant.json("status") == before


def test_a_misspelt_reason_in_the_retention_is_told(resonant, dead, monkeypatch):
    monkeypatch.setenv("RESONANT_RETENTION_BY_REASON", '{"permanant": 3}')
    answer = resonant("purge", "--older-than", "0", "--yes", code=1)
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
