"""The description of the HTTP interface: an OpenAPI 3.1 document, from which ``/docs`` and the reference are made."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

from resonant.intake.description.schemas import schemas
from resonant.intake.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.intake.limits import Limits

# Their meanings and schemas, by name.
_Headers: TypeAlias = dict[str, tuple[str, dict[str, Any]]]

# IDEMPOTENCY_KEY, without the names of its groups.
_KEY = r'^("[!#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255})$'
_TEXT = {"type": "string"}
_SECONDS = {"type": "integer", "minimum": 1}
_AUTHENTICATE: _Headers = {"WWW-Authenticate": ("How to send a token.", _TEXT)}
_RETRY_AFTER: _Headers = {"Retry-After": ("Seconds to wait before the same request is sent again.", _SECONDS)}
_ALLOW: _Headers = {"Allow": ("The methods of this path.", _TEXT)}


def openapi(limits: Limits, *, needs_token: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        limits: of the server.
        needs_token: whether requests need a token.
    """
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Resonant",
            "version": version("resonant"),
            "summary": "Send events, which Resonant delivers to endpoints.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/events": {"post": _send(limits), "options": _handshake()},
            "/events/{source}/{id}": {"get": _look_up()},
            "/healthz": {"get": _status("getHealth", "Ask whether the process runs.", "ok")},
            "/readyz": {
                "get": _status("getReadiness", "Ask whether the store can be used.", "ready", is_ready=True)
            },
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _document("getOpenapi", "Read this document.", "application/json")},
            "/docs": {"get": _document("getDocs", "Read this document as a page.", "text/html")},
        },
        "components": {
            "schemas": schemas(limits),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `resonant token create`: `Authorization: Bearer rsn_…`.",
                }
            },
        },
    }
    if not needs_token:
        _remove_tokens(document)
    for operation in _operations(document):
        operation["responses"] = dict(sorted(operation["responses"].items()))
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def _send(limits: Limits) -> dict[str, Any]:
    event = {"$ref": "#/components/schemas/Event"}
    mib = limits.batch_bytes / 2**20
    return {
        "operationId": "sendEvents",
        "summary": "Store events.",
        "description": (
            "The answer 202 means that the events are committed to the store; they are sent to the endpoints afterwards. Repeat a "
            "request that got no answer: an event with the same `source` and `id` is stored once.\n\n"
            "Several events are stored all or none. With `Prefer: handling=lenient`, the good ones are stored, and `errors` lists "
            "the others.\n\n"
            f"Limits: {limits.event_bytes:,} bytes of data in an event; {limits.batch_events:,} events and {mib:g} MiB in a "
            f"request; {limits.header_bytes:,} bytes of headers; {limits.read_seconds:g} seconds to send it. "
            "`Content-Encoding` is not accepted."
        ),
        "security": [{"token": []}],
        "parameters": [
            _parameter(
                "query",
                "endpoint",
                "The endpoint that receives the events. By default, the subscriptions decide.",
                {"type": "string", "maxLength": 1024},
            ),
            _parameter(
                "header",
                "Prefer",
                "`handling=lenient` stores the good events of several; other preferences have no effect.",
            ),
            _parameter(
                "header",
                "Idempotency-Key",
                "The `id` of a single event that has none, in quotes or not. A request with several events must not have it.",
                {"type": "string", "pattern": _KEY},
            ),
            _parameter("header", "traceparent", "The trace (W3C Trace Context) of events that have none."),
            _parameter("header", "tracestate", "The state of this trace."),
            *(
                _parameter("header", f"ce-{name}", f"Binary mode: the {meaning}, percent-encoded UTF-8.")
                for name, meaning in {
                    "type": "`type` of the event, required",
                    "source": "`source` of the event, required",
                    "id": "`id` of the event",
                    "specversion": "version, `1.0`",
                    "time": "`time` of the event",
                    "subject": "`subject` of the event",
                    "dataschema": "`dataschema` of the event",
                }.items()
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/cloudevents+json": {
                    "schema": event,
                    "example": {
                        "specversion": "1.0",
                        "type": "com.example.order.paid",
                        "source": "/shop",
                        "id": "order-42-paid",
                        "data": {"order": 42},
                    },
                },
                "application/cloudevents-batch+json": {"schema": {"$ref": "#/components/schemas/Events"}},
                "application/jsonl": {"schema": {"$ref": "#/components/schemas/Lines"}},
                "*/*": {"schema": {"$ref": "#/components/schemas/Data"}},
            },
        },
        "responses": {
            "202": _answer("The events are stored, or were stored before.", "Stored")
            | _headers({"Preference-Applied": ("`handling=lenient`, if it was preferred.", _TEXT)}),
            **_problems(
                {
                    "400": "The body is not JSON, or the query or a header is not valid.",
                    "403": "The token is not for this source, type or endpoint; without tokens, the request is from a page of another origin.",
                    "405": "Another method.",
                    "409": "An event with this `source` and `id` is stored with other content.",
                    "413": "The event or the request is too large; `limit` has the limit.",
                    "415": "The body has another media type, or a `Content-Encoding`.",
                    "422": "An event is not valid or `unrouted` (no subscription matches it), or the endpoint is unknown.",
                }
            ),
            **_common(with_token=True),
        },
    }


