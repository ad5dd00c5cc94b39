"""The metrics of a server, by their names and values; promtool has no remark."""

import re
import subprocess
from typing import get_args

import pytest
from prometheus_client import generate_latest

from resonant.intake.meters import BOUNDS, Meters, SourceResult
from support.programs import need


def filled():
    meters = Meters()
    meters.observe(202, 0.004)
    meters.observe(202, 0.005)
    meters.observe(503, 60.0)
    meters.requests[408] += 1
    meters.events["stored"] += 2
    meters.sources["github", "stored"] += 2
    meters.sources["github", "forged"] += 1
    meters.waiting, meters.held_bytes, meters.connections = 3, 4, 5
    return meters


def value(meters, name, **labels):
    return meters.registry.get_sample_value(f"resonant_intake_{name}", labels)


def test_counts_requests_events_and_what_is_held():
    meters = filled()
    assert {status: value(meters, "requests_total", status=status) for status in ("202", "408", "503")} == {
        "202": 2,
        "408": 1,
        "503": 1,
    }
    outcomes = ("stored", "duplicate", "unrouted", "refused")
    assert [value(meters, "events_total", outcome=each) for each in outcomes] == [2, 0, 0, 0]
    gauges = ("waiting_requests", "body_bytes", "connections")
    assert [value(meters, name) for name in gauges] == [3, 4, 5]


def test_counts_webhooks_by_source_and_result():
    registry = filled().registry
    name, labels = "resonant_source_requests_total", {"source": "github"}
    found = {
        each: registry.get_sample_value(name, labels | {"result": each}) for each in get_args(SourceResult)
    }
    assert {result: count for result, count in found.items() if count is not None} == {
        "stored": 2,
        "forged": 1,
    }


def test_a_duration_is_in_each_bucket_whose_bound_it_does_not_exceed():
    meters = filled()
    buckets = {
        bound: value(meters, "request_duration_seconds_bucket", le=bound)
        for bound in ("0.0025", "0.005", "30")
    }
    assert buckets == {"0.0025": 0, "0.005": 2, "30": 2}
    assert value(meters, "request_duration_seconds_bucket", le="+Inf") == 3
    assert value(meters, "request_duration_seconds_sum") == 60.009
    assert list(BOUNDS) == sorted(BOUNDS)


@pytest.mark.program
def test_promtool_reports_no_problem():
    for meters in (Meters(), filled()):
        text = generate_latest(meters.registry)
        done = subprocess.run(
            [need("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_help_text_of_each_metric_is_a_sentence():
    for family in Meters().collect():
        assert re.fullmatch(r"[A-Z].{10,}[.]", family.documentation), family.name
