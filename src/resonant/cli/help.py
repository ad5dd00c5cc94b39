"""Commands and groups with help texts that fill the terminal's width and hide the Python types of flags and arguments."""

import inspect
from collections import Counter
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from resonant.cli.options import Misuse


class _Plain:
    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, with their types hidden in help."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for each in parameters:
            if getattr(each, "is_flag", False):
                each.metavar = ""  # else <bool>
            elif isinstance(each, TyperArgument):
                # Newer versions of Typer show the type after the name, such as <list[str]>.
                vars(each)["display_type_rich"] = lambda **_: ""
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the arguments; raise ``Misuse`` for a repeated option."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)  # type: ignore[misc]


class Command(_Plain, TyperCommand):
    """A command with these help texts, which refuses a repeated single-value option."""

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:  # noqa: A002 - Typer's name
        super().__init__(*args, help=_flowing(help), **options)


class Group(_Plain, TyperGroup):
    """A group of commands with these help texts, which refuses a repeated single-value option of its own."""


def use_classes(app: typer.Typer) -> None:
    """Make every registered command a ``Command``, and every nested group a ``Group``."""
    for registered in app.registered_commands:
        registered.cls = Command
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            use_classes(group.typer_instance)


def _refuse_repeated(command: Any, ctx: typer.Context, args: list[str]) -> None:
    """Refuse an option that takes one value and is given more than once: Typer would take the last value.

    Raises:
        Misuse: the message names the option.
    """
    if ctx.resilient_parsing:
        return
    _, _, given = command.make_parser(ctx).parse_args(args=list(args))
    for each, times in Counter(given).items():
        takes_one = each.param_type_name == "option" and not getattr(each, "multiple", False)
        if takes_one and times > 1 and not getattr(each, "is_flag", False):
            raise Misuse(f"{each.opts[0]} takes one value, but was given {times} times")


def _flowing(text: str | None) -> str | None:
    """Join the lines of each paragraph: Typer keeps the line breaks of all paragraphs but the first."""
    if text is None:
        return None
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)
