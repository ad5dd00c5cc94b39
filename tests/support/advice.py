"""Lines of advice name commands and options that exist."""

import re
from collections.abc import Iterable

import typer

from resonant.cli import app


def _known() -> dict[str, set[str]]:
    """Return every command, as it is typed, with its options."""
    found: dict[str, set[str]] = {}

    def walk(command, name: str) -> None:
        found[name] = {option for each in command.params for option in each.opts}
        for child in getattr(command, "commands", {}).values():
            walk(child, f"{name} {child.name}")

    walk(typer.main.get_command(app), "resonant")
    return found


def named_commands(lines: Iterable[str]) -> set[str]:
    """Return the commands that lines name, after checking that each exists and has its options."""
    known, lines = _known(), list(lines)
    named = {command for line in lines for command in re.findall(r"`(resonant [^`]*)`", line)}
    for command in named:
        words = command.split()
        name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in known), None)
        assert name in known, command
        assert {word for word in words if word.startswith("-")} <= known[name], command
    options = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert options <= set().union(*known.values())
    return named
