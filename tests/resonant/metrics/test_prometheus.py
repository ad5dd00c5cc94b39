"""The metrics by their names, kinds and labels; promtool has no remark."""

import math
import re
import subprocess
from collections import defaultdict
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resonant.events import Status
from resonant.metrics.prometheus import _Collected, registry_of, to_text
from resonant.metrics.totals import Totals
from resonant.store.counts.sketches import BOUNDS, Labels, Sketch
from resonant.store.shared.gates import Gate, GateState
from support.metrics import Facts
from support.programs import need
from support.prometheus_text import samples

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
    "resonant_endpoint_failing_types": ("gauge", {"endpoint"}),
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
                "crm": Gate("crm", "paused", since=NOW - 60, pace=50.0, paused_by="ada"),
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


def test_the_help_text_of_every_metric_is_a_sentence(full):
    for family in full.collect():
        assert re.fullmatch(r"[A-Z].{20,}[.]", family.documentation), family.name


@pytest.mark.program
@pytest.mark.parametrize("filled", [True, False])
def test_promtool_reports_no_problem(full, filled):
    assert check(to_text(full if filled else registry_of(totals(), window()))) == (0, "")


@pytest.mark.program
def test_promtool_reports_a_mistake():
    code, said = check("# TYPE resonant_things counter\nresonant_things 1\n")
    assert code == 3
    assert "help text" in said


@pytest.mark.program
def test_openmetrics_says_the_same_and_promtool_has_no_remark_on_it(full):
    # `promtool check metrics` reads the text format only: it gets the OpenMetrics text as a strict parser reads it.
    families = list(parse_openmetrics(generate_openmetrics(full).decode()))
    # Names stay different, although counters have no suffix here.
    assert len({family.name for family in families}) == len(families) == len(CONTRACT)
    again = CollectorRegistry()
    again.register(_Collected(families))
    assert generate_latest(again) == generate_latest(full)
    assert check(generate_latest(again).decode()) == (0, "")


@pytest.mark.program
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


def test_counters_and_gauges_have_the_values_of_the_store(full):
    """Counters of an endpoint without any activity are 0; an endpoint without a gate is normal."""
    found = defaultdict(dict)
    for (name, *labels), number in samples(to_text(full)).items():
        if not re.search("_(duration|delay|percentile)_seconds", name):
            found[name.removeprefix("resonant_")][" ".join(labels)] = number
    states = {"crm": "paused", "orders": "paced", "quiet": "normal", "shop": "paused"}
    assert found == {
        "events_accepted_total": {"orders": 5, "quiet": 0},
        "delivery_outcomes_total": {"orders delivered": 3, "orders dead_letter": 1}
        | dict.fromkeys(("quiet delivered", "quiet dead_letter"), 0),
        "delivery_attempts_total": {
            "  orders delivered": 3,
            "transient http_503 orders failed": 3,
            "transient timeout orders failed": 1,
            "unknown worker_lost orders lost": 1,
            "  quiet delivered": 0,
        },
        "dead_letter_replays_total": {"orders": 1, "quiet": 0},
        "dead_letter_purges_total": {"orders": 2, "quiet": 0},
        "deliveries": {f"{name} {status}": 0 for name in ("orders", "quiet") for status in get_args(Status)}
        | {"orders delivered": 3, "orders dead_letter": 1},
        "dead_letters": {"transient orders exhausted": 1},
        "oldest_due_timestamp_seconds": {"orders": NOW - 5},
        "last_claim_timestamp_seconds": {"orders": NOW - 20},
        "dead_letter_oldest_timestamp_seconds": {"orders": NOW - 500},
        "endpoint_state": {
            f"{name} {state}": state == current
            for name, current in states.items()
            for state in get_args(GateState)
        },
        "endpoint_pace_per_second": {"orders": 12.5},
        "endpoint_failing_types": {"crm": 0, "orders": 0, "quiet": 0, "shop": 0},
        "deliveries_held": {"crm": 0, "orders": 7, "quiet": 0, "shop": 0},
        "endpoint_gone_timestamp_seconds": {"shop": NOW - 60},
        "last_export_timestamp_seconds": {"": NOW},
    }


def buckets(registry, name, endpoint):
    [family] = [family for family in registry.collect() if family.name == name]
    return {
        float(sample.labels["le"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["endpoint"] == endpoint
    }


def test_buckets_are_cumulative_without_lost_attempts(full):
    name = "resonant_delivery_attempt_duration_seconds"
    found = buckets(full, name, "orders")
    assert tuple(found) == BOUNDS
    assert [found[bound] for bound in (0.025, 0.05, 0.25, 0.5, 86_400.0, math.inf)] == [0, 5, 5, 6, 6, 7]
    assert value(full, f"{name}_count", endpoint="orders") == 7
    assert value(full, f"{name}_sum", endpoint="orders") == pytest.approx(90_000.56)


def test_end_to_end_durations_are_of_delivered_events_and_delays_of_all_retries(full):
    for measure, total in (("end_to_end_duration", pytest.approx(1.65)), ("retry_delay", 44)):
        name = f"resonant_delivery_{measure}_seconds"
        assert value(full, f"{name}_count", endpoint="orders") == 3
        assert value(full, f"{name}_sum", endpoint="orders") == total


def test_percentiles_are_those_of_the_window(full):
    name = "resonant_delivery_latency_percentile_seconds"
    assert value(full, name, endpoint="orders", percentile="p50") == pytest.approx(0.2, rel=0.01)
    assert value(full, name, endpoint="orders", percentile="p99") == pytest.approx(0.298, rel=0.01)
    assert value(full, name, endpoint="quiet", percentile="p50") is None


def test_a_pace_is_absent_while_the_endpoint_is_not_paced():
    probing = registry_of(totals(gates={"orders": Gate("orders", "probing", pace=50.0)}), window())
    assert value(probing, "resonant_endpoint_pace_per_second", endpoint="orders") is None


@pytest.mark.program
def test_a_name_that_needs_escapes_is_escaped():
    odd = 'a"b\\c\nd'
    text = to_text(registry_of(totals(accepted={odd: 1}), window()))
    assert check(text) == (0, "")
    [family] = [family for family in parse_text(text) if family.name == "resonant_events_accepted"]
    assert family.samples[0].labels == {"endpoint": odd}
