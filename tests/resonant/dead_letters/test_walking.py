"""Long operations go in short steps."""

import pytest

from resonant.dead_letters.walking import next_size


@pytest.mark.parametrize(
    ("size", "seconds", "following"),
    [(100, 0.6, 50), (100, 0.0, 200), (4_000, 0.001, 5_000), (5_000, 0.1, 3_000)],
)
def test_the_size_of_a_transaction_follows_the_duration_of_the_last_one(size, seconds, following):
    assert next_size(size, seconds) == following
