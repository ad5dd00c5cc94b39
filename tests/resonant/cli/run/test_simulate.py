"""``resonant simulate``."""

import json
from xml.etree import ElementTree as ET

QUICK = ("simulate", "--events", "60", "--capacity", "20", "--outage", "3s", "--seeds", "2")


def test_each_policy_is_shown_with_and_without_the_gate(resonant):
    out = resonant(*QUICK, "--policy", "none", "--policy", "full").out
    rows = [line.split()[:2] for line in out.splitlines()[1:5]]
    assert rows == [["none", "no"], ["none", "yes"], ["full", "no"], ["full", "yes"]]
    assert "The outage ends at 3 s." in out


def test_the_document_has_the_scenario_and_every_figure(resonant):
    compared = [each["policy"] for each in resonant.json(*QUICK)["variants"] if each["gate"]]
    assert compared == ["none", "classic", "equal", "full", "decorrelated"]
    document = resonant.json(*QUICK, "--policy", "default", "--retry-after", "2s", "--processes", "2")
    assert document["scenario"]["retry_after"] == 2
    assert document["scenario"]["shortest_drain"] == 3
    gated = document["variants"][1]
    assert gated["gate"] is True
    assert gated["seeds"] == 2
    assert gated["attempts"]["mean"] <= gated["attempts"]["worst"]
    assert {"peak", "drain", "noticed", "busiest", "sends", "goodput", "given_up", "unfinished"} <= set(gated)


def test_the_chart_is_drawn_as_svg(resonant, tmp_path):
    refused = resonant.refused(*QUICK, "--policy", "default", "--svg", "no/chart.svg")
    assert "No such file or directory" in refused
    path = tmp_path / "chart.svg"
    out = resonant(*QUICK, "--policy", "default", "--svg", str(path)).out
    assert f"wrote {path}" in out
    text = " ".join(ET.parse(path).getroot().itertext())
    assert "with the gate" in text
    assert "without the gate" in text
    assert "default" in text


def test_a_policy_of_the_settings_can_be_compared(resonant, monkeypatch):
    monkeypatch.setenv("RESONANT_POLICIES", json.dumps({"listed": {"delays": ["1s", "1m", "1h"]}}))
    how = (*QUICK, "--policy", "listed", "--policy", "standard-webhooks", "--failures", "0.95")
    variants = [each for each in resonant.json(*how)["variants"] if not each["gate"]]
    attempts = {each["policy"]: each["attempts"]["mean"] for each in variants}
    assert 3 < attempts["listed"] <= 4 < attempts["standard-webhooks"] <= 10
