"""Databases without tables, and quick upgrades."""

import pytest

from resonant.store.engine import moving


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The URL of a database without tables, of one kind after the other."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(autouse=True)
def quick_upgrades(monkeypatch):
    """Upgrades soon look again whether other transactions have moved their events."""
    monkeypatch.setattr(moving, "_WAIT_SECONDS", 0.01)
