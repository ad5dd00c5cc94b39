"""What tests do with events."""

from dataclasses import asdict

from resonant.events import Event


def changed(event, **attributes):
    """Copy an event with other attributes, unchecked."""
    return Event.from_stored(**asdict(event) | attributes)
