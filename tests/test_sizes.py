"""How large files and constructors may become."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("src", "flows", "tasks", "blocks", "deployments", "tests")
MOST_LINES = 400
MOST_ARGUMENTS = 7


def modules():
    listed = subprocess.run(
        ["git", "ls-files", "--", *(f"{folder}/*.py" for folder in FOLDERS)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.splitlines() if (path := PROJECT / name).exists()]


def constructors(text):
    """Yield the name of each class with a constructor of its own, and how many arguments that takes."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and not is_record(node):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    arguments = method.args
                    yield node.name, len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1


def is_record(node):
    """Whether it is a dataclass, a named tuple or a model: its constructor takes its fields."""
    about = [ast.unparse(each) for each in (*node.decorator_list, *node.bases)]
    return any(word in each for each in about for word in ("dataclass", "NamedTuple", "BaseModel"))


def test_no_file_has_over_400_lines():
    lengths = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in modules()}
    assert len(lengths) > 100, "git lists the modules"
    assert [name for name, length in lengths.items() if length > MOST_LINES] == []


def test_no_service_class_takes_over_seven_arguments():
    found = [
        (f"{path.relative_to(PROJECT)}:{name}", number)
        for path in modules()
        for name, number in constructors(path.read_text())
    ]
    assert len(found) > 10, "the constructors are found"
    assert [each for each in found if each[1] > MOST_ARGUMENTS] == []


def test_a_constructor_is_counted_without_self_and_records_are_not():
    text = """
class Service:
    def __init__(self, a, /, b, *, c): ...

@dataclass(frozen=True)
class Record:
    def __init__(self, a, b): ...
"""
    assert list(constructors(text)) == [("Service", 3)]
