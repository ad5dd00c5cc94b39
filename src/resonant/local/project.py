"""Find the project: the folder of ``prefect.yaml`` and of the packages ``flows``, ``tasks``, ``blocks``, ``deployments``.

The wheel contains it as ``resonant/_project``, since packages with such common names do not belong in site-packages.
"""

import contextlib
import sys
from pathlib import Path

import resonant
from resonant.errors import ResonantError

PROJECT_PARTS = ("flows", "tasks", "blocks", "deployments", "prefect.yaml")
# Each package's name is too common to identify a project.
MARKS = ("prefect.yaml", "flows/emit.py", "tasks/emit.py", "blocks/__init__.py", "deployments/server.env")


def project_directory() -> Path:
    """Return the working folder if it is a project, otherwise the installed project.

    Raises:
        ResonantError: this installation is incomplete.
    """
    with contextlib.suppress(OSError):  # the working folder may be deleted
        if is_project(here := Path.cwd()):
            return here
    return installed_project()


def installed_project() -> Path:
    """Return the project of an editable install's checkout, or of the wheel.

    Raises:
        ResonantError: this installation is incomplete.
    """
    package = Path(str(resonant.__file__)).resolve().parent
    for folder in (package.parents[1], package / "_project"):
        if is_project(folder):
            return folder
    raise ResonantError(
        f"this installation of Resonant has no flows in {package / '_project'}: install it again"
    )


def is_project(folder: Path) -> bool:
    """Return whether a folder is a checkout, or a copy made by ``resonant init``."""
    return all((folder / mark).is_file() for mark in MARKS)


def make_flows_importable() -> None:
    """Let ``import flows`` find the project's flows and tasks from any working directory."""
    folder = str(project_directory())
    if folder not in sys.path:
        sys.path.insert(0, folder)
