"""The shipped rules and configuration pass Prometheus's own tool, and the commands that alerts name exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from resonant.cli import app
from resonant.metrics.alerts import (
    DEFINITIONS,
    EXPORT_AGE,
    FELT_LATENCY,
    HELD_SHARE,
    MANY_ATTEMPTS,
    OVERDUE,
    AlertCondition,
    percent,
)
from resonant.settings import DEFAULT_POLICY, Settings
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


@pytest.mark.program
@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_promtool_accepts_the_rules_without_a_remark(promtool, file):
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", file, folder=SHIPPED)
    assert code == 0, said


@pytest.mark.program
def test_promtool_accepts_the_example_configuration(promtool):
    code, said = promtool("check", "config", "prometheus.yml", folder=SHIPPED)
    assert code == 0, said
    assert "2 rule files found" in said


@pytest.mark.program
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
def test_each_alert_has_numbers_and_valid_commands(alert):
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


COMMAND = typer.main.get_command(app)


def parse(argv):
    """Let the command line read its arguments, and run nothing; a usage error is raised."""
    command, context = COMMAND, None
    name = None
    while hasattr(command, "get_command") and not (
        command.invoke_without_command and argv[0].startswith("-")
    ):
        name, *argv = argv
        context = command.context_class(command, info_name=name, parent=context)
        command = command.get_command(context, name)
        assert command is not None, f"no command {name}"
    command.make_context(name, argv, parent=context)


@pytest.mark.parametrize("wrong", ["status --endpont x", "endpoint tets x", "replay --rate fast"])
def test_a_command_that_does_not_exist_would_be_noticed(wrong):
    with pytest.raises(Exception, match=r"No such option|no command|valid number"):
        parse(wrong.split())


T = Settings.model_construct()
SILENCE, PROBING = T.alert_silence_minutes * 60, T.alert_probing_minutes * 60
DAY = 86_400
# The numbers in each alert's expression, with ranges and offsets in seconds.
NUMBERS = {
    "ResonantErrorRate": [T.alert_error_rate, T.alert_min_attempts],
    "ResonantDeadLettersGrowing": [T.alert_dead_letters_per_hour],
    "ResonantDeadLetterOld": [T.alert_dead_letter_age_hours * 3600],
    "ResonantLatency": [DAY, T.alert_latency_factor, DAY, FELT_LATENCY, MANY_ATTEMPTS, DAY, MANY_ATTEMPTS],
    "ResonantExporterSilent": [DAY, EXPORT_AGE],
    "ResonantMetricsAbsent": [DAY],
    "ResonantDrainSilent": [SILENCE, SILENCE, SILENCE, 1],
    "ResonantDeliveriesOverdue": [OVERDUE, SILENCE, OVERDUE, 1],
    # Three minutes less than the threshold, so that one successful probe does not end the alert.
    "ResonantEndpointProbing": [1, PROBING, 60, PROBING / 60, PROBING / 60 - 3, 0, EXPORT_AGE],
    "ResonantEventTypesFailing": [0, 0, PROBING, 60, PROBING / 60 - 3, 1, EXPORT_AGE],
    "ResonantEndpointGone": [],
    "ResonantDeliveriesHeld": [HELD_SHARE * T.policy(DEFAULT_POLICY).max_age, 0],
    "ResonantRetriesDominate": [T.alert_retry_share, MANY_ATTEMPTS],
}
# The thresholds in the texts.
IN_WORDS = {
    "ResonantErrorRate": f"more than {percent(T.alert_error_rate)}",
    "ResonantDrainSilent": f"in the last {T.alert_silence_minutes:g} minutes",
    "ResonantEndpointProbing": f"of the last {T.alert_probing_minutes:g} minutes",
    "ResonantEventTypesFailing": f"failed for {T.alert_probing_minutes:g} minutes",
}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": DAY}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_the_thresholds_are_those_of_the_definitions(alert):
    [definition] = [each for each in DEFINITIONS if each.alert == alert["alert"]]
    found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([smhd]?)(?![\w.])", alert["expr"])
    assert [float(number) * SECONDS[unit] for number, unit in found] == NUMBERS[definition.alert]
    assert IN_WORDS.get(definition.alert, "") in alert["annotations"]["description"]


def test_each_alert_is_defined_once_and_each_condition_of_the_flow_has_one():
    assert sorted(alert["alert"] for alert in ALERTS) == sorted(
        each.alert for each in DEFINITIONS if each.alert
    )
    conditions = [each.condition for each in DEFINITIONS if each.condition]
    assert sorted(conditions) == sorted(AlertCondition)


def test_each_alert_has_a_section_in_the_runbook():
    page = (PROJECT / "docs" / "runbook.md").read_text()
    assert [each.runbook for each in DEFINITIONS if f"## {each.runbook}\n" not in page] == []
