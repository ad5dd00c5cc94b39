"""The fixtures for pytest, as a program that has Resonant installed uses them."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
PLUGIN = "resonant.testing.fixtures"
# Named, not found: an installation that is older than the entry point would not have it.
PYTEST = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-q", "-W", "error"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a text as a test file in a process and a folder of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_(text):
        (tmp_path / "test_shop.py").write_text(text)
        return subprocess.run(PYTEST, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run_


def test_the_example_in_the_documentation_passes(run):
    [example] = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/testing.md").read_text(), re.DOTALL)
    done = run(example)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_entry_point_names_the_fixtures():
    points = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"resonant": PLUGIN}
    assert import_module(PLUGIN).resonant_receiver


def test_a_run_that_uses_no_fixture_loads_nothing_heavy(run):
    done = run(
        "import sys\n"
        "def test():\n"
        "    heavy = {'prefect', 'aiohttp', 'httpx', 'sqlalchemy', 'pydantic', 'pandas', 'trustme'}\n"
        "    assert not heavy & sys.modules.keys()\n"
        "    assert 'resonant.testing.fixtures' in sys.modules\n"
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_receiver_serves_an_asynchronous_test(run):
    done = run(
        "import asyncio\n"
        "async def ask(url):\n"
        "    reader, writer = await asyncio.open_connection('127.0.0.1', int(url.rpartition(':')[2]))\n"
        "    writer.write(b'GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n')\n"
        "    answer = await reader.read()\n"
        "    writer.close()\n"
        "    return answer\n"
        "def test(resonant_receiver):\n"
        "    assert b' 200 ' in asyncio.run(ask(resonant_receiver.url))\n"
        "    assert resonant_receiver.accepted == 1\n"
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_script_that_raises_fails_its_test(run):
    done = run(
        "import httpx, pytest\n"
        "@pytest.fixture\n"
        "def resonant_script():\n"
        "    return lambda request: 1 / 0\n"
        "def test(resonant_receiver):\n"
        "    with pytest.raises(httpx.HTTPError):\n"
        "        httpx.post(resonant_receiver.url)\n"
    )
    assert "ZeroDivisionError" in done.stdout
    assert "1 passed, 1 error" in done.stdout


def test_a_test_opens_the_same_store_twice_and_another_test_has_another(run):
    done = run(
        "import asyncio, pytest\n"
        "from resonant import Event\n"
        "from resonant.testing import FixedClock\n"
        "async def accepted(open_store):\n"
        "    event = Event(type='t', source='/s', data=1)\n"
        "    async with open_store(clock=FixedClock(1_700_000_000)) as store:\n"
        "        await store.enqueue([event], 'billing')\n"
        "    async with open_store() as store:\n"
        "        assert (await store.detail(event.id)).accepted_at == 1_700_000_000\n"
        "        return (await store.status()).accepted\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test(resonant_store, number):\n"
        "    assert asyncio.run(accepted(resonant_store)) == 1\n"
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
