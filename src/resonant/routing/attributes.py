"""The attributes of an event, as filters see them."""

from resonant.events import Event, canonical_text, given_attributes


def attributes_of(event: Event) -> dict[str, str]:
    """Return the context attributes and extensions by name, as the strings that a receiver gets.

    JSON data has the ``datacontenttype`` application/json. An event has a ``time`` only if its producer gave one.
    """
    found = {name: canonical_text(value) for name, value in given_attributes(event).items()}
    return {"datacontenttype": "application/json"} | found if event.form == "json" else found
