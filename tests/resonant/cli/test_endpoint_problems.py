"""``resonant status`` names the endpoints that could not be opened while deliveries wait for them."""

from __future__ import annotations

from resonant.events import rfc3339
from resonant.store.views import endpoint_problems

REASON = "no endpoint is named 'shp'"


def test_status_names_an_endpoint_that_could_not_be_opened_and_since_when(resonant, worker):
    worker.accept("e1", endpoint="shp")
    since = worker.clock()
    worker.do(lambda store: store.write(endpoint_problems.note_problem, "shp", REASON, now=since))

    assert f"deliveries to shp wait: {REASON} (first seen " in resonant("status").out
    assert resonant.json("status")["endpoint_problems"] == [
        {"endpoint": "shp", "reason": REASON, "since": rfc3339(since)}
    ]


def test_status_shows_no_problem_if_all_endpoints_open(resonant, worker):
    worker.accept("e1")
    assert resonant.json("status")["endpoint_problems"] == []
    assert "first seen" not in resonant("status").out
