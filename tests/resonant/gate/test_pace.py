"""A pace is cut while more requests fail than at a lower pace; failures that do not depend on it change nothing."""

import pytest

from resonant.gate.pace import Pace
from support.gate_processes import DELIVERED, failed


def rate_after(answers):
    """Return the rate after these answers to two sends per second, which was the rate after a cut; `f` is a failure."""
    pace, now = Pace(2.0, 0.0, share_bad=0.5), 1.0
    for each in answers:
        pace.answered(now, failed() if each == "f" else DELIVERED, now + 0.01, 0)
        now += 0.5
    return pace.rate


def test_one_cut_without_effect_is_enough_if_a_second_shows_that_the_pace_is_not_the_cause():
    assert rate_after("ffaafaffaf" + "aa") > 3


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
