"""The events that Resonant itself creates, about endpoints, dead letters and alerts: see ``store/queue/own_events.py``."""

# Producers on the command line and over HTTP cannot use it.
OWN_SOURCE = "/resonant"
OWN_TYPES = "resonant."


def is_own_type(event_type: str) -> bool:
    """Return whether an event of this type may be one of Resonant's own, of this or another version."""
    return event_type.startswith(OWN_TYPES)
