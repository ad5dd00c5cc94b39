"""Fixtures of the tests of sources."""

import pytest

from support.sources import source


@pytest.fixture
def of(tmp_path):
    """Return a function that declares a source with a scheme, and returns it."""

    def declare(verify, **fields):
        return source(tmp_path, verify, **fields)

    return declare
