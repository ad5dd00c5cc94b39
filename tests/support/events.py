"""Helpers for events in tests."""

from dataclasses import asdict

from resonant.events import Event


def changed(event, **attributes):
    """Copy an event with other attributes, without validation."""
    return Event.from_stored(**asdict(event) | attributes)
