"""Which runs use a rotation of an endpoint's signing secret."""

from __future__ import annotations

from resonant.store.shared import signers
from resonant.store.shared.signers import LIVE_SECONDS

OLD, NEW = 1_000.0, 2_000.5


def behind(desk, *, endpoint: str = "billing", now: float = 10.0) -> int:
    return desk.read(signers.behind, endpoint, NEW, now=now)


def test_a_run_is_behind_until_it_reports_the_rotation(desk):
    desk.write(signers.report, "run-1", {"billing": None, "shop": OLD}, now=1.0)
    desk.write(signers.report, "run-2", {"billing": OLD}, now=1.0)
    assert behind(desk) == 2

    desk.write(signers.report, "run-1", {"billing": NEW, "shop": OLD}, now=2.0)
    desk.write(signers.report, "run-2", {"billing": NEW}, now=2.0)
    assert behind(desk) == 0
    assert behind(desk, endpoint="shop") == 1


def test_a_run_that_ended_or_is_silent_for_long_does_not_count(desk):
    desk.write(signers.report, "run-1", {"billing": OLD}, now=1.0)
    desk.write(signers.report, "run-2", {"billing": OLD}, now=5.0)
    assert behind(desk, now=1.0 + LIVE_SECONDS) == 1

    desk.write(signers.leave, "run-2", now=6.0)
    assert behind(desk, now=6.0) == 1
    assert behind(desk, now=6.0 + LIVE_SECONDS) == 0


def test_what_killed_runs_left_behind_is_removed_by_others(desk):
    desk.write(signers.report, "killed", {"billing": OLD}, now=1.0)
    desk.write(signers.leave, "another", now=10_000.0)
    assert desk.read(signers.behind, "billing", NEW, now=2.0) == 0
