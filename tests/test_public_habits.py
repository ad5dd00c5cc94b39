"""CI, the contributor's guide and the package's metadata agree with the project."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {path.name: path.read_text() for path in (PROJECT / ".github" / "workflows").glob("*.yml")}
JOBS = yaml.safe_load(WORKFLOWS["ci.yml"])["jobs"]
NIGHTLY = yaml.safe_load(WORKFLOWS["nightly.yml"])["jobs"]
CHANGELOG = (PROJECT / "CHANGELOG.md").read_text()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".github/workflows/tests.yml", "README.md"]
)
def test_every_make_target_that_is_named_exists(name):
    named = set(re.findall(r"(?:`|run: |^)make ([a-z-]+)", (PROJECT / name).read_text(), re.MULTILINE))
    assert named
    assert named <= make_targets()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_module_that_is_named_exists(name):
    named = re.findall(r"`(\w+(?:/\w+)*\.py)`", (PROJECT / name).read_text())
    assert named
    for path in named:
        assert (PROJECT / path).exists() or (PROJECT / "src/resonant" / path).exists(), path


def test_ci_and_the_nightly_workflow_run_every_python_that_the_metadata_names():
    supported = re.findall(r"Python :: (3\.\d+)$", "\n".join(METADATA["classifiers"]), re.MULTILINE)
    on_push, at_night = (json.loads(jobs["test"]["with"]["pythons"]) for jobs in (JOBS, NIGHTLY))
    assert [*on_push, *at_night] == supported
    assert METADATA["requires-python"] == f">={supported[0]}"


def test_ci_installs_the_wheel_without_the_checkout():
    commands = "\n".join(step.get("run", "") for step in JOBS["wheel"]["steps"])
    assert "make wheel" in commands
    assert 'resonant" demo' in commands


def test_ci_pins_every_action_to_a_commit():
    actions = re.findall(r"uses: (\S+)", "".join(WORKFLOWS.values()))
    assert actions
    pinned = r"[\w/-]+@[0-9a-f]{40}|\./\.github/workflows/tests\.yml"
    assert [each for each in actions if not re.fullmatch(pinned, each)] == []


def test_ci_builds_the_documentation():
    assert any("make docs" in step.get("run", "") for step in JOBS["docs"]["steps"])
    assert " make lint docs\n" in (PROJECT / ".ci" / "run").read_text()


def test_the_changelog_has_unreleased_changes_above_a_release_that_is_not_newer():
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", headings[1])
    assert [int(part) for part in released.groups()] <= [int(part) for part in METADATA["version"].split(".")]
