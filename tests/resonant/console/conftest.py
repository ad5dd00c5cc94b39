"""Fixtures of the console's tests."""

import pytest

from support.console import open_pages


@pytest.fixture
def pages(sqlite_desk):
    with open_pages(sqlite_desk) as pages:
        yield pages
