"""Deliveries in a state that no operation produces: they must not end the runs that claim them."""

import pytest
from sqlalchemy import update

from resonant.delivery.retry import GiveUp
from resonant.store import schema

_d = schema.deliveries


def change(desk, event_id, **values):
    """Write into a row, as a defect or an operator's SQL would."""
    desk.execute(update(_d).where(_d.c.id == desk.row(event_id)["id"]).values(values))


@pytest.fixture
def undated(desk):
    """Two due deliveries; the first has no due time of its own."""
    desk.enqueue("evt_1")
    desk.clock.advance(1)
    desk.enqueue("evt_2")
    change(desk, "evt_1", next_attempt_at=None)
    return desk


def ids(leases):
    return [lease.event.id for lease in leases]


def test_a_claim_leaves_out_a_delivery_without_a_due_time_and_makes_it_due(undated, caplog):
    assert ids(undated.claim()) == ["evt_2"]

    assert caplog.messages == [
        "repaired 1 delivery (event 'evt_1' to orders): unfinished, but had no due time"
    ]
    row = undated.row("evt_1")
    assert (row["next_attempt_at"], row["available_at"]) == (undated.clock(), undated.clock())
    assert ids(undated.claim()) == ["evt_1"]
    assert undated.status().balanced


@pytest.mark.parametrize("begins", [False, True])
def test_a_rescue_makes_a_lost_delivery_without_a_due_time_due(desk, begins):
    desk.enqueue("evt_1", "evt_2")
    leases = desk.claim()
    if begins:
        desk.begin(*leases)
    change(desk, "evt_1", next_attempt_at=None)
    desk.clock.advance(61)

    assert desk.rescue() == 2

    assert desk.row("evt_1")["lease_owner"] is None
    assert sorted(ids(desk.claim())) == ["evt_1", "evt_2"]
    assert desk.record(desk.delivered(leases[0])) == set(), "the lost worker's token is too old"


@pytest.fixture
def claimable_dead_letter(desk):
    """A dead letter that a defect made due."""
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), GiveUp("permanent"))
    change(desk, "evt_1", available_at=desk.clock())
    return desk


def check_is_still_final(desk):
    row = desk.row("evt_1")
    assert (row["status"], row["available_at"], row["lease_owner"]) == ("dead_letter", None, None)
    assert desk.status().balanced
    assert desk.claim() == []


def test_a_dead_letter_that_could_be_claimed_stays_a_dead_letter(claimable_dead_letter, caplog):
    assert claimable_dead_letter.claim() == []

    assert caplog.messages == ["repaired 1 delivery (event 'evt_1' to orders): final, but could be claimed"]
    check_is_still_final(claimable_dead_letter)


def test_a_rescue_ends_the_lease_of_a_dead_letter(claimable_dead_letter):
    change(claimable_dead_letter, "evt_1", lease_owner="gone", sending=True)

    assert claimable_dead_letter.rescue() == 1

    check_is_still_final(claimable_dead_letter)
    assert len(claimable_dead_letter.history("evt_1")) == 1
