"""The attributes of an event, as filters see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.events import canonical_text

if TYPE_CHECKING:
    from resonant.events import Event


def attributes_of(event: Event) -> dict[str, str]:
    """Return the context attributes and extensions by name, as the strings that a receiver gets.

    JSON data has the ``datacontenttype`` application/json. An event has a ``time`` only if its producer gave one.
    """
    kind = event.datacontenttype or ("application/json" if event.form == "json" else None)
    found = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": kind,
        "dataschema": event.dataschema,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
    }
    present = {name: value for name, value in found.items() if value is not None}
    if event.extensions_json is not None:
        present |= {name: canonical_text(value) for name, value in event.extensions.items()}
    return present
