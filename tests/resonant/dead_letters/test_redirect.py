"""A replay to another endpoint accepts new deliveries of the same events; the dead letters stay, with a note.

The simulation checks each row, and the balance.
"""

import asyncio

import pytest

from resonant.dead_letters.replay import ReplayPlan, ReplayRequest, plan, take_dead_letters
from resonant.delivery.retry import GiveUp
from resonant.errors import EmptySelection, EndpointError
from resonant.store import schema
from resonant.store.audit import read_audit
from resonant.store.views.selection import Selection
from support.desk import take

TO_CRM = {"selection": Selection(), "everything": True, "to": "crm"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """A replay takes few dead letters at once."""
    monkeypatch.setattr("resonant.dead_letters.replay._UNPACED_BATCH", 20)


def notes(desk):
    return {(each.event_id, each.endpoint): each.replayed_to for each in desk.run(desk.store.dead_letters())}


def test_the_events_get_deliveries_of_their_own_and_the_dead_letters_a_note(desk):
    desk.enqueue("evt_1", "evt_2", policy="classic", max_attempts=7)
    for lease in desk.claim():
        desk.fail(lease, GiveUp("exhausted"))
    webhook_ids = {row["id"]: row["webhook_id"] for row in desk.rows(schema.events)}
    desk.clock.advance(1)

    taken = desk.replay(to="crm")

    assert [lease.event.id for lease in taken.leases] == ["evt_1", "evt_2"]
    for lease in taken.leases:
        assert (lease.policy, lease.max_attempts) == ("classic", 7), "as the producer asked"
        assert (lease.attempts, lease.round) == (0, 1)
        assert lease.accepted_at == lease.round_started_at == desk.clock()
    assert {lease.event.id: lease.event.webhook_id for lease in taken.leases} == webhook_ids
    desk.deliver(*taken.leases)
    assert desk.delivery("evt_1", "crm").status == "delivered"
    assert desk.delivery("evt_1", "crm").attempts == 1
    assert notes(desk) == {("evt_1", "orders"): "crm", ("evt_2", "orders"): "crm"}
    assert desk.delivery("evt_1").replayed_to == "crm"
    status = desk.status()
    assert (status.accepted, status.dead_letter, status.delivered, status.balanced) == (4, 2, 2, True)


def test_each_dead_letter_of_an_event_gets_the_note_even_if_a_later_batch_would_have_it(desk):
    desk.bury("evt_1", apart=1)
    desk.bury(*(f"evt_{number}" for number in range(2, 25)))
    desk.bury("evt_1", endpoint="audit", apart=1)
    desk.bury("evt_2", endpoint="audit", reason="permanent", category="permanent", apart=1)
    desk.clock.advance(1)

    taken = desk.run(take(desk, ReplayRequest(**TO_CRM)))

    assert sorted(taken) == sorted(f"evt_{number}" for number in range(1, 25))
    unnoted = [key for key, note in notes(desk).items() if note is None]
    assert unnoted == [("evt_2", "audit")], "the selection does not contain it"


def test_events_that_the_endpoint_has_a_delivery_of_are_skipped_and_counted(desk):
    desk.bury("evt_1", "evt_2", "evt_3", apart=1)
    desk.bury("evt_4", endpoint="crm", apart=1)
    desk.enqueue("evt_2", endpoint="crm")
    desk.bury("evt_1", endpoint="audit", apart=1)

    planned = desk.run(plan(desk.store, ReplayRequest(**TO_CRM)))
    assert planned == ReplayPlan(selected=2, permanent=0, beyond_limit=0, existing=2, to="crm")
    assert str(planned) == "2 would be sent to crm; 2 skipped because crm already has a delivery of the event"

    assert desk.run(take(desk, ReplayRequest(**TO_CRM))) == ["evt_1", "evt_3"]
    assert notes(desk)["evt_4", "crm"] is None
    assert desk.run(plan(desk.store, ReplayRequest(**TO_CRM))) == ReplayPlan(0, 0, 0, 4, "crm")
    assert desk.run(take(desk, ReplayRequest(**TO_CRM))) == [], "the same replay again sends nothing"
    counts = [(entry.count, entry.selection["to"]) for entry in desk.read(read_audit)]
    assert sorted(counts) == [(0, "crm"), (2, "crm")]


def test_permanent_ones_and_those_beyond_the_limit_are_left_out(desk):
    desk.bury("evt_bad", reason="permanent", category="permanent", code="http_400", apart=1)
    desk.bury("evt_1", "evt_2", apart=1)

    request = ReplayRequest(**TO_CRM, limit=1)

    assert desk.run(plan(desk.store, request)) == ReplayPlan(1, 1, 1, 0, "crm")
    assert desk.run(take(desk, request)) == ["evt_1"]
    assert desk.run(take(desk, ReplayRequest(**TO_CRM, include_permanent=True))) == ["evt_bad", "evt_2"]


def test_the_endpoint_of_the_dead_letters_and_an_empty_selection_are_refused():
    with pytest.raises(EndpointError, match="to send them to it again, leave out `to`"):
        ReplayRequest(Selection(endpoint="crm"), to="crm")
    with pytest.raises(EmptySelection):
        ReplayRequest(Selection(), to="crm")


def test_a_killed_replay_loses_nothing_and_goes_on_with_the_rest(desk):
    desk.bury(*(f"evt_{number}" for number in range(30)))
    desk.clock.advance(1)

    async def take_one_batch():
        request = ReplayRequest(**TO_CRM)
        return await anext(take_dead_letters(desk.store, request, owner="killed", audit_id=0))

    assert len(desk.run(take_one_batch())) == 20
    assert len(desk.run(take(desk, ReplayRequest(**TO_CRM)))) == 10
    desk.clock.advance(desk.store.lease_seconds + 1)
    desk.rescue()
    assert len(desk.claim(200, endpoint="crm")) == 30, "its deliveries are due once its leases have expired"
    assert desk.status().balanced


def test_two_replays_to_one_endpoint_at_once_send_each_event_once(open_desk, store_url):
    desk, other = open_desk(store_url), open_desk(store_url)
    names = [f"evt_{number}" for number in range(70)]
    desk.bury(*names)
    desk.bury(*names, endpoint="audit")
    desk.clock.advance(1)

    async def both():
        replays = [ReplayRequest(Selection(endpoint=name), to="crm") for name in ("orders", "audit")]
        return await asyncio.gather(take(desk, replays[0]), take(other, replays[1]))

    one, two = desk.run(both())
    assert sorted(one + two) == sorted(names)
    assert desk.status().balanced
