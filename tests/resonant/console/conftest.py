"""Fixtures of the console's tests."""

import shutil

import pytest

from support.console import open_pages


@pytest.fixture
def sqlite_desk(open_desk, sqlite_template, tmp_path):
    """For tests of what is the same on both databases."""
    return open_desk(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")


@pytest.fixture
def pages(sqlite_desk):
    with open_pages(sqlite_desk) as pages:
        yield pages
