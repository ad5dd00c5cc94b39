"""Signature schemes of other services. Signatures cover the raw body; only Twilio's forms are parsed before the check."""

import base64
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from resonant.intake.sources.templates import FORM, Received

Algorithm = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64"]
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
TOLERANCE_SECONDS = 300.0


class Forged(Exception):
    """No secret fits the request."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a source that its scheme needs.

    Attributes:
        secrets: one of them must fit.
        header: name of the header with the only signature, or the token.
        algorithm, encoding, prefix: how this signature is written.
        url: the public URL of the source (``twilio``).
    """

    secrets: tuple[str, ...]
    header: str = ""
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    prefix: str = ""
    url: str = ""


# Checks a request, given its query, and returns its signed time in seconds since the epoch; None if it has none.
Check = Callable[[Received, str, Options], float | None]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one service signs, and what its webhooks become.

    Attributes:
        check: raises ``Forged`` if no secret fits.
        type, source: templates; ``{name}`` in ``source`` is the name of the source.
        ids: templates; the first one that has its values counts.
        payload: the field of a form that has the data. The data is a JSON object, with or without a form.
        signs_body_only: whether the signature covers no header. A copy with another id in a header is recognised by its signature.
        sets: its own values of options.
        needs, takes: settings that it requires, and others that it allows. A scheme whose signature covers a time takes ``tolerance``.
    """

    check: Check
    type: str = "webhook.received"
    source: str = "/{name}"
    ids: Sequence[str] = ()
    payload: str = ""
    signs_body_only: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    takes: Sequence[str] = ()


def _require(given: Sequence[bytes], expected: Iterator[bytes]) -> None:
    """Compare each given signature with each expected one, in constant time.

    Raises:
        Forged: no pair is equal.
    """
    fits = False
    for each in expected:
        for other in given:
            fits |= hmac.compare_digest(each, other)
    if not fits:
        raise Forged


def _only(headers: Headers, name: str) -> str:
    given = headers.getlist(name)
    if len(given) != 1:
        raise Forged
    return given[0]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sent(header: str) -> bytes:
    """Return the bytes of a header, which Starlette has decoded."""
    return header.encode("latin-1", "replace")


def _time(text: str) -> float:
    if not _TIMESTAMP.fullmatch(text):
        raise Forged
    return float(text)


def _signed(
    signed: bytes,
    options: Options,
    algorithm: Algorithm = "sha256",
    encoding: Encoding = "hex",
    prefix: str = "",
) -> Iterator[bytes]:
    for secret in options.secrets:
        digest = hmac.digest(_bytes(secret), signed, algorithm)
        text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
        yield _bytes(prefix + text)


def _standard_webhooks(received: Received, _query: str, options: Options) -> float:
    headers = received.headers
    # The id of the event is the first of these headers, so that one must be signed.
    prefix = "webhook-" if "webhook-id" in headers else "svix-"
    event_id, time = _only(headers, f"{prefix}id"), _only(headers, f"{prefix}timestamp")
    signed = b".".join((_sent(event_id), _sent(time), received.body))
    keys = (base64.b64decode(each.removeprefix("whsec_")) for each in options.secrets)
    expected = (b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys)
    _require([_sent(each) for each in _only(headers, f"{prefix}signature").split(" ")[:10]], expected)
    return _time(time)


def _stripe(received: Received, _query: str, options: Options) -> float:
    given = [each.partition("=") for each in _only(received.headers, "stripe-signature").split(",")[:20]]
    times = [value for key, _, value in given if key == "t"]
    if len(times) != 1:
        raise Forged
    signed = _sent(times[0]) + b"." + received.body
    _require([_sent(value) for key, _, value in given if key == "v1"], _signed(signed, options))
    return _time(times[0])


def _slack(received: Received, _query: str, options: Options) -> float:
    time = _only(received.headers, "x-slack-request-timestamp")
    signed = b":".join((b"v0", _sent(time), received.body))
    given = _sent(_only(received.headers, "x-slack-signature"))
    _require([given], _signed(signed, options, prefix="v0="))
    return _time(time)


def _twilio(received: Received, query: str, options: Options) -> None:
    """Twilio signs the URL and the sorted fields of a form; of another body, a hash in the URL."""
    signed = _bytes(options.url + (f"?{query}" if query else ""))
    hashes = [value for key, value in parse_qsl(query) if key == "bodySHA256"]
    is_form = received.kind == FORM and not hashes
    if is_form:
        try:
            fields = sorted(
                set(parse_qsl(received.body.decode("ascii"), keep_blank_values=True, max_num_fields=1_000))
            )
        except ValueError:
            raise Forged from None
        signed += b"".join(_bytes(key + value) for key, value in fields)
    given = _sent(_only(received.headers, options.header))
    _require([given], _signed(signed, options, "sha1", "base64"))
    if not is_form and (received.body or hashes):
        _require([_bytes(each) for each in hashes[:1]], iter([_bytes(sha256(received.body).hexdigest())]))


def _hmac(received: Received, _query: str, options: Options) -> None:
    given = _sent(_only(received.headers, options.header))
    _require([given], _signed(received.body, options, options.algorithm, options.encoding, options.prefix))


def _token(received: Received, _query: str, options: Options) -> None:
    _require([_sent(_only(received.headers, options.header))], map(_bytes, options.secrets))


def _basic(received: Received, _query: str, options: Options) -> None:
    scheme, _, given = _only(received.headers, "authorization").partition(" ")
    expected = (base64.b64encode(_bytes(each)) for each in options.secrets)
    _require([_sent(given.strip(" "))] if scheme.lower() == "basic" else [], expected)


def _none(_received: Received, _query: str, _options: Options) -> None:
    pass


SCHEMES: dict[str, Scheme] = {
    "standard-webhooks": Scheme(
        _standard_webhooks,
        "{data/type|webhook.received}",
        ids=["{header.webhook-id}", "{header.svix-id}"],
        takes=["tolerance"],
    ),
    "github": Scheme(
        _hmac,
        "com.github.{header.x-github-event}.{data/action|none}",
        "/github/{data/repository/full_name|organisation}",
        ["{header.x-github-delivery}"],
        payload="payload",
        signs_body_only=True,
        sets={"header": "x-hub-signature-256", "prefix": "sha256="},
    ),
    "gitlab": Scheme(
        _token,
        "com.gitlab.{data/object_kind|event}",
        "/gitlab/{data/project/path_with_namespace|group}",
        ["{header.idempotency-key}", "{header.x-gitlab-event-uuid}"],
        sets={"header": "x-gitlab-token"},
    ),
    "stripe": Scheme(_stripe, "com.stripe.{data/type}", ids=["{data/id}"], takes=["tolerance"]),
    "slack": Scheme(
        _slack,
        "com.slack.{data/event/type|event}",
        "/slack/{data/team_id|team}",
        # Commands and buttons have no id. The signature covers the time and the body.
        ["{data/event_id}", "{data/trigger_id}", "{header.x-slack-signature}"],
        takes=["tolerance"],
    ),
    "shopify": Scheme(
        _hmac,
        "com.shopify.{header.x-shopify-topic}",
        "/shopify/{header.x-shopify-shop-domain|shop}",
        ["{header.x-shopify-webhook-id}"],
        signs_body_only=True,
        sets={"header": "x-shopify-hmac-sha256", "encoding": "base64"},
    ),
    "twilio": Scheme(
        _twilio,
        "com.twilio.webhook",
        "/twilio/{data/AccountSid|account}",
        ["{header.i-twilio-idempotency-token}", "{header.x-twilio-signature}"],
        signs_body_only=True,
        sets={"header": "x-twilio-signature"},
        needs=["url"],
    ),
    "hmac": Scheme(
        _hmac, needs=["header", "id"], takes=["algorithm", "encoding", "prefix"], signs_body_only=True
    ),
    "token": Scheme(_token, needs=["header", "id"]),
    "basic": Scheme(_basic, needs=["id"]),
    "none": Scheme(_none, needs=["id"]),
}
