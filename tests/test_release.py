"""A release is built from a tag that agrees with the version and the changelog, and the workflow that publishes it is guarded."""

import hashlib
import re
import subprocess
import sys

import pytest
import yaml

from support.wheel import PROJECT, build, clone

CHANGES = "# Changelog\n\n{unreleased}## 1.2.3 - 2026-11-29\n\n- New.\n\n## 1.2.2 - 2026-01-31\n\n- Old.\n"
WORKFLOW = PROJECT / ".github/workflows/release.yml"


@pytest.fixture
def project(tmp_path):
    """A repository with a version and a changelog, and a function that checks its release."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/release.py").write_text((PROJECT / ".ci/release.py").read_text())
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / ".gitignore").write_text("/build\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES.format(unreleased="## Unreleased\n\n"))
    return tmp_path


def commit(folder):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for arguments in (("init", "--quiet"), ("add", "--all"), (*identity, "commit", "--quiet", "-m", "All")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def check(folder, tag):
    command = [sys.executable, ".ci/release.py", tag]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_the_notes_of_a_release_are_its_section_of_the_changelog(project):
    commit(project)
    assert check(project, "v1.2.3") == (0, "")
    assert (project / "build/release/notes.md").read_text() == "- New.\n"


@pytest.mark.parametrize(
    ("tag", "unreleased", "said"),
    [
        ("v1.2.4", "", "the tag must be v1.2.3, the version in pyproject.toml, not 'v1.2.4'"),
        ("1.2.3", "", "the tag must be v1.2.3, the version in pyproject.toml, not '1.2.3'"),
        ("", "", "the tag must be v1.2.3, the version in pyproject.toml, not ''"),
        (
            "v1.2.3",
            "## Unreleased\n\n- Newer.\n\n",
            "CHANGELOG.md has changes under Unreleased: move them to '## 1.2.3 - DATE'",
        ),
        ("v1.2.3", "## 1.3.0 - soon\n\n", "the newest section of CHANGELOG.md must be '## 1.2.3 - DATE'"),
    ],
)
def test_a_release_that_does_not_agree_is_refused_in_one_line(project, tag, unreleased, said):
    (project / "CHANGELOG.md").write_text(CHANGES.format(unreleased=unreleased))
    commit(project)
    assert check(project, tag) == (1, f"release: {said}\n")
    assert not (project / "build").exists()


def test_a_release_with_changes_that_are_not_committed_is_refused(project):
    commit(project)
    (project / "stray.py").touch()
    assert check(project, "v1.2.3") == (
        1,
        "release: git has changes that are not committed: ?? stray.py\n",
    )


def test_two_builds_of_one_commit_are_equal(tmp_path):
    one, two = (
        [
            hashlib.sha256(build(source, tmp_path / f"{source.name}-{target}", target).read_bytes()).digest()
            for target in ("wheel", "sdist")
        ]
        for source in (clone(tmp_path / "one"), clone(tmp_path / "two"))
    )
    assert one == two


def test_the_workflow_runs_only_for_tags_and_each_job_has_only_the_rights_that_it_needs():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key "on" as true
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "build": {"contents": "read"},
        "attest": {"attestations": "write", "id-token": "write"},
        "publish": {"id-token": "write"},
        "github": {"contents": "write"},
    }
    assert [job.get("needs") for job in jobs.values()] == [None, "build", "attest", "publish"]
    assert jobs["publish"]["environment"]["name"] == "pypi"


def test_the_workflow_pins_every_action_and_puts_no_expression_into_a_shell():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", each) for each in uses)
    runs = [step["run"] for step in steps if "run" in step]
    assert not any("${{" in each for each in runs)
    # Only the job without the right to sign or publish runs code of the project.
    assert [each.split()[:2] for each in runs] == [["make", "release"], ["gh", "release"]]
