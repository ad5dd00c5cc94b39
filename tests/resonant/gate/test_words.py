"""An endpoint's gate in words."""

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
    reason="20 failures in a row, last failure: http 503",
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
RESUMED = Gate("orders", "probing", since=NOW, reason="it was resumed", probe_at=NOW)
PACED_WORDS = "paced for 20 s at 4.25 per second: it answers 429"
WAITING = Gate("orders", not_before=NOW + 240)
WAITING_WORDS = "for 4 min more, as its Retry-After requested"


@pytest.mark.parametrize(
    ("gate", "held", "expected"),
    [
        (Gate("orders"), 1_234, "normal"),
        (Gate("orders", since=NOW - 60, reason="the pace no longer limits the sends"), 1_234, "normal"),
        (Gate("orders", not_before=NOW), 1_234, "normal"),
        (PAUSED, 1_234, "paused for 12 min by ann: maintenance; 1,234 held"),
        (PAUSED, 0, "paused for 12 min by ann: maintenance"),
        (GONE, 3, "paused for 12 min: it answered 410; 3 held"),
        (
            PROBING,
            3,
            "probing for 12 min, after 20 failures in a row, last failure: http 503; next probe in 12 s; 3 held",
        ),
        (PACED, 3, f"{PACED_WORDS}; 3 held"),
        (replace(PACED, not_before=NOW + 240), 3, f"{PACED_WORDS}; nothing is sent {WAITING_WORDS}; 3 held"),
        (WAITING, 3, f"waiting {WAITING_WORDS}; 3 held"),
        (replace(PROBING, not_before=NOW + 240, reason=None), 0, "probing for 12 min; next probe in 4 min"),
        (RESUMED, 2, "probing for 0 s: it was resumed; a probe is due; 2 held"),
        (RESUMED, 0, "probing for 0 s: it was resumed; the next delivery is the probe"),
        # The clock was set back.
        (replace(PAUSED, since=NOW + 3_600), 0, "paused for 0 s by ann: maintenance"),
    ],
)
def test_a_gate_is_described_on_one_line(gate, held, expected):
    assert described(gate, held=held, now=NOW) == expected


@pytest.mark.parametrize(("gate", "after"), [(PROBING, 73.0), (PACED, 64.0)])
def test_a_gate_without_a_run_says_so_if_it_holds_deliveries(gate, after):
    said = "no run is sending to it: start `resonant up`"
    assert described(gate, held=1, now=NOW + after).endswith(f"; 1 held; {said}")
    assert said not in described(gate, held=0, now=NOW + after)
    assert said not in described(gate, held=1, now=NOW + after - 10)


@pytest.mark.parametrize("gate", [PROBING, RESUMED, PACED], ids=["probing", "due", "paced"])
def test_without_a_run_no_probe_is_promised(gate):
    said = described(gate, held=3, now=NOW, is_sent=False)
    assert said.endswith("; 3 held; no run is sending to it: start `resonant up`")
    assert "probe" not in said.replace("probing", "")
    assert "next" not in described(gate, held=0, now=NOW, is_sent=False)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate("orders"), ""),
        (PAUSED, "`resonant endpoint resume orders` sends again"),
        (
            GONE,
            "if the endpoint is gone for good, remove it (`resonant endpoint remove orders`) and cancel its",
        ),
        (PROBING, "repair the receiver: once a probe of a run succeeds, the deliveries are sent;"),
        (PACED, "nothing: the pace grows while the endpoint keeps up"),
        (WAITING, "nothing: the endpoint requested this pause, and the deliveries are sent afterwards"),
    ],
)
def test_the_advice_is_the_operators_next_step(gate, expected):
    assert advice(gate, NOW).startswith(expected)
    assert bool(advice(gate, NOW)) == bool(expected)
