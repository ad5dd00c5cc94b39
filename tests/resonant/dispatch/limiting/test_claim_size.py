"""The number of deliveries that a run claims ahead of their sends."""

import pytest

from resonant.dispatch.limiting.ahead import FIRST_ALONE, FIRST_CHUNK, FIRST_CLAIM, ClaimSize

FAIR, MOST = 12, 1_000


def claim(size, now, *, finished, busy=0, is_alone=False, is_behind=False):
    wanted = size.next(now, finished, busy, fair=FAIR, most=MOST, is_alone=is_alone, is_behind=is_behind)
    size.note_claim(now, finished, wanted)
    return wanted


def test_the_first_claim_beside_others_is_small_until_a_delivery_is_finished():
    size = ClaimSize()
    assert [claim(size, now, finished=0) for now in (0.0, 1.0, 2.0)] == [FIRST_CLAIM] * 3
    assert claim(size, 3.0, finished=1) == FAIR


@pytest.mark.parametrize(
    ("first", "is_alone", "is_behind", "size"),
    [
        (FIRST_CLAIM, True, False, FIRST_ALONE),
        # Slow answers must not leave slots free, and new events wait for what is claimed.
        (FIRST_CLAIM, True, True, FAIR),
        (FIRST_CHUNK, False, False, min(FIRST_CHUNK, MOST)),
    ],
    ids=["the only endpoint", "the only endpoint, behind", "a chunk"],
)
def test_the_first_claim_lasts_until_answers_are_known(first, is_alone, is_behind, size):
    assert claim(ClaimSize(first), 0.0, finished=0, is_alone=is_alone, is_behind=is_behind) == size


def test_claims_grow_while_they_are_finished_quickly():
    size, finished, sizes = ClaimSize(), 4, []
    for number in range(9):
        sizes.append(claim(size, 0.1 * number, finished=finished, busy=finished // 2))
        finished += sizes[-1]
    assert sizes == [12, 24, 48, 96, 192, 384, 768, 1_000, 1_000]


def test_claims_grow_if_nothing_is_left_at_the_next_one_even_if_that_comes_late():
    size = ClaimSize()
    first = claim(size, 0.0, finished=4)
    assert claim(size, 5.0, finished=4 + first, busy=0) == 2 * first


def test_claims_that_last_long_do_not_grow_behind_an_old_backlog():
    size, finished = ClaimSize(), 4
    for number in range(5):
        finished += claim(size, 5.0 * number, finished=finished, busy=1, is_behind=True)
        assert finished <= 4 + FAIR * (number + 1)


def test_claims_shrink_to_the_fair_size_if_they_last_long():
    size, finished = ClaimSize(), 4
    for number in range(5):
        finished += claim(size, 0.1 * number, finished=finished)
    sizes = [claim(size, 10.0 * number, finished=finished + number, busy=50) for number in range(1, 8)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == FAIR


@pytest.mark.parametrize(("finished", "most"), [(0, FAIR // 4), (1, FAIR // 2)])
def test_more_is_claimed_once_half_of_a_claim_is_left_or_a_quarter_if_none_is_finished(finished, most):
    size = ClaimSize()
    claim(size, 0.0, finished=1)
    assert [size.is_used_up(finished, busy) for busy in (most, most + 1)] == [True, False]
