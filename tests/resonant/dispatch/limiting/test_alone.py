"""The number of deliveries that a run sends alone; it sends the others in chunks."""

import pytest

from resonant.dispatch.limiting.alone import SentAlone


@pytest.mark.parametrize(
    ("starts", "alone"),
    [
        ([(0.0, 60), (0.5, 40)], [60, 40]),
        ([(0.0, 60), (0.5, 60)], [60, 40]),
        ([(0.0, 300)], [100]),
        ([(0.0, 100), (0.99, 1), (1.0, 99)], [100, 0, 99]),
        ([(0.1 * n, 10) for n in range(40)], [10] * 40),
        ([(n / 11, 10) for n in range(40)], [10] * 10 + [0] * 30),
    ],
    ids=["few", "surplus", "a large claim", "after a second", "a steady rate", "a steady rate above it"],
)
def test_up_to_a_number_per_second_are_sent_alone(starts, alone):
    budget = SentAlone(100)
    assert [budget.start(count, now) for now, count in starts] == alone


def test_none_is_sent_alone_while_a_backlog_lasts():
    budget = SentAlone(100)
    budget.start(500, 0.0)
    assert [budget.start(200, 0.2 * n) for n in range(1, 20)] == [0] * 19
    assert budget.start(5, 4.81) == 5


def test_deliveries_that_are_not_finished_after_a_second_still_count():
    budget = SentAlone(100)
    budget.start(100, 0.0)
    assert [budget.start(50, 1.0 + n, waiting=busy) for n, busy in enumerate((100, 70, 0))] == [0, 30, 50]


def test_the_bulk_lane_sends_none_alone():
    assert SentAlone(0).start(10, 0.0) == 0
