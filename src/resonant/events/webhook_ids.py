"""The ``webhook-id`` of an event, by which receivers recognise duplicates. It is unique in the store, and has no dot.

A hash of source and id replaces the id if

- another source already has it as a webhook-id,
- it has a dot, which would let a producer shift the parts of the signed text (``id.timestamp.body``),
- it has a character outside visible ASCII, which a header cannot carry, or
- it looks like such a hash; otherwise, a producer could take the webhook-id of another source's event.
"""

import re
from base64 import b32encode
from hashlib import sha256

from resonant.events.event import EventKey

_CHARACTERS = 26  # 130 bits
_SAFE = re.compile(r"[!-\-/-~]+")  # visible ASCII without the dot
_HASHED = re.compile(rf"evt_[a-z2-7]{{{_CHARACTERS}}}")


def webhook_id(identity: EventKey, *, is_taken: bool) -> str:
    """Return the event's id, or a hash of source and id.

    Args:
        identity: of the event.
        is_taken: whether an event of another source has the id as its webhook-id.
    """
    source, event_id = identity
    looks_hashed = event_id[:4] == "evt_" and _HASHED.fullmatch(event_id)
    if not (is_taken or looks_hashed) and _SAFE.fullmatch(event_id):
        return event_id
    digest = sha256(f"{source}\0{event_id}".encode()).digest()
    return f"evt_{b32encode(digest)[:_CHARACTERS].decode().lower()}"
