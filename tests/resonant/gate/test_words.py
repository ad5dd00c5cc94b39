"""An endpoint's gate in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resonant.gate.words import advice, described
from resonant.store.shared.gates import Gate

NOW = 10_000.0
PAUSED = Gate("orders", "paused", since=NOW - 720, reason="maintenance", paused_by="ann")
GONE = Gate("orders", "paused", since=NOW - 720, reason="it answered 410")
PROBING = Gate(
    "orders",
    "probing",
    since=NOW - 5,
    reason="20 failures in a row",
    failing_since=NOW - 720,
    probe_at=NOW + 12,
)
PACED = Gate(
    "orders",
    "paced",
    since=NOW - 20,
    reason="it answers 429",
    pace=4.25,
    pilot="p",
    pilot_until=NOW + 3,
)
PACED_WORDS = "paced for 20 s at 4.25 per second: it answers 429"
TOLD_WORDS = "for 4 min more, as its Retry-After requested"
TOLD = Gate("orders", not_before=NOW + 240)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate("orders"), "normal"),
        (Gate("orders", since=NOW - 60, reason="the pace no longer limits the sends"), "normal"),
        (PAUSED, "paused for 12 min by ann: maintenance; 1,234 held"),
        (GONE, "paused for 12 min: it answered 410; 1,234 held"),
        (PROBING, "probing for 12 min, after 20 failures in a row; next probe in 12 s; 1,234 held"),
        (PACED, f"{PACED_WORDS}; 1,234 held"),
        (replace(PACED, not_before=NOW + 240), f"{PACED_WORDS}; nothing is sent {TOLD_WORDS}; 1,234 held"),
        (TOLD, f"waiting {TOLD_WORDS}; 1,234 held"),
    ],
)
def test_a_gate_is_described_on_one_line(gate, expected):
    assert described(gate, held=1_234, now=NOW) == expected


def test_a_gate_that_holds_nothing_says_no_number():
    assert described(PAUSED, held=0, now=NOW) == "paused for 12 min by ann: maintenance"


def test_a_probe_waits_for_a_retry_after():
    gate = Gate("orders", "probing", since=NOW, probe_at=NOW + 1, not_before=NOW + 240)
    assert described(gate, held=0, now=NOW) == "probing for 0 s; next probe in 4 min"


def test_a_probe_that_is_due_waits_for_a_delivery():
    gate = Gate("orders", "probing", since=NOW, reason="it was resumed", probe_at=NOW)
    assert described(gate, held=2, now=NOW) == "probing for 0 s: it was resumed; a probe is due; 2 held"
    assert (
        described(gate, held=0, now=NOW) == "probing for 0 s: it was resumed; the next delivery is the probe"
    )


@pytest.mark.parametrize(("gate", "after"), [(PROBING, 73.0), (PACED, 64.0)])
def test_a_gate_that_no_run_looks_after_says_so_if_it_holds_deliveries(gate, after):
    said = "no run is sending to it: start `resonant emit`"
    assert described(gate, held=1, now=NOW + after).endswith(f"; 1 held; {said}")
    assert said not in described(gate, held=0, now=NOW + after)
    assert said not in described(gate, held=1, now=NOW + after - 10)


def test_a_clock_that_was_put_back_shows_no_negative_time():
    assert described(PAUSED, held=0, now=NOW - 3_600) == "paused for 0 s by ann: maintenance"


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate("orders"), ""),
        (PAUSED, "`resonant endpoint resume orders` sends again"),
        (
            GONE,
            "if the endpoint is gone for good, remove it (`resonant endpoint remove orders`) and cancel its",
        ),
        (PROBING, "repair the receiver: once a probe succeeds, the deliveries are sent;"),
        (PACED, "nothing: the pace grows while the endpoint keeps up"),
        (TOLD, "nothing: the endpoint requested this pause, and the deliveries are sent afterwards"),
    ],
)
def test_the_advice_says_what_an_operator_does(gate, expected):
    assert advice(gate, NOW).startswith(expected)
    assert bool(advice(gate, NOW)) == bool(expected)
