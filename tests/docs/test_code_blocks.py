"""Blocks of code in the documentation are valid: Python compiles and imports names that exist, YAML and TOML are parsed."""

import ast
import textwrap
import tomllib
from importlib import import_module

import pytest
import yaml

from support.pages import PROJECT, pages


def blocks(*languages):
    return [
        pytest.param(block, id=f"{page}:{block.line}")
        for page in pages()
        for block in page.blocks
        if block.language in languages
    ]


def imported_names(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, each.name) for each in node.names)


def missing_names(text):
    modules = [(import_module(module), name) for module, name in imported_names(text)]
    return [f"{module.__name__}.{name}" for module, name in modules if name and not hasattr(module, name)]


@pytest.fixture(autouse=True)
def sink_of_the_examples(monkeypatch):
    """An example that is a package, which pages import."""
    monkeypatch.syspath_prepend(PROJECT / "examples" / "spool_sink")


@pytest.mark.parametrize("block", blocks("python", "py"))
def test_python_compiles_and_imports_names_that_exist(block):
    text = textwrap.dedent(block.text)
    compile(text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert missing_names(text) == []


def test_a_name_that_does_not_exist_is_found():
    assert missing_names("from resonant import Event, enqeue") == ["resonant.enqeue"]


@pytest.mark.parametrize("block", blocks("toml", "yaml", "yml"))
def test_toml_and_yaml_are_valid(block):
    if block.language == "toml":
        tomllib.loads(block.text)
    else:
        assert list(yaml.parse(block.text))  # not loaded: a part of a file may lack its anchors
