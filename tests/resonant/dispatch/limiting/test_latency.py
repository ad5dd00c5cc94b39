"""The limit of an endpoint while its answers take longer than usual."""

import pytest

from resonant.dispatch.limiting.latency import LatencyLimit

MOST = 50


class Endpoint:
    """An endpoint whose answers come ten times a second."""

    def __init__(self, *, usual, for_seconds=300):
        self.limit = LatencyLimit(MOST)
        self._now = 1000.0
        self.answers(usual, for_seconds)

    def answers(self, latency, for_seconds, *, has_failed=False):
        """Return the limit after so many seconds of this latency."""
        for _ in range(round(10 * for_seconds)):
            self._now += 0.1
            self.limit.note_answer(latency, self._now, has_failed=has_failed)
        return self.limit.limit(0.0)


@pytest.mark.parametrize(
    ("usual", "latency", "limit"),
    [(0.2, 0.2, 50), (0.2, 0.4, 50), (0.2, 0.8, range(25, 33)), (0.2, 8.0, range(4, 10)), (0.001, 0.1, 50)],
)
def test_the_limit_falls_as_latency_rises_above_its_usual_level(usual, latency, limit):
    assert Endpoint(usual=usual).answers(latency, 3) in (limit if isinstance(limit, range) else [limit])


def test_the_limit_returns_with_the_latency_and_when_the_longer_latency_becomes_usual():
    endpoint = Endpoint(usual=0.2)
    assert endpoint.answers(2.0, 3) < 20
    assert endpoint.answers(0.2, 3) == MOST
    assert endpoint.answers(2.0, 3) < 20
    assert endpoint.answers(2.0, 180) == MOST


def test_sends_without_an_answer_lower_the_limit_while_they_wait():
    limit = Endpoint(usual=0.01).limit
    assert [limit.limit(waited) for waited in (0.1, 0.5, 1.0, 15.0)] == [50, 10, 5, 4]


def test_before_the_first_answer_and_with_a_small_configured_limit_nothing_falls():
    assert LatencyLimit(MOST).limit(15.0) == MOST
    small = LatencyLimit(2)
    small.note_answer(0.01, 0.0, has_failed=False)
    assert small.limit(15.0) == 2


def test_quick_failures_do_not_change_what_is_usual_and_slow_ones_lower_the_limit():
    endpoint = Endpoint(usual=1.0)
    assert endpoint.answers(0.001, 600, has_failed=True) == MOST
    assert endpoint.answers(2.0, 3) == MOST
    assert endpoint.answers(15.0, 3, has_failed=True) < 20
