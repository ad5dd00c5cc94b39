"""Databases without tables."""

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The URL of a database without tables, of one kind after the other."""
    return request.getfixturevalue(f"{request.param}_url")
