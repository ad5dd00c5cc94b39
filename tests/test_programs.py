"""Tests that need a missing program are skipped, or fail if every program is required."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from support.programs import PROGRAMS, need, need_postgresql

pytestmark = pytest.mark.program
PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_PROGRAMS", str(tmp_path))
    monkeypatch.delenv("REQUIRE_PROGRAMS", raising=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_missing_program_is_a_skip_that_says_how_to_get_it(name):
    with pytest.raises(pytest.skip.Exception, match=f"this test needs {name}: (apt-get install|https://)"):
        need(name)


def test_a_missing_postgresql_is_a_skip_that_says_how_to_get_it():
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"):
        need_postgresql()


def test_without_a_path_for_programs_the_skip_says_how_to_give_it(monkeypatch, tmp_path):
    (tmp_path / "nginx").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TEST_PROGRAMS")
    with pytest.raises(pytest.skip.Exception, match=r'nginx-light, then make test TEST_PROGRAMS="\$PATH"'):
        need("nginx")


def test_where_every_program_is_required_a_missing_one_fails_the_test(monkeypatch):
    monkeypatch.setenv("REQUIRE_PROGRAMS", "1")
    with pytest.raises(pytest.fail.Exception, match="promtool: apt-get install prometheus"):
        need("promtool")


def test_a_program_is_found_by_any_of_its_names(tmp_path):
    chrome = tmp_path / "google-chrome"
    chrome.touch(mode=0o755)
    assert need("chromium") == str(chrome)


def test_ci_hides_every_optional_program_from_its_path():
    [patterns] = re.findall(r"^optional='(.*)'$", (PROJECT / ".ci" / "run").read_text(), re.MULTILINE)
    names = [name for names, _ in PROGRAMS.values() for name in names] + ["pg_ctlcluster", "postgres"]
    assert [name for name in names if not any(fnmatch(name, each) for each in patterns.split("|"))] == []
