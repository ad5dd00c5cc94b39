"""The events that Resonant itself creates, about endpoints, dead letters and alerts: see ``store/queue/own_events.py``.

Producers cannot use their source and types.
"""

from resonant.errors import InvalidEvent

OWN_SOURCE = "/resonant"
OWN_TYPES = "resonant."
# Of the events with which operators test endpoints.
TEST_TYPE, TEST_SOURCE = "resonant.test", "/resonant/endpoint-test"


def is_own_type(event_type: str) -> bool:
    """Return whether an event of this type may be one of Resonant's own, of this or another version."""
    return event_type.startswith(OWN_TYPES)


def refuse_own(event_type: object, source: object) -> None:
    """Refuse a producer's event that could be taken for one of Resonant's own.

    Raises:
        InvalidEvent: the type or the source is reserved.
    """
    if isinstance(event_type, str) and is_own_type(event_type):
        raise InvalidEvent(
            f"types that begin with {OWN_TYPES} are reserved for Resonant's own events", member="type"
        )
    if source == OWN_SOURCE:
        raise InvalidEvent(f"the source {OWN_SOURCE} is reserved for Resonant's own events", member="source")