def _look_up() -> dict[str, Any]:
    return {
        "operationId": "getEvent",
        "summary": "Read the deliveries of an event.",
        "description": "The token needs `--read`. It sees deliveries within its scopes only.",
        "security": [{"token": []}],
        "parameters": [
            _parameter("path", "source", "The source of the event, percent-encoded, slashes too."),
            _parameter("path", "id", "The id of the event, percent-encoded."),
        ],
        "responses": {
            "200": _answer("The event is stored.", "Found"),
            **_problems(
                {
                    "400": "The request has a token in its query, or is not HTTP.",
                    "403": "The token may not read.",
                    "404": "There is no such event, or not for this token.",
                    "405": "Another method.",
                }
            ),
            **_common(with_token=True),
        },
    }


def _handshake() -> dict[str, Any]:
    return {
        "operationId": "askToSend",
        "summary": "Ask whether an origin may send (CloudEvents webhooks).",
        "security": [],
        "parameters": [
            _parameter("header", "WebHook-Request-Origin", "The host that wants to send."),
        ],
        "responses": {
            "200": {"description": "The origin may send, with a token."}
            | _headers(
                _ALLOW
                | {
                    "WebHook-Allowed-Origin": ("The same origin.", _TEXT),
                    "WebHook-Allowed-Rate": ("`*`: the rate of the token is the limit.", _TEXT),
                }
            ),
            "204": {"description": "The request names no origin."} | _headers(_ALLOW),
            **_problems({"403": "The origin may not send: `resonant serve --allow-origin` allows it."}),
            **_common(),
        },
    }


def _status(name: str, summary: str, status: str, *, is_ready: bool = False) -> dict[str, Any]:
    schema = {"type": "object", "required": ["status"], "properties": {"status": {"const": status}}}
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": "Yes.", "content": {"application/json": {"schema": schema}}},
            **_problems({"405": "Another method."}),
            **_common(unavailable="The store cannot be used now." if is_ready else None),
        },
    }


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "getMetrics",
        "summary": "Read the counts of this process as Prometheus text.",
        "description": "A server that listens on loopback needs no token for this.",
        "security": [{"token": []}, {}],
        "responses": {
            "200": {"description": "The counts.", "content": {"text/plain": {"schema": _TEXT}}},
            **_problems({"400": "The request has a token in its query.", "405": "Another method."}),
            **_common(with_token=True),
        },
    }


def _document(name: str, summary: str, kind: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": "The document.", "content": {kind: {}}},
            **_problems({"405": "Another method."}),
            **_common(),
        },
    }


def _parameter(
    place: str, name: str, description: str, schema: dict[str, Any] | None = None
) -> dict[str, Any]:
    parameter = {"in": place, "name": name, "description": description, "schema": schema or _TEXT}
    return parameter | ({"required": True} if place == "path" else {})


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _headers(headers: _Headers) -> dict[str, Any]:
    return {
        "headers": {
            name: {"description": meaning, "schema": schema} for name, (meaning, schema) in headers.items()
        }
    }


def _problems(meanings: dict[str, str]) -> dict[str, Any]:
    """Return the descriptions of refusals by status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers = {status: {"description": meaning, "content": content} for status, meaning in meanings.items()}
    headers: dict[str, _Headers] = {
        "401": _AUTHENTICATE,
        "405": _ALLOW,
        "429": _RETRY_AFTER,
        "503": _RETRY_AFTER,
    }
    return {status: answer | _headers(headers.get(status, {})) for status, answer in answers.items()}


def _common(*, with_token: bool = False, unavailable: str | None = None) -> dict[str, Any]:
    """Return the descriptions of refusals that any request may get."""
    of_tokens = {"401": "The token is missing, unknown or revoked.", "429": "The token's rate is used up."}
    return _problems(
        {
            **(of_tokens if with_token else {}),
            "408": "The request took too long to arrive.",
            "431": "The headers are too large.",
            "503": unavailable or "The store cannot be used now, or too many requests wait for it.",
        }
    )


def _remove_tokens(document: dict[str, Any]) -> None:
    del document["components"]["securitySchemes"]
    for operation in _operations(document):
        operation["security"] = []
        for status in ("401", "429"):
            operation["responses"].pop(status, None)
        for status, answer in _problems({"403": "The request is from a page of another origin."}).items():
            operation["responses"].setdefault(status, answer)
