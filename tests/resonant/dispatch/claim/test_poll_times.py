"""When a run looks for due deliveries."""

import pytest

from resonant.dispatch.claim.poll_times import POLL_SECONDS, PollTimes

NOW = 100.0


def regular(seconds, *, is_busy=False, with_chunks=False, planned=float("inf"), idle_seconds=POLL_SECONDS):
    """Return in how many seconds the next regular poll takes place if a delivery is due in this many seconds."""
    times = PollTimes(idle_seconds, regular=planned)
    found = times.looking_in(seconds, NOW, is_busy=is_busy, with_chunks=with_chunks)
    return pytest.approx(found.regular - NOW)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((0.1, 0.1), {}),
        ((0.0, 0.02), {}),
        ((9.0, POLL_SECONDS), {}),
        ((0.0, 0.05), {"with_chunks": True}),
        # Otherwise each retry would get its own chunk.
        ((0.0, POLL_SECONDS), {"with_chunks": True, "is_busy": True}),
        ((9.0, 2.0), {"idle_seconds": 2.0}),
        ((9.0, POLL_SECONDS), {"idle_seconds": 2.0, "is_busy": True}),
        ((9.0, 0.01), {"planned": NOW + 0.01}),
    ],
    ids=["due", "due now", "later", "chunk", "busy chunk", "slow polls", "slow polls, busy", "planned"],
)
def test_a_run_looks_when_a_delivery_is_due(given, options):
    seconds, wait = given
    assert regular(seconds, **options) == wait


def test_polls_take_a_small_share_of_the_time():
    once = PollTimes(POLL_SECONDS).after_poll(NOW, 0.05, needs_poll=False)
    assert once.idle_seconds == POLL_SECONDS, "one slow poll may be chance"
    twice = once.after_poll(NOW, 0.05, needs_poll=False)
    assert twice.idle_seconds == pytest.approx(1.0)
    assert twice.after_poll(NOW, 0.05, needs_poll=True).idle_seconds == POLL_SECONDS
    assert (twice.of_early(is_sending=True) - NOW, twice.of_early(is_sending=False) - NOW) == (
        pytest.approx(2.5),
        pytest.approx(0.5),
    )


def test_a_poll_ends_the_rest_after_claims_without_room():
    times = PollTimes(POLL_SECONDS, rest_until=NOW + 1)
    assert times.after_poll(NOW, 0.0, needs_poll=False).rest_until == 0.0
