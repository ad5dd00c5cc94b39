"""A pace is cut while more requests fail than at a lower pace; failures that do not depend on it change nothing."""

from dataclasses import replace

import pytest

from resonant.gate.pace import Pace
from resonant.gate.permission import SEND
from support.gate_processes import DELIVERED, failed


def rate_after(answers):
    """Return the rate after these answers to two sends per second, which was the rate after a cut; `f` is a failure."""
    pace, now = Pace(2.0, 0.0, share_bad=0.5), 1.0
    for each in answers:
        pace.answered(now, failed() if each == "f" else DELIVERED, now + 0.01)
        now += 0.5
    return pace.rate


def rates(seconds, *, fails, rate=20.0):
    """Return the rate after each second of a pace that doubles; ``fails`` has the rate, and the number of the send."""
    pace, found, sent = Pace(rate, 0.0), [], 0
    for n in range(seconds * 1000):
        now = n / 1000
        if pace.may_send(now) == SEND:
            sent += 1
            pace.answered(now, failed() if fails(pace.rate, sent) else DELIVERED, now)
        if n % 1000 == 999:
            found.append(pace.rate)
    return found


def test_failures_that_do_not_depend_on_the_pace_cost_two_cuts():
    found = rates(18, fails=lambda _, sent: sent % 2)
    assert min(found) == pytest.approx(5, rel=0.1)
    assert max(found) > 50


def test_a_limit_is_found_and_kept():
    found = rates(12, fails=lambda rate, sent: rate > 40 and sent % 3 == 0)
    assert max(found[3:]) <= 44


def test_the_rate_is_at_most_twice_the_requests_accepted_in_a_second():
    pace = Pace(1.0, 0.0)
    for second in range(10):
        pace.answered(second, DELIVERED, second)
    assert pace.rate <= 2


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param("afafafafaf", id="a limit of one per second"),
        pytest.param("aaffffaafa", id="an endpoint that is down now and then"),
        pytest.param("aafaaffaaa", id="a token bucket that is a little slower than the pace"),
    ],
)
def test_a_cut_without_effect_is_repeated(answers):
    assert rate_after(answers) < 1.5


def test_a_late_answer_after_a_cut_is_counted():
    pace, now = Pace(50.0, 0.0), 0.0
    while pace.rate >= 50:
        now += 0.02
        pace.answered(now, DELIVERED if now < 3 else failed(), now)
    pace.answered(1.0, replace(DELIVERED, duration=2.0), now)
    for n in range(300):
        pace.answered(now + n / 20, DELIVERED, now + n / 20)
    assert pace.rate > 40


def test_an_answer_to_a_send_from_before_the_clock_was_set_back_does_not_stop_the_growth():
    pace = Pace(1.0, 100.0)
    pace.answered(3_700.0, DELIVERED, 100.0)
    for n in range(100):
        pace.answered(101 + n / 10, DELIVERED, 101 + n / 10)
    assert pace.rate > 10


def test_a_500_neither_raises_nor_cuts_the_pace():
    pace = Pace(10.0, 0.0)
    for n in range(100):
        pace.answered(n / 10, failed(500, delivery_id=n), n / 10)
    assert pace.rate == 10
