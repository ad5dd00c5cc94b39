"""Policies and decisions for tests."""

import random
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st

from resonant.delivery.retry import RetryPolicy, decide
from resonant.delivery.verdict import Verdict

NOW = 1_769_860_800.0
JITTERS = ("proportional", "full", "equal", "decorrelated", "none")
TRANSIENT = Verdict("transient", "http_503")
STEADY = RetryPolicy(jitter="none")
unhurried = settings(deadline=None)


def with_retry_after(seconds, verdict=TRANSIENT):
    return replace(verdict, retry_after=seconds)


def decide_now(verdict=TRANSIENT, attempt=1, policy=STEADY, rng=None, *, age=0.0, **options):
    """Decide on a failure at NOW in a round that is this many seconds old."""
    rng = rng or random.Random(7)
    return decide(verdict, attempt, policy, rng, NOW, round_started_at=NOW - age, **options)


class CountingRandom(random.Random):
    draws = 0

    def random(self):
        self.draws += 1
        return super().random()


curves = st.builds(
    RetryPolicy,
    base=st.just(0) | st.floats(1e-3, 1e4),
    factor=st.integers(1, 5) | st.floats(1, 10),
    cap=st.just(0) | st.floats(1e-3, 1e5),
    jitter=st.sampled_from(JITTERS),
    spread=st.floats(0, 0.99),
    max_age=st.floats(0, 2e5),
    park_after=st.floats(0, 2e5),
)
listed = st.builds(
    RetryPolicy,
    delays=st.lists(st.floats(0, 1e4), min_size=12, max_size=20),
    jitter=st.sampled_from([each for each in JITTERS if each != "decorrelated"]),
    spread=st.floats(0, 0.99),
    max_age=st.floats(4e5, 1e6),
    park_after=st.floats(0, 2e5),
)
policies = curves | listed
