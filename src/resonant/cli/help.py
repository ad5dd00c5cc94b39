"""Help texts that fill the terminal's width and hide the Python types of flags and arguments."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

if TYPE_CHECKING:
    import typer


class Command(TyperCommand):
    """A command with these help texts."""

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:  # noqa: A002 - Typer's name
        super().__init__(*args, help=_flowing(help), **options)

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, with their types hidden in help."""
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands with these help texts."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, with their types hidden in help."""
        return _plain(super().get_params(ctx))


def use_classes(app: typer.Typer, *, command: type[Command]) -> None:
    """Set the class of every registered command, and make every nested group a ``Group``."""
    for registered in app.registered_commands:
        registered.cls = command
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            use_classes(group.typer_instance, command=command)


def _flowing(text: str | None) -> str | None:
    """Join the lines of each paragraph: Typer keeps the line breaks of all paragraphs but the first."""
    if text is None:
        return None
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _plain(parameters: Any) -> Any:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""  # else <bool>
        elif isinstance(each, TyperArgument):
            # Newer versions of Typer show the type after the name, such as <list[str]>.
            vars(each)["display_type_rich"] = lambda **_: ""
    return parameters
