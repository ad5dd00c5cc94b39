"""Ask for confirmation before a command does harm that is hard to undo."""

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
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # the end of the input
        agreed = False
        output.say("")
    if not agreed:
        output.say("nothing was changed")
        raise typer.Exit(1)
