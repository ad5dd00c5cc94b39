"""The names in the tables of failures."""

import importlib
import subprocess
import sys

import pytest

from resonant.delivery import classification
from resonant.delivery.failure_tables import ANSWERED, CONNECTING, NAME_RESOLUTION, RANKED, TABLES

PACKAGES = {
    "aiohttp": ["aiohttp", "aiohttp.http_exceptions"],
    "http": ["http.client"],
    "requests": ["requests.exceptions"],
    "resonant": ["resonant.errors"],
    "urllib3": ["urllib3.exceptions"],
}
NAMED = {key for key in RANKED if isinstance(key, str)} | ANSWERED | NAME_RESOLUTION | CONNECTING


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_name_in_the_tables_is_the_name_of_an_exception(name):
    package, _, kind = name.partition(".")
    modules = [importlib.import_module(module) for module in PACKAGES.get(package, [package])]
    found = [getattr(module, kind) for module in modules if hasattr(module, kind)]
    assert found
    assert classification._package(found[0]) == package
    assert found[0].__qualname__ == kind
    assert issubclass(found[0], Exception)


def test_each_failure_is_in_the_tables_once():
    keys = [key for table in TABLES.values() for keys in table.values() for key in keys]
    assert len(keys) == len(set(keys))


def test_no_http_library_is_imported_to_know_its_errors():
    script = (
        "import runpy, sys; runpy.run_path(sys.argv[1]);"
        "sys.exit(str([name for name in ('httpx', 'requests', 'aiohttp', 'urllib3') if name in sys.modules]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, classification.__file__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr.strip() == "[]"
