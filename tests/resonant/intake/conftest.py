"""Fixtures of the intake's tests."""

import pytest

from resonant.intake.access import token_changes
from support.posting import posting


@pytest.fixture
def client(sqlite_desk):
    with posting(sqlite_desk) as client:
        yield client


@pytest.fixture
def new_token(sqlite_desk):
    """Create a token with these scopes, and return its text."""

    def create(name="shop", **scopes):
        change = {"who": "a test", "now": sqlite_desk.clock()}
        return sqlite_desk.write(token_changes.create, name, **change, **scopes)

    return create
