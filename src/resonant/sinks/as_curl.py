"""An event as a command for curl, as an attempt sends it, without the secrets of the endpoint."""

import base64
import shlex

from resonant.display import visible
from resonant.events import Event
from resonant.sinks.wire import message

_MOST_BYTES = 65_536


def headers_of(event: Event) -> list[str]:
    """Return the headers that describe an event, in binary mode, without timestamp and signature."""
    headers, _ = message(event, "binary")
    own = [f"{name.decode()}: {value.decode()}" for name, value in headers]
    return [f"webhook-id: {event.webhook_id}", *own]


def as_curl(event: Event) -> list[str] | None:
    """Return the lines of a command that sends the event; None if its body is large or gone."""
    _, body = message(event, "binary")
    if len(body) > _MOST_BYTES or event.form in ("removed", "erased"):
        return None
    begin, data = "", shlex.quote(body.decode(errors="replace"))
    # The page would show hidden characters as escapes, which the command would send.
    if event.form == "bytes" or visible(data) != data:
        begin, data = f"printf %s {base64.b64encode(body).decode()} | base64 -d | ", ""
    headers = [f"  -H {shlex.quote(each)}" for each in headers_of(event)]
    how = f"  --data-raw {data}" if data else "  --data-binary @-"
    lines = [f"{begin}curl -X POST 'URL'", *headers, '  -H "webhook-timestamp: $(date +%s)"', how]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
