"""The shipped dashboard shows every metric, of the chosen exporter and endpoints."""

import json
import re
from pathlib import Path

import pytest

from resonant.metrics import prometheus

DASHBOARD = json.loads((Path(__file__).parents[2] / "deployments" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WIDTH = 24


def test_every_metric_is_in_a_panel():
    exposed = set(re.findall(r'"(resonant_\w+)"', Path(prometheus.__file__).read_text()))
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"resonant_\w+", queries)}
    assert shown == exposed


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_each_panel_is_described_and_shows_the_chosen_exporter_and_endpoints(panel):
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        for metric, selector in re.findall(r"(resonant_\w+)(\{[^}]*\})?", target["expr"]):
            assert 'instance="$exporter"' in selector
            if metric != "resonant_last_export_timestamp_seconds":
                assert 'endpoint=~"$endpoint"' in selector


def test_the_variables_are_a_data_source_one_exporter_and_any_endpoints():
    chosen = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(chosen) == ["datasource", "exporter", "endpoint"]
    assert (chosen["datasource"]["type"], chosen["datasource"]["query"]) == ("datasource", "prometheus")
    assert not chosen["exporter"]["multi"], "two exporters of one store would be added up"
    assert chosen["endpoint"]["multi"]
    assert chosen["endpoint"]["includeAll"]


def test_panels_cover_the_grid_without_overlap_and_have_distinct_numbers():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    squares = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = 1 + max(y for _, y in squares)
    assert sorted(squares) == [(x, y) for x in range(WIDTH) for y in range(height)]
