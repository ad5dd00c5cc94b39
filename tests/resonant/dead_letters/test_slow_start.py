"""The rate of a replay grows to the requested one, and never exceeds it by more than a fifth."""

import math
from bisect import bisect_left
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.dead_letters.slow_start import SLOW_START_SECONDS, SlowStart
from support.examples import examples

rates = st.floats(0.5, 2_000)


def sent_at(rate, seconds, *, late=()):
    """Ask as a replay does, with some of the pauses longer than asked; return when each dead letter was sent."""
    slow_start, now, sent, delays = SlowStart(rate), 0.0, [], iter(late)
    while now < seconds:
        sent += [now] * slow_start.take(now)
        now += slow_start.pause() + next(delays, 0.0)
    return sent


@settings(deadline=None, max_examples=examples(25))
@given(rates, st.lists(st.floats(0, 3), max_size=50))
def test_no_second_has_more_than_a_fifth_above_the_rate_however_late_the_calls_are(rate, late):
    sent = sent_at(rate, 25, late=late)
    for index, at in enumerate(sent):
        assert bisect_left(sent, at + 1 - 1e-6) - index <= max(math.ceil(rate) + 1, rate * 1.2)


@settings(deadline=None, max_examples=examples(25))
@given(rates)
def test_the_rate_grows_and_is_then_kept(rate):
    sent = sent_at(rate, SLOW_START_SECONDS + 60)
    after = [at for at in sent if at >= SLOW_START_SECONDS]
    assert abs(len(after) - 60 * rate) <= max(2, 0.05 * 60 * rate)

    per_second = [sum(second <= at < second + 1 for at in sent) for second in range(10)]
    assert per_second[0] <= 0.2 * rate + 1
    assert sum(per_second[:5]) <= 0.2 * 10 * rate + 1
    assert all(later >= earlier - 2 for earlier, later in pairwise(per_second))
    assert abs(sum(per_second) - 5.5 * rate) <= 0.05 * 5.5 * rate + 2


def test_a_delay_of_the_process_is_made_up():
    assert abs(len(sent_at(100, 60, late=[3])) - len(sent_at(100, 60))) <= 2


def test_a_rate_far_below_one_per_second_is_kept():
    assert len(sent_at(0.02, 1_000)) == 19
