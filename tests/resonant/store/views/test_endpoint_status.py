"""The status of each endpoint; the simulation compares its counts with the rows."""

import pytest

from resonant.delivery.retry import GiveUp
from resonant.gate.pausing import pause
from resonant.store.shared.gates import Gate
from resonant.store.views.endpoint_status import governed

MINUTE = 60.0


def of(desk, name, **options):
    [found] = [each for each in desk.status(**options).endpoints if each.name == name]
    return found


@pytest.mark.parametrize("is_compacted", [False, True])
def test_the_last_hour_counts_deliveries_and_failed_attempts(desk, is_compacted):
    desk.enqueue("evt_before")
    desk.deliver(desk.claim_one())
    desk.clock.advance(70 * MINUTE)
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim(2)
    desk.deliver(first)
    desk.fail(second, desk.park_for(1))
    desk.clock.advance(10)
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    desk.enqueue("evt_crm", endpoint="crm")
    if is_compacted:
        desk.clock.advance(10 * MINUTE)
        desk.run(desk.store.compact())

    orders, crm = of(desk, "orders"), of(desk, "crm")

    assert (orders.delivered_last_hour, orders.failed_last_hour) == (1, 2)
    assert (crm.delivered_last_hour, crm.failed_last_hour) == (0, 0)
    desk.clock.advance(61 * MINUTE)
    assert (of(desk, "orders").delivered_last_hour, of(desk, "orders").failed_last_hour) == (0, 0)


def test_the_last_hour_follows_each_minute_of_a_process_that_reads_again_and_again(desk):
    ended = []
    for step in range(20):
        desk.enqueue(f"evt_{step}", endpoint="crm" if step % 3 else "orders")
        [lease] = desk.claim(endpoint="crm" if step % 3 else "orders")
        desk.deliver(lease)
        ended.append((lease.endpoint, desk.clock() // MINUTE * MINUTE))
        if step % 2:
            desk.fold()
        if step % 5 == 4:
            desk.run(desk.store.compact())
        desk.clock.advance(step % 4 * 3 * MINUTE)

        since = int(desk.clock() - 60 * MINUTE)
        for name in {endpoint for endpoint, _ in ended}:
            expected = sum(endpoint == name and minute >= since for endpoint, minute in ended)
            assert of(desk, name).delivered_last_hour == expected, (step, name)


def test_due_deliveries_are_held_while_the_gate_governs(desk):
    desk.enqueue("evt_parked", "evt_due_1", "evt_due_2")
    desk.fail(desk.claim_one(), desk.park_for(300))
    desk.enqueue("evt_1", endpoint="billing")
    assert (desk.status().held, of(desk, "orders").held) == (0, 0)

    desk.run(pause(desk.store, "orders", who="ann"))

    orders = of(desk, "orders")
    assert (orders.due, orders.held, orders.gate.state) == (2, 2, "paused")
    assert (of(desk, "billing").held, of(desk, "billing").gate) == (0, Gate("billing"))
    assert desk.status().held == desk.status(endpoint="orders").held == 2
    assert desk.status(endpoint="billing").held == 0


def test_the_governed_endpoints_are_those_of_the_status_also_without_deliveries(desk):
    desk.enqueue("evt_1", "evt_2")
    desk.claim_one()
    desk.enqueue("evt_3", endpoint="billing")
    desk.enqueue("evt_4", endpoint="crm")
    for name in ("billing", "orders", "unused"):
        desk.run(pause(desk.store, name, who="ann"))

    found = desk.read(governed, now=desk.clock())

    expected = [("billing", 1), ("orders", 1), ("unused", 0)]
    assert [(each.gate.endpoint, each.held) for each in found] == expected
    assert found == desk.status().governed
    assert of(desk, "unused").gate.paused_by == "ann"
    assert [each.name for each in desk.status(endpoint="crm").endpoints] == ["crm"]


def test_the_oldest_of_the_backlog_and_of_new_events_are_apart(desk):
    start = desk.clock()
    desk.enqueue("evt_1")
    assert desk.status().oldest_due == (None, start), "all are new"
    desk.clock.advance(6 * MINUTE)
    assert desk.status().oldest_due == (start, None)
    desk.enqueue("evt_2", "evt_3")
    desk.enqueue("evt_4", endpoint="crm")
    new_at = desk.clock()
    desk.clock.advance(1)
    assert (of(desk, "orders").oldest_due, of(desk, "crm").oldest_due) == ((start, new_at), (None, new_at))
    assert desk.status().oldest_due == (start, new_at)
