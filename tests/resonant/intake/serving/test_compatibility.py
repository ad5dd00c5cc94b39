"""The undocumented names of uvicorn: each is looked for when `resonant serve` starts."""

import ast
import re
from importlib import import_module
from importlib.metadata import version
from inspect import getsource

import pytest
from packaging.specifiers import SpecifierSet

from resonant.errors import ResonantError
from resonant.intake.serving import compatibility, connections
from resonant.intake.serving.compatibility import NAMES, TESTED_UVICORN, check_uvicorn

OF_ASYNCIO = {"connection_made", "connection_lost", "data_received"}


def test_the_installed_uvicorn_is_tested_and_has_every_name():
    assert version("uvicorn") in SpecifierSet(TESTED_UVICORN)
    check_uvicorn()


def test_every_name_of_uvicorn_that_a_connection_uses_is_looked_for():
    used = {protocol: set() for protocol in ("", "cycle", "flow")}
    [tree] = [each for each in ast.parse(getsource(connections)).body if isinstance(each, ast.ClassDef)]
    own = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            whose = ast.unparse(node.value)
            if whose in ("self", "super()") and (node.attr not in own or whose == "super()"):
                used[""].add(node.attr)
            elif whose.removeprefix("self.") in used:
                used[whose.removeprefix("self.")].add(node.attr)
    overridden = own & set(dir(connections.HttpToolsProtocol))
    set_here = set(re.findall(r"self\.(_\w+)(?:: .*)? = ", getsource(connections)))
    protocol, cycle, flow, _ = (set(names) for names in NAMES.values())
    assert (used[""] | overridden) - set_here - OF_ASYNCIO - {"__init__"} == protocol
    assert (used["cycle"], used["flow"]) == (cycle, flow)


@pytest.mark.parametrize(("owner", "name"), [(owner, names[0]) for owner, names in NAMES.items()])
def test_a_missing_name_is_reported_in_one_line_with_the_tested_releases(owner, name, monkeypatch):
    module, class_ = owner
    kept = type(class_, (), dict.fromkeys(each for each in NAMES[owner] if each != name))
    monkeypatch.setattr(import_module(module), class_, kept)
    expected = (
        rf"^uvicorn \S+ has no {class_}\.{name}, which Resonant \S+ needs to limit connections: "
        r"pip install 'uvicorn>=0\.53,<0\.55'$"
    )
    with pytest.raises(ResonantError, match=expected):
        check_uvicorn()


def test_a_missing_module_is_reported_as_a_missing_name(monkeypatch):
    monkeypatch.setattr(compatibility, "NAMES", {("uvicorn.gone", "Gone"): ("name",)})
    with pytest.raises(ResonantError, match=r"has no Gone\.name, "):
        check_uvicorn()
