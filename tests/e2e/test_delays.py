"""The real delays between attempts, which an upgrade of Prefect might change."""

import itertools
import json
from collections import defaultdict

import pytest

from support.store_rows import DELIVERIES

pytestmark = pytest.mark.engine

# Few failures among many deliveries: 6 failures in a row would look like an outage in the first second, and 5 of one type would
# hold it.
EVENTS = 4
POLICY = {"max_attempts": 4, "base": 0.5, "factor": 2, "park_after": 60}


def gaps_at_the_receiver(receiver) -> dict[str, list[float]]:
    times = defaultdict(list)
    for entry in receiver.journal:
        times[entry["webhook_id"]].append(entry["received_at"])
    return {event_id: [b - a for a, b in itertools.pairwise(moments)] for event_id, moments in times.items()}


def test_each_retry_waits_for_its_own_delay_within_a_fifth_of_the_curve(machine, start_receiver):
    receiver = start_receiver("support.receiver_scripts:broken_for_some")
    machine.variables["RESONANT_POLICIES"] = json.dumps({"measured": POLICY})
    # Every seventh fails, so that the endpoint's gate stays normal.
    events = [
        {"id": f"e{n}", "type": "fine" if n % 7 else "broken", "source": "/s", "data": n}
        for n in range(7 * EVENTS)
    ]

    machine.do(
        "emit", machine.write_events("e.jsonl", events), "--endpoint", receiver.url, "--allow-private",
        "--policy", "measured", code=1,
    )  # fmt: skip

    passed = {event_id: gaps for event_id, gaps in gaps_at_the_receiver(receiver).items() if gaps}
    recorded = defaultdict(list)
    for row in machine.query(
        f"SELECT event_id, delay FROM resonant_attempts JOIN {DELIVERIES} ON deliveries.id = delivery_id"
        " WHERE delay IS NOT NULL ORDER BY number"
    ):
        recorded[row["event_id"]].append(row["delay"])
    assert len(passed) == len(recorded) == EVENTS
    assert len({delay for delays in recorded.values() for delay in delays}) == 3 * EVENTS
    for event_id, delays in recorded.items():
        for backoff, delay, gap in zip((0.5, 1.0, 2.0), delays, passed[event_id], strict=True):
            assert abs(delay / backoff - 1) <= 0.2
            assert delay <= gap
    # A busy machine makes some of them late, but not all.
    assert min(gaps[-1] - recorded[event_id][-1] for event_id, gaps in passed.items()) < 1.5


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
