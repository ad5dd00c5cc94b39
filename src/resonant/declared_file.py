"""Reads a file of declarations in YAML or JSON, and the secrets that it refers to: ``env:NAME`` and ``file:PATH``."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

REFERENCES = ("env:", "file:")
# An alias repeats at most this many values.
_MOST_REPEATED = 1_000


def read_declarations(text: str) -> Any:
    """Return the content of a file.

    Args:
        text: YAML or JSON; JSON lines if every line begins with ``{``.

    Raises:
        ValueError: the text is neither YAML nor JSON; the message says in which line.
    """
    lines = text.splitlines()
    if all(line.startswith("{") for line in lines if line.strip()):  # JSON lines: make them one YAML list
        text = "\n".join(line and f"- {line}" for line in lines)
    try:
        # YAML allows no tabs, and JSON does.
        return yaml.load(text.expandtabs(), _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = str(error.problem) if isinstance(error, _Refused) else "invalid YAML or JSON"
        raise ValueError(f"{problem}{where}") from None


def resolve(value: object, source: str, folder: Path, *, any_file: bool = False, hint: str = "") -> str:
    """Return a value; replace a reference by the environment variable or the file that it names.

    Args:
        value: as written in the file.
        source: the file's name, for messages.
        folder: the folder of relative paths.
        any_file: whether a reference may name a file outside this folder.
        hint: how to allow that, for the message.

    Raises:
        ValueError: the reference leads to nothing; the message contains no secret.
    """
    kind, _, where = str(value).partition(":")
    if kind == "env":
        if not (found := os.environ.get(where)):
            raise ValueError(f"the environment variable {where} is not set")
        return found
    if kind == "file":
        if not (any_file or (folder / where).resolve().is_relative_to(folder.resolve())):
            raise ValueError(f"{where} is not below the folder of {source}{hint}")
        if not (found := _text_of(folder / where, where).strip()):
            raise ValueError(f"the file {where} is empty")
        return found
    return str(value)


def _text_of(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{what}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{what}: not UTF-8 text") from None


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc]
    pass


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses repeated keys and aliases that multiply.

    Of two endpoints with the same keys and no dash between them, only the last would remain. Aliases of aliases can make a short
    file larger than the memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if not is_alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            each_part = chain.from_iterable(parts) if isinstance(node, yaml.MappingNode) else parts
            self._sizes[node] = 1 + sum(self._sizes[part] for part in each_part)
        elif node not in self._sizes or self._sizes[node] > _MOST_REPEATED:
            raise _Refused(
                problem="aliases must not contain themselves or repeat too many values", problem_mark=mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise _Refused(problem=f"the key {key.value!r} is repeated", problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)
