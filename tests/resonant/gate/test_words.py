"""An endpoint's gate in words."""

from dataclasses import replace

import pytest

from resonant.delivery.failure_tables import CLIENT_CERTIFICATE_REFUSED, RANKED
from resonant.gate.words import advice, described
from resonant.store.shared.gates import Gate
from support.advice import named_commands

NOW = 10_000.0
CODES = {verdict.code for _, verdict in RANKED.values()} | {CLIENT_CERTIFICATE_REFUSED.code}
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


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("endpoint error", "`resonant endpoint update orders --ca-file FILE`"),
        (
            "tls client certificate",
            "`resonant endpoint update orders --client-cert FILE --client-key FILE`",
        ),
        ("tls certificate", "`resonant endpoint update orders --ca-file FILE`"),
        ("address refused", "--allow-private"),
        ("dns not found", "`resonant endpoint update orders --url URL`"),
        ("invalid url", "`resonant endpoint update orders --url URL`"),
        ("unsupported protocol", "`resonant endpoint update orders --url URL`"),
        (
            "deployment missing",
            "`resonant endpoint add orders --deployment FLOW/DEPLOYMENT --overwrite`",
        ),
    ],
)
def test_a_failure_whose_cause_is_a_setting_is_repaired_here_and_not_at_the_receiver(failure, expected):
    said = advice(replace(PROBING, reason=f"20 failures in a row, last failure: {failure}"), NOW)
    assert "repair the receiver" not in said
    assert expected in said
    assert ": once a probe of a run succeeds, the deliveries are sent; " in said
    assert "\n" not in said
    named_commands([said])
    # The code is one of the classifier.
    assert failure.replace(" ", "_") in CODES
