"""Parts that end are started again, with a growing pause, until one fails to start too often."""

import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest

from resonant.errors import ServerError
from resonant.local import parts as parts_module
from resonant.local.parts import (
    FAILURE_PAUSES,
    LONGEST_PAUSE,
    MOST_FAILURES,
    WITHIN_SECONDS,
    Part,
    Parts,
    Restarts,
    kept_parts,
)
from resonant.local.server import START_SECONDS
from resonant.local.supervisor import STOP_SECONDS
from support.waiting import wait_until


class Scripted:
    """A part that a test controls."""

    start_seconds = 60.0

    def __init__(self, name="part", *, is_good=True):
        self.name, self.log = name, Path(f"{name}.log")
        self.is_good = is_good
        self.may_start = True
        self.hangs = False
        self.starts = self.ends = 0
        self.runs = False

    def start(self):
        if not self.may_start:
            return False
        self.starts += 1
        self.runs = True
        return True

    def is_ready(self):
        return self.is_good

    def problem(self):
        if not self.runs or not (self.is_good or self.hangs):
            return f"the {self.name} ended"
        return None

    def end(self):
        self.runs = False
        self.ends += 1

    kill = end


class Watched:
    """Parts with a clock that moves only when the test looks."""

    def __init__(self, *parts):
        self.now = 0.0
        self.parts = Parts(clock=lambda: self.now, sleep=lambda _seconds: None)
        for each in parts:
            self.parts.start(each)
            self.parts.wait(each)

    def look(self, seconds=0.0):
        self.now += seconds
        self.parts.look()


@pytest.fixture
def part():
    return Scripted()


@pytest.fixture
def watched(part):
    """The parts with ``part``, which is ready."""
    return Watched(part)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(parts_module.output, "say", lines.append)
    return lines


def test_a_part_that_ended_is_started_again_after_a_pause_and_the_terminal_says_so(part, watched, said):
    part.runs = False

    watched.look()
    assert (part.starts, said) == (1, ["the part ended: starting it again in 1 s"])
    assert not watched.parts.runs(part)
    watched.look(0.9)
    assert part.starts == 1
    watched.look(0.1)
    assert part.starts == 2
    watched.look()
    assert said[1:] == ["the part runs again"]
    assert watched.parts.runs(part)


def test_a_full_disk_behind_standard_error_ends_nothing(part, watched, monkeypatch):
    part.runs = False
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails too
        monkeypatch.setattr(sys, "stderr", full)
        watched.look()
        watched.look(1.0)
        watched.look()
    assert (part.starts, watched.parts.runs(part)) == (2, True)


def test_the_pause_grows_with_each_end_and_is_short_again_after_ten_minutes():
    restarts = Restarts()
    pauses = [restarts.pause(60.0 * n, failed=False) for n in range(9)]
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert restarts.pause(60.0 * 8 + WITHIN_SECONDS, failed=False) == 1


def test_a_part_that_fails_at_once_for_two_minutes_ends_nothing(part, watched, said):
    part.is_good = False
    while not part.is_good or not watched.parts.runs(part):
        watched.look(0.5)
        part.is_good = watched.now > 120
    pauses = [line.rpartition(" in ")[2] for line in said if "again in" in line]
    assert pauses == ["1 s", "5 s", "15 s", "45 s", "90 s"]


def test_a_part_that_hangs_at_each_start_ends_everything_too(part, watched, said):
    part.start_seconds = START_SECONDS
    part.runs = False
    watched.look()
    part.is_good, part.hangs = False, True

    def end():
        Scripted.end(part)
        watched.now += STOP_SECONDS + 5

    def look_on():
        while watched.now < 2 * WITHIN_SECONDS:
            watched.look(0.5)

    part.end = end
    with pytest.raises(ServerError, match="it failed to start 5 times in 10 minutes"):
        look_on()


def test_kills_of_a_part_that_starts_again_each_time_never_end_everything(part, watched, said):
    for _ in range(3 * MOST_FAILURES):
        part.runs = False
        watched.look()
        watched.look(LONGEST_PAUSE)
        watched.look()
        assert watched.parts.runs(part)


