"""A declared source: how its webhooks are checked, and which events they become."""

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events import ABSENT, OWN_SOURCE, Event, JsonBytes, essence, is_json
from resonant.intake.access.tokens import has_dot_segment
from resonant.intake.sources.schemes import TOLERANCE_SECONDS, Options, Scheme
from resonant.intake.sources.templates import FORM, USE_JSON, Received, Template


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

    def longest_body(self, content_type: str, most_bytes: int) -> int:
        """Return how many bytes a body may have whose data has ``most_bytes``: a form may write each byte as three."""
        is_wrapped = self.scheme.payload and essence(content_type) == FORM
        return 3 * most_bytes + len(f"{self.scheme.payload}=") if is_wrapped else most_bytes

    def event(self, received: Received, *, most_bytes: int) -> Event:
        """Return the event that a request becomes; its data is the body, byte for byte, or the payload in a form.

        Raises:
            InvalidEvent: the request lacks a value, or a value is not valid.
        """
        received = self._content(received)
        kind = received.headers.get("content-type")
        data: Any = received.body
        if data and is_json(kind or ""):
            received.data  # noqa: B018 - it raises
            # Inside a document, a byte order mark is not JSON.
            data = JsonBytes(data.removeprefix(BOM_UTF8))
        elif received.kind == FORM and data.isascii():
            data = data.decode("ascii")
        source = self.source.render(received, safe="/")
        if is_reserved(source) or has_dot_segment(source):
            raise InvalidEvent(
                f"the source {source!r:.80} is reserved, or has the segments . or ..", member="source"
            )
        event_type = self.type.render(received)
        if is_reserved(event_type):
            raise InvalidEvent(f"the type {event_type!r:.80} is reserved", member="type")
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

    def _content(self, received: Received) -> Received:
        if not self.scheme.payload:
            return received
        if received.kind == FORM:
            received = received.of_field(self.scheme.payload)
        elif not is_json(received.kind):
            raise InvalidEvent(f"the content type is {received.kind or 'missing':.60}: {USE_JSON}")
        if not isinstance(received.data, dict):
            raise InvalidEvent(
                f"the data is not a JSON object: at the provider, use this URL only for webhooks of {self.verify}"
            )
        return received

    def _id(self, received: Received) -> str:
        problem: InvalidEvent | None = None
        for each in self.ids:
            try:
                return each.render(received)
            except InvalidEvent as error:
                problem = problem or error
        assert problem is not None  # noqa: S101 - a source has an id
        raise problem
