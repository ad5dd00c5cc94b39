"""The metrics by their names, kinds and labels; promtool has no remark."""

from __future__ import annotations

import math
import re
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resonant.metrics.prometheus import _Collected, registry_of, to_text
from resonant.metrics.totals import Totals
from resonant.store.counts.sketches import BOUNDS, Labels, Sketch
from resonant.store.shared.gates import Gate
from support.metrics import Facts
from support.programs import need

# The contract: kind and labels by name.
CONTRACT = {
    "resonant_events_accepted_total": ("counter", {"endpoint"}),
    "resonant_delivery_outcomes_total": ("counter", {"endpoint", "outcome"}),
    "resonant_delivery_attempts_total": ("counter", {"endpoint", "result", "category", "code"}),
    "resonant_delivery_attempt_duration_seconds": ("histogram", {"endpoint"}),
    "resonant_delivery_end_to_end_duration_seconds": ("histogram", {"endpoint"}),
    "resonant_delivery_retry_delay_seconds": ("histogram", {"endpoint"}),
    "resonant_delivery_latency_percentile_seconds": ("gauge", {"endpoint", "percentile"}),
    "resonant_delivery_first_attempt_percentile_seconds": ("gauge", {"endpoint", "percentile"}),
    "resonant_deliveries": ("gauge", {"endpoint", "status"}),
    "resonant_oldest_due_timestamp_seconds": ("gauge", {"endpoint"}),
    "resonant_last_claim_timestamp_seconds": ("gauge", {"endpoint"}),
    "resonant_dead_letters": ("gauge", {"endpoint", "category", "reason"}),
    "resonant_dead_letter_oldest_timestamp_seconds": ("gauge", {"endpoint"}),
    "resonant_dead_letter_replays_total": ("counter", {"endpoint"}),
    "resonant_dead_letter_purges_total": ("counter", {"endpoint"}),
    "resonant_endpoint_state": ("gauge", {"endpoint", "state"}),
    "resonant_endpoint_pace_per_second": ("gauge", {"endpoint"}),
    "resonant_endpoint_gone_timestamp_seconds": ("gauge", {"endpoint"}),
    "resonant_deliveries_held": ("gauge", {"endpoint"}),
    "resonant_last_export_timestamp_seconds": ("gauge", set()),
}
NOW = 1_700_000_000.0


def totals(**changes):
    return Totals(**{"taken_at": NOW} | changes)


def counted(measure, result, count, *seconds, category="", code=""):
    """Return a sketch with its labels: of this many durations each, or unmeasured."""
    return Labels(measure, "orders", "", result, category, code), Sketch.of(
        count * seconds, count * (not seconds)
    )


def window(durations=()):
    facts = Facts()
    for duration in durations:
        facts.attempt(duration, at=NOW).first_attempt(2 * duration, at=NOW)
    return facts.statistics(since=NOW - 3600, until=NOW)


@pytest.fixture
def full():
    """A registry on which every metric has a sample."""
    return registry_of(
        totals(
            accepted={"orders": 5, "quiet": 0},
            counted=dict(
                [
                    counted("attempt", "delivered", 1, 0.03, 0.04, 0.4),
                    counted("attempt", "failed", 1, 0.03, 0.03, 0.03, category="transient", code="http_503"),
                    counted("attempt", "failed", 1, 90_000.0, category="transient", code="timeout"),
                    counted("attempt", "lost", 1, category="unknown", code="worker_lost"),
                    counted("delivery", "delivered", 3, 0.55),
                    counted("delivery", "dead_letter", 1, 7.0, category="transient", code="http_503"),
                    counted("delay", "", 1, 2.0, 2.0, 40.0),
                    counted("replay", "replayed", 1),
                    counted("purge", "delivered", 4),
                    counted("purge", "dead_letter", 2),
                ]
            ),
            deliveries={("orders", "delivered"): 3, ("orders", "dead_letter"): 1},
            dead_letters={("orders", "transient", "exhausted"): 1},
            oldest_due_at={"orders": NOW - 5},
            oldest_dead_at={"orders": NOW - 500},
            last_seen_at={"orders": NOW - 20},
            gates={
                "orders": Gate("orders", "paced", pace=12.5),
                "shop": Gate("shop", "paused", since=NOW - 60, reason="it answered 410"),
                "crm": Gate("crm", "paused", since=NOW - 60, paused_by="ada"),
            },
            held={"orders": 7},
        ),
        window([0.1, 0.2, 0.3]),
    )


