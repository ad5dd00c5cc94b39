"""``resonant init``: a copy of the flows, for teams that want to change them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from resonant import output
from resonant.errors import InitError
from resonant.local.project import PROJECT_PARTS, installed_project

_NEXT = """\
copied {parts} to {folder}
Commands that run in this folder use these flows:
{enter}  resonant up
With your own Prefect server, instead of `resonant up`:
  python -m deployments.bootstrap
  prefect worker start --pool resonant
"""


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new folder.")]) -> None:
    """Copy the flows, tasks, blocks and deployments to a new folder, so that you can change them.

    Commands and workers that start in that folder use its flows instead of the installed ones. After an upgrade, copy to
    another folder, and compare.
    """
    shown = output.visible(str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InitError(f"{shown} is not empty: choose a new folder, such as `resonant init our-flows`")
        for part in PROJECT_PARTS:
            _copy(installed_project() / part, folder / part)
    except FileExistsError:
        raise InitError(f"{shown} is not a folder") from None
    except OSError as error:
        raise InitError(f"cannot copy the flows to {shown}: {error.strerror or error}") from None
    enter = "" if folder.samefile(Path()) else f"  cd {shlex.quote(shown)}\n"
    output.write(_NEXT.format(parts=" ".join(PROJECT_PARTS), folder=shown, enter=enter))


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, but not the files' modes: this process creates private files."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)
