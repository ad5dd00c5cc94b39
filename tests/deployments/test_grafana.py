"""The committed dashboard is what the generator makes, and shows every metric there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deployments.grafana import dashboard
from resonant.metrics import prometheus

COMMITTED = dashboard.OUTPUT.read_text()
PANELS = [panel for panel in json.loads(COMMITTED)["panels"] if panel["type"] != "row"]
WIDTH = 24


def test_the_committed_file_is_what_the_generator_makes():
    assert dashboard.to_json(dashboard.dashboard()) == COMMITTED, "python -m deployments.grafana.dashboard"


def test_it_is_written_beside_the_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "OUTPUT", tmp_path / "resonant.json")
    dashboard.main()
    assert (tmp_path / "resonant.json").read_text() == COMMITTED


def test_every_metric_is_in_some_panel():
    exposed = set(re.findall(r'"(resonant_\w+)"', Path(prometheus.__file__).read_text()))
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"resonant_\w+", queries)}
    assert shown == exposed


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_each_panel_says_what_it_shows_of_the_chosen_exporter_and_endpoints(panel):
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        for metric, selector in re.findall(r"(resonant_\w+)(\{[^}]*\})?", target["expr"]):
            assert 'instance="$exporter"' in selector
            if metric != "resonant_last_export_timestamp_seconds":
                assert 'endpoint=~"$endpoint"' in selector


def test_what_is_chosen_at_the_top_is_the_data_source_the_exporter_and_any_endpoints():
    chosen = {each["name"]: each for each in json.loads(COMMITTED)["templating"]["list"]}
    assert list(chosen) == ["datasource", "exporter", "endpoint"]
    assert (chosen["datasource"]["type"], chosen["datasource"]["query"]) == ("datasource", "prometheus")
    assert not chosen["exporter"]["multi"], "two exporters of one store would be added up"
    assert chosen["endpoint"]["multi"]
    assert chosen["endpoint"]["includeAll"]


def test_panels_neither_overlap_nor_leave_a_hole():
    squares = [
        (x, y)
        for panel in json.loads(COMMITTED)["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = 1 + max(y for _, y in squares)
    assert sorted(squares) == [(x, y) for x in range(WIDTH) for y in range(height)]


def test_no_two_panels_have_the_same_number():
    numbers = [panel["id"] for panel in json.loads(COMMITTED)["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 0