def value(registry, name, **labels):
    return registry.get_sample_value(name, labels)


def promtool(*argv, document):
    return subprocess.run(
        [need("promtool"), *argv], input=document, capture_output=True, text=True, check=False
    )


def check(document):
    done = promtool("check", "metrics", document=document)
    return done.returncode, done.stdout + done.stderr


def test_the_names_kinds_and_labels_are_those_of_the_contract(full):
    found = {}
    for family in parse_text(to_text(full)):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == CONTRACT


def test_each_has_a_help_text_that_is_a_sentence(full):
    for family in full.collect():
        assert re.fullmatch(r"[A-Z].{20,}[.]", family.documentation), family.name


@pytest.mark.parametrize("filled", [True, False])
def test_promtool_has_no_remark(full, filled):
    assert check(to_text(full if filled else registry_of(totals(), window()))) == (0, "")


def test_promtool_reports_a_mistake():
    code, said = check("# TYPE resonant_things counter\nresonant_things 1\n")
    assert code == 3
    assert "help text" in said


def test_openmetrics_says_the_same_and_promtool_has_no_remark_on_it(full):
    # `promtool check metrics` reads the text format only: it gets the OpenMetrics text as a strict parser reads it.
    families = list(parse_openmetrics(generate_openmetrics(full).decode()))
    again = CollectorRegistry()
    again.register(_Collected(families))
    assert generate_latest(again) == generate_latest(full)
    assert check(generate_latest(again).decode()) == (0, "")


def test_prometheus_itself_reads_openmetrics(full, tmp_path):
    # Of a backfill Prometheus wants timestamps, which a scrape does not have.
    lines = generate_openmetrics(full).decode().splitlines()
    stamped = [line if line.startswith("#") else f"{line} {NOW:.0f}" for line in lines]
    path = tmp_path / "metrics.om"
    path.write_text("\n".join(stamped) + "\n")
    done = promtool(
        "tsdb", "create-blocks-from", "openmetrics", str(path), str(tmp_path / "tsdb"), document=""
    )
    assert done.returncode == 0, done.stderr


def test_no_family_names_collide_where_counters_have_no_suffix(full):
    names = [family.name for family in parse_openmetrics(generate_openmetrics(full).decode())]
    assert len(names) == len(set(names)) == len(CONTRACT)


def test_counters_are_the_sums_of_the_counts(full):
    assert value(full, "resonant_events_accepted_total", endpoint="orders") == 5
    name = "resonant_delivery_outcomes_total"
    assert value(full, name, endpoint="orders", outcome="delivered") == 3
    assert value(full, name, endpoint="orders", outcome="dead_letter") == 1
    name = "resonant_delivery_attempts_total"
    delivered = {"result": "delivered", "category": "", "code": ""}
    assert value(full, name, endpoint="orders", **delivered) == 3
    failed = {"result": "failed", "category": "transient", "code": "http_503"}
    assert value(full, name, endpoint="orders", **failed) == 3
    lost = {"result": "lost", "category": "unknown", "code": "worker_lost"}
    assert value(full, name, endpoint="orders", **lost) == 1
    assert value(full, "resonant_dead_letter_replays_total", endpoint="orders") == 1
    assert value(full, "resonant_dead_letter_purges_total", endpoint="orders") == 2


def test_counters_of_an_endpoint_where_nothing_happened_are_there_at_zero(full):
    for name in ("events_accepted", "dead_letter_replays", "dead_letter_purges"):
        assert value(full, f"resonant_{name}_total", endpoint="quiet") == 0
    for outcome in ("delivered", "dead_letter"):
        assert value(full, "resonant_delivery_outcomes_total", endpoint="quiet", outcome=outcome) == 0
    for status in ("pending", "retrying", "delivered", "dead_letter"):
        assert value(full, "resonant_deliveries", endpoint="quiet", status=status) == 0
    assert value(full, "resonant_delivery_attempt_duration_seconds_count", endpoint="quiet") == 0


