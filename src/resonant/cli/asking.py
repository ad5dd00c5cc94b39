"""Ask for confirmation before a command does harm that is hard to undo."""

from __future__ import annotations

import sys

import typer

from resonant import output


def can_ask() -> bool:
    """Return whether somebody can answer: standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(fact: str, question: str) -> None:
    """Ask on standard error, so that standard output has only the command's result.

    Args:
        fact: what would happen, with the numbers.
        question: a short question.

    Raises:
        typer.Exit: with code 1, unless the answer is yes.
    """
    output.say(fact)
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
