"""``resonant init``: a copy of the flows, for teams that want to change them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.errors import ResonantError
from resonant.local.project import PROJECT_PARTS, installed_project

_NEXT = """\
copied {parts} to {folder}
Commands that run in this folder use these flows:
  cd {path}
  resonant up
With your own Prefect server, instead of `resonant up`:
  python -m deployments.bootstrap
  prefect worker start --pool resonant
"""


class InitError(ResonantError):
    """The flows cannot be copied."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init", rich_help_panel=options.RUN, epilog="Example: resonant init our-flows")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new folder.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier copy; keep all other files.")
    ] = False,
) -> None:
    """Copy the flows, tasks, blocks and deployments to a folder, so that you can change them.

    Commands and workers that start in that folder use its flows instead of the installed ones.
    """
    source = installed_project()
    try:
        _check(folder, source, overwrite=overwrite)
        for part in PROJECT_PARTS:
            _copy(source / part, folder / part)
    except OSError as error:
        # copytree raises one error for all files, with a list of (source, target, reason).
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise InitError(f"cannot copy the flows to {output.visible(str(folder))}: {reason}") from None
    shown = output.visible(str(folder))
    output.write(_NEXT.format(parts=" ".join(PROJECT_PARTS), folder=shown, path=shlex.quote(shown)))


def _check(folder: Path, source: Path, *, overwrite: bool) -> None:
    shown = output.visible(str(folder))
    if folder.exists() and not folder.is_dir():
        raise InitError(f"{shown} is not a folder")
    if folder.is_dir() and folder.samefile(source):
        raise InitError(f"{shown} is the project that this installation uses")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InitError(f"{shown} is not empty: choose another folder, or use --overwrite")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
