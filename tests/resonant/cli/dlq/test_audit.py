"""``audit``: who replayed, cancelled, purged, paused and resumed."""

from __future__ import annotations

import re
import signal

from resonant.events import rfc3339
from resonant.store.audit import read_audit

KILLED_IN_A_PURGE = """
import contextlib, os, signal
import resonant.cli.progress

@contextlib.contextmanager
def killed_at_the_first_batch(what, total=None):
    yield lambda done: os.kill(os.getpid(), signal.SIGKILL)

resonant.cli.progress.progress = killed_at_the_first_batch
"""


def test_the_audit_of_nothing_is_an_empty_array_or_a_word(resonant, dead):
    resonant.json("dlq")
    resonant("replay", "--all", "--dry-run")

    assert resonant.json("audit") == []
    answer = resonant("audit")
    assert (answer.out, answer.err) == ("", "nothing was replayed, cancelled, purged, paused or resumed\n")


def test_the_audit_lists_each_action_and_its_user_the_newest_first(resonant, dead):
    dead.accept("evt_waiting")
    resonant("cancel", "evt_waiting")
    resonant("purge", "--older-than", "30")
    resonant("purge", "--endpoint", "billing", "--code", "http_400", "--archive", "bad.jsonl", "--yes")

    filtered, purged, cancelled = resonant.json("audit")

    assert list(purged) == ["at", "who", "action", "selection", "count", "ended_at"]
    assert (purged["action"], purged["count"]) == ("purge", 1)
    assert purged["selection"]["dead_letters"] == 30
    assert (filtered["action"], filtered["count"]) == ("purge", 1)
    chosen = {"endpoint": "billing", "code": "http_400", "dead_letters": 0.0, "archive": "bad.jsonl"}
    assert filtered["selection"] == chosen
    assert (cancelled["action"], cancelled["selection"]) == ("cancel", {"ids": ["evt_waiting"]})
    assert purged["who"] == cancelled["who"]
    assert purged["who"].endswith("the command line")
    assert cancelled["at"] <= cancelled["ended_at"] <= purged["at"] <= purged["ended_at"]
    stored = dead.do(lambda store: store.read(read_audit))[-1]
    assert (cancelled["at"], cancelled["ended_at"]) == (rfc3339(stored.at), rfc3339(stored.ended_at))


def test_the_audit_shows_fifty_entries_by_default(resonant, worker):
    worker.accept(*(f"evt_{number}" for number in range(53)))
    for number in range(53):
        resonant("cancel", f"evt_{number}")

    newest = [row["selection"]["ids"][0] for row in resonant.json("audit", "--limit", "2")]
    assert newest == ["evt_52", "evt_51"]
    assert len(resonant.json("audit")) == 50
    assert len(resonant.json("audit", "--limit", "0")) == 53


def test_an_entry_is_a_line_of_a_table(resonant, worker):
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


def test_a_purge_that_was_killed_shows_as_not_ended_with_its_count(resonant, dead):
    killed = resonant.program("purge", "--older-than", "30", before=KILLED_IN_A_PURGE)

    assert killed.returncode == -signal.SIGKILL
    [entry] = resonant.json("audit")
    assert (entry["count"], entry["ended_at"]) == (1, None)
    assert "not ended" in resonant("audit").out
    status = resonant.json("status")
    assert (status["dead_letter"], status["purged"], status["balanced"]) == (2, 1, True)


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
