"""The fixtures for pytest, as a program that has Resonant installed uses them."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).parents[3]
PLUGIN = "resonant.testing.fixtures"
# Named, not found: an installation that is older than the entry point would not have it.
PYTEST = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-W", "error"]


def test_the_entry_point_names_the_fixtures():
    points = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"resonant": PLUGIN}
    assert import_module(PLUGIN).resonant_receiver


OWN = """
import asyncio

import httpx
import pytest

from resonant import Event
from resonant.testing import FixedClock


async def ask(url):
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).status_code


def test_an_asynchronous_test_is_served(resonant_receiver):
    assert asyncio.run(ask(resonant_receiver.url)) == 200
    assert resonant_receiver.accepted == 1


class TestBrokenScript:
    @pytest.fixture
    def resonant_script(self):
        return lambda request: 1 / 0

    def test_it_raises(self, resonant_receiver):
        with pytest.raises(httpx.HTTPError):
            httpx.get(resonant_receiver.url)


async def accepted(open_store):
    event = Event(type="t", source="/s", data=1)
    async with open_store(clock=FixedClock(1_700_000_000)) as store:
        await store.enqueue([event], "billing")
    async with open_store() as store:
        assert (await store.detail(event.id)).accepted_at == 1_700_000_000
        return (await store.status()).accepted


@pytest.mark.parametrize("number", [1, 2])
def test_a_store_is_opened_twice(resonant_store, number):
    assert asyncio.run(accepted(resonant_store)) == 1
"""


def test_the_example_in_the_documentation_passes_and_a_broken_script_fails_its_test(tmp_path, monkeypatch):
    """Each test has its own store."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    example, *_ = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/testing.md").read_text(), re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    (tmp_path / "test_own.py").write_text(OWN)
    done = subprocess.run(PYTEST, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "test_example.py .... " in said
    assert "ERROR test_own.py::TestBrokenScript::test_it_raises - ZeroDivisionError" in said
    assert "8 passed, 1 error" in said