def test_a_part_that_fails_to_start_five_times_in_ten_minutes_ends_everything(part, watched, said):
    part.is_good = False
    watched.look()
    for _ in range(MOST_FAILURES - 1):
        watched.look(max(FAILURE_PAUSES))
        watched.look()
    watched.look(max(FAILURE_PAUSES))
    with pytest.raises(ServerError, match="the part ended; it failed to start 5 times in 10 minutes"):
        watched.look()
    assert part.starts == 1 + MOST_FAILURES


def test_failures_that_are_further_apart_do_not_end_everything():
    restarts = Restarts()
    apart = WITHIN_SECONDS / (MOST_FAILURES - 1)
    assert all(restarts.pause(apart * n, failed=True) for n in range(50))


def test_a_part_that_is_not_ready_in_time_is_ended_and_started_again(part, watched, said):
    part.runs = False
    watched.look()
    part.is_good, part.hangs = False, True
    watched.look(1.0)
    watched.look(part.start_seconds)
    ends = part.ends
    watched.look(0.1)
    assert said[-1] == "the part did not start within 60 s: see part.log: starting it again in 5 s"
    assert part.ends == ends + 1


def test_a_part_that_waits_for_another_does_not_fail(said):
    intake, server, worker = map(Scripted, ("intake", "server", "worker"))
    watched = Watched(intake, server, worker)
    server.runs = worker.runs = worker.may_start = False
    for _ in range(10):
        watched.look(WITHIN_SECONDS / 10)
    assert watched.parts.runs(server)
    assert (intake.starts, intake.ends, server.starts) == (1, 0, 2), "an end does not touch the others"
    worker.may_start = True
    watched.look()
    watched.look()
    assert watched.parts.runs(worker)
    assert [line for line in said if "worker" in line] == [
        "the worker ended: starting it again in 1 s",
        "the worker runs again",
    ]


def test_a_part_that_nothing_waits_for_is_not_said_to_run_again(said):
    late = Scripted("console")
    watched = Watched()
    watched.parts.start(late)
    watched.look()
    assert watched.parts.runs(late)
    assert said == []


def test_at_the_start_a_problem_is_an_error_at_once():
    good, bad = Scripted("good"), Scripted("new", is_good=False)
    watched = Watched(good)
    watched.parts.start(bad)
    with pytest.raises(ServerError, match=r"^the new ended$"):
        watched.parts.wait(bad)
    good.runs = False
    with pytest.raises(ServerError, match=r"^the good ended$"):
        watched.parts.start(Scripted("another"))


def test_the_last_part_ends_first_and_ctrl_c_meanwhile_kills_all():
    ended, killed = [], []
    watched = Watched(*map(Scripted, "abc"))
    for part in watched.parts:
        part.end = lambda name=part.name: ended.append(name)
    watched.parts.end()
    assert ended == ["c", "b", "a"]

    def interrupted():
        raise KeyboardInterrupt

    for part in watched.parts:
        part.end, part.kill = interrupted, lambda name=part.name: killed.append(name)
    with pytest.raises(KeyboardInterrupt):
        watched.parts.end()
    assert killed == ["a", "b", "c"]


def test_the_log_of_a_part_that_writes_without_end_is_shortened(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "MOST_LOG_BYTES", 1_000_000)
    monkeypatch.setattr(parts_module, "KEPT_LOG_BYTES", 10_000)
    log = tmp_path / "log"
    with kept_parts() as parts:
        parts.start(Part("writer", log, [sys.executable, "-c", WRITER], dict(os.environ), start_seconds=60))
        sizes = [0]
        wait_until(lambda: sizes.append(log.stat().st_size) or max(sizes) > 1_000_000)
        wait_until(lambda: parts.look() or log.stat().st_size < max(sizes))
    assert log.read_text().splitlines()[-1].startswith("line")


def test_a_part_whose_log_was_deleted_is_started_again(tmp_path, said):
    log = tmp_path / "log"
    with kept_parts() as parts:
        part = Part("sleeper", log, ["sleep", "60"], dict(os.environ), start_seconds=60)
        parts.start(part)
        parts.wait(part)
        wait_until(psutil.Process(part.supervisor.pid).children)  # otherwise there is nothing to kill
        log.unlink()
        part.kill()
        wait_until(lambda: parts.look() or "the sleeper runs again" in said)
    assert said[0] == f"the sleeper ended (exit code 137): see {log}: starting it again in 1 s"
    assert log.exists()


WRITER = """
import time
while True:
    print("line " * 1_000, flush=True)
    time.sleep(0.001)
"""
