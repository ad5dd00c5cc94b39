"""A declared source: how its webhooks are checked, and which events they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events import ABSENT, OWN_SOURCE, Event, JsonBytes, charset_of, is_json
from resonant.intake.access.tokens import has_dot_segment
from resonant.intake.sources.schemes import TOLERANCE_SECONDS, Options, Scheme
from resonant.intake.sources.templates import FORM, Received, Template


def is_reserved(start: str) -> bool:
    """Return whether a type or a source begins as those of Resonant's own events."""
    return start.removeprefix("/").startswith(OWN_SOURCE.removeprefix("/"))


class Stale(Exception):
    """A request was signed too long ago, or in the future.

    Args:
        age: in seconds.
    """

    def __init__(self, age: float) -> None:
        super().__init__()
        self.age = age


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source.

    Attributes:
        name: the last segment of its path.
        verify: the name of its scheme.
        options: settings of the scheme, with the secrets.
        type, source, subject, extensions: templates of these attributes.
        ids: templates of the id; the first one whose values exist is used.
        tolerance: the largest difference between a signed time and now, in seconds.
        max_bytes: the largest body; None: the limit for events.
        rate: requests per second in each server process.
        keeps_conflicts: acknowledge a repeat with other content.
        keeps_unrouted: acknowledge an event that no subscription matches.
        endpoint: the only receiver; None: subscriptions decide.
    """

    name: str
    verify: str
    scheme: Scheme
    options: Options = field(repr=False)
    type: Template
    source: Template
    ids: Sequence[Template]
    subject: Template | None = None
    extensions: Mapping[str, Template] = field(default_factory=dict)
    tolerance: float = TOLERANCE_SECONDS
    max_bytes: int | None = None
    rate: float | None = None
    keeps_conflicts: bool = False
    keeps_unrouted: bool = True
    endpoint: str | None = None

    @property
    def may_be_copied(self) -> bool:
        """Whether a captured request can be sent again under another id."""
        return self.scheme.signs_body_only and any(each.has_header for each in self.ids)

    def check(self, received: Received, query: str, now: float) -> None:
        """Check the signature of a request and its time.

        Raises:
            Forged: no secret fits.
            Stale: the signed time is too far from ``now``.
        """
        at = self.scheme.check(received, query, self.options)
        if at is not None and abs(now - at) > self.tolerance:
            raise Stale(now - at)

    def event(self, received: Received, *, most_bytes: int) -> Event:
        """Return the event that a request becomes; its data is the body, byte for byte.

        Raises:
            InvalidEvent: the request lacks a value, or a value is not valid.
        """
        source = self.source.render(received, safe="/")
        if is_reserved(source) or has_dot_segment(source):
            raise InvalidEvent(
                f"the source {source!r:.80} is reserved, or has the segments . or ..", member="source"
            )
        event_type = self.type.render(received)
        if is_reserved(event_type):
            raise InvalidEvent(f"the type {event_type!r:.80} is reserved", member="type")
        kind = received.headers.get("content-type")
        data: Any = received.body
        if _is_valid_json(received, kind):
            data = JsonBytes(data)
        elif received.kind == FORM and data.isascii():
            data = data.decode("ascii")
        return Event(
            id=self._id(received),
            type=event_type,
            source=source,
            subject=(self.subject and self.subject.render(received)) or None,
            extensions={name: each.render(received) or None for name, each in self.extensions.items()},
            data=data or ABSENT,
            datacontenttype=kind,
            max_bytes=most_bytes,
        )

    def _id(self, received: Received) -> str:
        problem: InvalidEvent | None = None
        for each in self.ids:
            try:
                return each.render(received)
            except InvalidEvent as error:
                problem = problem or error
        assert problem is not None  # noqa: S101 - a source has an id
        raise problem


def _is_valid_json(received: Received, kind: str | None) -> bool:
    if kind is None or not is_json(kind) or charset_of(kind) not in (None, "utf-8", "utf8"):
        return False
    try:
        received.data  # noqa: B018 - it is parsed once
    except InvalidEvent:
        return False
    return True
