"""The shipped rules and configuration, judged by Prometheus's own tool; and that what an alert tells you to run can be run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from deployments.prometheus import rules as prometheus_rules
from deployments.prometheus.rules import alerts
from resonant.cli import app
from resonant.metrics.alerts import DEFINITIONS, Condition
from resonant.settings import Settings, Thresholds
from support.programs import need

PROJECT = Path(__file__).parents[2]
SHIPPED = PROJECT / "deployments" / "prometheus"
UNIT_TESTS = sorted((Path(__file__).parent / "prometheus").glob("*.test.yml"))


def rules(file):
    return [
        rule for group in yaml.safe_load((SHIPPED / file).read_text())["groups"] for rule in group["rules"]
    ]


ALERTS = rules("alerts.yml")


@pytest.fixture
def promtool():
    program = need("promtool")

    def run(*argv, folder):
        done = subprocess.run([program, *argv], cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_promtool_has_no_remark_on_the_rules(promtool, file):
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", file, folder=SHIPPED)
    assert code == 0, said


def test_promtool_takes_the_example_configuration_with_its_rules(promtool):
    code, said = promtool("check", "config", "prometheus.yml", folder=SHIPPED)
    assert code == 0, said
    assert "2 rule files found" in said


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda path: path.name.partition(".")[0])
def test_alerts_fire_when_they_should_and_only_then(promtool, file):
    code, said = promtool("test", "rules", file.name, folder=file.parent)
    assert code == 0, said


@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert):
    cases = [
        bool(case["exp_alerts"])
        for file in UNIT_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert set(cases) == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_is_wrong_with_numbers_and_what_to_run(alert):
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["labels"]["severity"] in {"warning", "critical"}
    if "absent" not in alert["expr"]:
        assert "$value" in alert["annotations"]["description"]
    commands = alert["annotations"]["runbook"].replace("{{ $labels.endpoint }}", "billing").splitlines()
    assert commands
    for command in commands:
        program, *argv = shlex.split(command, comments=True)
        assert program == "resonant"
        parse(argv)


def parse(argv):
    """Let the command line read its arguments, and run nothing; a usage error is raised."""
    command, context = typer.main.get_command(app), None
    while hasattr(command, "get_command"):
        name, *argv = argv
        context = command.context_class(command, info_name=name, parent=context)
        command = command.get_command(context, name)
        assert command is not None, f"no command {name}"
    command.make_context(name, argv, parent=context)


@pytest.mark.parametrize("wrong", ["status --endpont x", "endpoint tets x", "replay --rate fast"])
def test_a_command_that_does_not_exist_would_be_noticed(wrong):
    with pytest.raises(Exception, match=r"No such option|no command|valid number"):
        parse(wrong.split())


def test_the_rules_are_generated_from_the_definitions():
    assert (SHIPPED / "alerts.yml").read_text() == alerts(), "run `python -m deployments.prometheus.rules`"


def test_each_alert_is_defined_once_and_each_condition_of_the_flow_has_one():
    assert sorted(alert["alert"] for alert in ALERTS) == sorted(each.alert for each in DEFINITIONS)
    conditions = [each.condition for each in DEFINITIONS if each.condition]
    assert sorted(conditions) == sorted(Condition)


def test_another_threshold_changes_the_rules(monkeypatch):
    monkeypatch.setattr(
        prometheus_rules, "Thresholds", lambda: Thresholds(error_rate=0.1, silence=1200, many_attempts=7)
    )
    text = alerts()
    assert "ratio15m > 0.1" in text
    assert "more than 10%" in text
    assert "age_seconds > 1200" in text
    assert 'state="paused"}[20m]' in text
    assert text.count(">= 7") == 3


def test_each_alert_has_a_section_in_the_runbook():
    page = (PROJECT / "docs" / "runbook.md").read_text()
    assert [each.runbook for each in DEFINITIONS if f"## {each.runbook}\n" not in page] == []


def test_the_settings_and_the_definitions_have_the_same_defaults():
    assert Settings.model_construct().alert_thresholds == Thresholds()