def buckets(registry, name, endpoint):
    [family] = [family for family in registry.collect() if family.name == name]
    return {
        float(sample.labels["le"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["endpoint"] == endpoint
    }


def test_buckets_are_cumulative_and_lost_attempts_are_in_none(full):
    name = "resonant_delivery_attempt_duration_seconds"
    found = buckets(full, name, "orders")
    assert tuple(found) == BOUNDS
    assert [found[bound] for bound in (0.025, 0.05, 0.25, 0.5, 86_400.0, math.inf)] == [0, 5, 5, 6, 6, 7]
    assert value(full, f"{name}_count", endpoint="orders") == 7
    assert value(full, f"{name}_sum", endpoint="orders") == pytest.approx(90_000.56)


def test_end_to_end_is_of_delivered_ones_and_a_delay_is_one_wherever_it_is_waited(full):
    name = "resonant_delivery_end_to_end_duration_seconds"
    assert (
        value(full, f"{name}_count", endpoint="orders"),
        value(full, f"{name}_sum", endpoint="orders"),
    ) == (3, pytest.approx(1.65))
    name = "resonant_delivery_retry_delay_seconds"
    assert (
        value(full, f"{name}_count", endpoint="orders"),
        value(full, f"{name}_sum", endpoint="orders"),
    ) == (3, 44)


def test_gauges_are_the_current_values(full):
    name = "resonant_delivery_latency_percentile_seconds"
    assert value(full, name, endpoint="orders", percentile="p50") == pytest.approx(0.2, rel=0.01)
    assert value(full, name, endpoint="orders", percentile="p99") == pytest.approx(0.298, rel=0.01)
    assert value(full, name, endpoint="quiet", percentile="p50") is None
    assert value(full, "resonant_deliveries", endpoint="orders", status="delivered") == 3
    dead = {"category": "transient", "reason": "exhausted"}
    assert value(full, "resonant_dead_letters", endpoint="orders", **dead) == 1
    assert value(full, "resonant_oldest_due_timestamp_seconds", endpoint="orders") == NOW - 5
    assert value(full, "resonant_dead_letter_oldest_timestamp_seconds", endpoint="orders") == NOW - 500
    assert value(full, "resonant_last_claim_timestamp_seconds", endpoint="orders") == NOW - 20
    assert value(full, "resonant_last_export_timestamp_seconds") == NOW


def states(registry, endpoint):
    name = "resonant_endpoint_state"
    return {
        state: value(registry, name, endpoint=endpoint, state=state)
        for state in ("normal", "probing", "paced", "paused")
    }


def test_an_endpoint_is_in_one_state_and_one_without_a_gate_is_normal(full):
    assert states(full, "orders") == {"normal": 0, "probing": 0, "paced": 1, "paused": 0}
    assert states(full, "quiet") == {"normal": 1, "probing": 0, "paced": 0, "paused": 0}
    assert states(full, "crm")["paused"] == 1, "paused before it accepted its first event"


def test_a_pace_is_shown_only_while_the_endpoint_is_paced(full):
    name = "resonant_endpoint_pace_per_second"
    assert value(full, name, endpoint="orders") == 12.5
    assert value(full, name, endpoint="quiet") is None
    probing = registry_of(totals(gates={"orders": Gate("orders", "probing", pace=50.0)}), window())
    assert value(probing, name, endpoint="orders") is None


def test_every_endpoint_has_the_number_of_events_that_its_gate_holds(full):
    name = "resonant_deliveries_held"
    assert (value(full, name, endpoint="orders"), value(full, name, endpoint="quiet")) == (7, 0)


def test_an_endpoint_paused_by_a_410_is_told_apart_from_one_that_an_operator_paused(full):
    name = "resonant_endpoint_gone_timestamp_seconds"
    assert value(full, name, endpoint="shop") == NOW - 60
    assert value(full, name, endpoint="crm") is None


def test_a_name_that_needs_escapes_is_escaped():
    odd = 'a"b\\c\nd'
    text = to_text(registry_of(totals(accepted={odd: 1}), window()))
    assert check(text) == (0, "")
    [family] = [family for family in parse_text(text) if family.name == "resonant_events_accepted"]
    assert family.samples[0].labels == {"endpoint": odd}
