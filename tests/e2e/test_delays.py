"""The real delays between attempts, which an upgrade of Prefect might change."""

import itertools
import json
from collections import defaultdict

import pytest

from support.store_rows import DELIVERIES

pytestmark = [pytest.mark.engine, pytest.mark.alone]

# Few failures among many deliveries: 6 failures in a row would look like an outage in the first second.
EVENTS = 5
# The seconds that a loaded machine may add between the end of a delay and the receiver's clock.
LATENESS = 0.6


def gaps_at_the_receiver(receiver) -> dict[str, list[float]]:
    times = defaultdict(list)
    for entry in receiver.journal:
        times[entry["webhook_id"]].append(entry["received_at"])
    return {event_id: [b - a for a, b in itertools.pairwise(moments)] for event_id, moments in times.items()}


def emit_events(machine, receiver, policy: dict) -> None:
    """Emit events of which every seventh fails, so that the endpoint's gate stays normal."""
    machine.variables["RESONANT_POLICIES"] = json.dumps({"measured": policy})
    events = [
        {"id": f"e{n}", "type": "fine" if n % 7 else "broken", "source": "/s", "data": n}
        for n in range(7 * EVENTS)
    ]
    emitted = machine.run(
        "emit", machine.write_events("e.jsonl", events), "--endpoint", receiver.url, "--allow-private",
        "--policy", "measured",
    )  # fmt: skip
    assert emitted.returncode == 1, emitted.stderr


def test_delays_that_pass_are_within_a_fifth_of_the_curve_and_all_different(machine, start_receiver):
    receiver = start_receiver("support.receiver_scripts:broken_for_some")

    emit_events(machine, receiver, {"max_attempts": 4, "base": 0.5, "factor": 2, "park_after": 60})

    gaps = {event_id: delays for event_id, delays in gaps_at_the_receiver(receiver).items() if delays}
    assert len(gaps) == EVENTS
    for delays in gaps.values():
        assert len(delays) == 3
        for backoff, passed in zip((0.5, 1.0, 2.0), delays, strict=True):
            assert 0.8 * backoff <= passed <= 1.2 * backoff + LATENESS
    drawn = machine.query(
        "SELECT number, delay, started_at, duration FROM resonant_attempts WHERE delay IS NOT NULL"
    )
    assert len({row["delay"] for row in drawn}) == 3 * EVENTS
    for row in drawn:
        assert abs(row["delay"] / (0.5 * 2 ** (row["number"] - 1)) - 1) <= 0.2


def test_the_delay_that_was_recorded_is_the_delay_that_passed(machine, start_receiver):
    receiver = start_receiver("support.receiver_scripts:broken_for_some")

    emit_events(
        machine, receiver, {"max_attempts": 3, "base": 1.0, "factor": 1, "jitter": "full", "park_after": 60}
    )

    passed = gaps_at_the_receiver(receiver)
    rows = machine.query(
        f"SELECT event_id, delay FROM resonant_attempts JOIN {DELIVERIES} ON deliveries.id = delivery_id"
        " WHERE delay IS NOT NULL ORDER BY number"
    )
    recorded = defaultdict(list)
    for row in rows:
        recorded[row["event_id"]].append(row["delay"])
    assert len(recorded) == EVENTS
    for event_id, delays in recorded.items():
        for delay, gap in zip(delays, passed[event_id], strict=True):
            assert delay <= gap <= delay + LATENESS


def test_a_retry_after_is_never_undercut(machine, start_receiver):
    receiver = start_receiver("support.receiver_scripts:asks_to_wait")
    machine.variables["RESONANT_POLICIES"] = json.dumps({"measured": {"base": 0.1, "factor": 1}})
    events = [{"id": f"e{n}", "type": "t", "source": "/s", "data": n} for n in range(3)]

    machine.do(
        "emit", machine.write_events("e.jsonl", events), "--endpoint", receiver.url, "--allow-private",
        "--policy", "measured",
    )  # fmt: skip

    delays = [delay for each in gaps_at_the_receiver(receiver).values() for delay in each]
    assert len(delays) == 3
    assert min(delays) >= 2.0
    assert len(set(delays)) == len(delays), "a bare floor would bring everybody back in the same instant"
