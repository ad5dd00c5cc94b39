"""Lets this process be a later version of Resonant, whose schema has one migration more."""

from pathlib import Path

import pytest

from resonant.store.engine import database, migrate
from support.example_migrations import example

VERSION = example.revision
_FOLDER = Path(example.__file__).parent


def become_later(patch: pytest.MonkeyPatch) -> None:
    for module in (migrate, database):
        patch.setattr(module, "SCHEMA_VERSION", VERSION)
    patch.setattr(migrate, "_FOLDERS", [*migrate._FOLDERS, str(_FOLDER)])
