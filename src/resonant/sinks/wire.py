"""An event as an HTTP message: the CloudEvents 1.0 HTTP binding, in binary or structured mode."""

import base64
import re
from urllib.parse import quote

from resonant.events import Event, canonical_text, encode_data, given_attributes
from resonant.sinks.endpoint import Mode

Header = tuple[bytes, bytes]

_JSON = (b"content-type", b"application/json")
# The SDK for JavaScript compares this text exactly.
_STRUCTURED = (b"content-type", b"application/cloudevents+json; charset=utf-8")
# Receivers recognise structured mode by this prefix.
_CLOUDEVENTS = "application/cloudevents"

# CloudEvents HTTP binding, 3.1.3.2: printable characters except the double quote and the percent sign are not encoded.
_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_NEEDS_NO_QUOTING = re.compile(r"[!#$&-~]*")  # the same characters


def message(event: Event, mode: Mode) -> tuple[list[Header], bytes]:
    """Return the headers that describe an event, and the body.

    An event whose data is itself a CloudEvent is structured in both modes. In binary mode, its receiver would take the
    attributes in the data for those of the event, so a producer could forge them.
    """
    kind, attributes = event.datacontenttype, given_attributes(event)
    if mode == "structured" or (kind is not None and kind.lower().startswith(_CLOUDEVENTS)):
        if event.form == "json":
            # The default; the SDKs and the conformance tests of CloudEvents expect it.
            attributes.setdefault("datacontenttype", "application/json")
        return [_STRUCTURED], b"".join((encode_data(attributes)[:-1], *_data(event), b"}"))
    attributes.pop("datacontenttype", None)
    headers = [(f"ce-{name}".encode(), _encoded(canonical_text(value))) for name, value in attributes.items()]
    if kind is not None:
        headers.append((b"content-type", kind.encode("ascii")))
    elif event.form == "json":
        headers.append(_JSON)
    return headers, event.body


def _data(event: Event) -> tuple[bytes, ...]:
    match event.form:
        case "json":
            return b',"data":', event.body
        case "text":
            return b',"data":', encode_data(event.body.decode())
        case "bytes":
            return b',"data_base64":"', base64.b64encode(event.body), b'"'
        case _:
            return ()


def _encoded(value: str) -> bytes:
    return (value if _NEEDS_NO_QUOTING.fullmatch(value) else quote(value, safe=_UNQUOTED)).encode()
