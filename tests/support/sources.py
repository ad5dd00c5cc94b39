"""Webhooks of other services, signed here as these services document it, and files that declare their sources."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from resonant.intake.sources.declared import read_sources
from resonant.intake.sources.source import Source
from resonant.intake.sources.templates import FORM, Received
from support.desk import START

SECRET = "the secret of a test"
BASE64_SECRET = "whsec_" + base64.b64encode(SECRET.encode()).decode()
TWILIO_URL = "https://hooks.example.com/sources/twilio"
# What each scheme needs beside its secret.
NEEDS: dict[str, dict[str, str]] = {
    "standard-webhooks": {},
    "github": {},
    "gitlab": {},
    "stripe": {},
    "slack": {},
    "shopify": {},
    "twilio": {"url": TWILIO_URL},
    "hmac": {"header": "x-signature", "id": "{header.x-id}"},
    "token": {"header": "x-token", "id": "{header.x-id}"},
    "basic": {"id": "{header.x-id}"},
}
SIGNING = ("standard-webhooks", "github", "stripe", "slack", "shopify", "twilio", "hmac")


@dataclass(frozen=True)
class Webhook:
    """A request as a service sends it.

    Attributes:
        headers: names in lower case, and values.
        body: its bytes.
        query: of its URL.
    """

    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    query: str = ""

    @property
    def received(self) -> Received:
        return Received(Headers(raw=[(name.encode(), value) for name, value in self.headers]), self.body)

    def __getitem__(self, name: str) -> bytes:
        return dict(self.headers)[name]

    def changed(self, *, body: bytes | None = None, query: str | None = None, **headers: Any) -> "Webhook":
        """Return it with other headers, and without those that are None; an underscore in a name stands for a dash."""
        found = dict(self.headers)
        for name, value in headers.items():
            found[name.replace("_", "-")] = value.encode() if isinstance(value, str) else value
        return replace(
            self,
            headers=tuple((name, value) for name, value in found.items() if value is not None),
            body=self.body if body is None else body,
            query=self.query if query is None else query,
        )

    def with_also(self, name: str, value: bytes, *, first: bool = False) -> "Webhook":
        """Return it with one more header, which may have the name of another."""
        more = ((name, value),)
        return replace(self, headers=more + self.headers if first else self.headers + more)


def declare(folder: Path, *rows: dict[str, Any]) -> Path:
    """Write a file of sources, and each secret to a file of its own; return its path."""
    written = []
    for row in rows:
        name, secrets = row["name"], row.get("secret", [])
        for number, secret in enumerate(given := [secrets] if isinstance(secrets, str) else secrets):
            (folder / f"{name}-{number}.secret").write_text(secret)
        references = [f"file:{name}-{number}.secret" for number in range(len(given))]
        written.append(row | ({"secret": references} if given else {}))
    path = folder / "sources.yaml"
    path.write_text(json.dumps({"sources": written}, indent=1))
    return path


def row(verify: str, **fields: Any) -> dict[str, Any]:
    """Return a declaration of a source with what its scheme needs; by default, its name is that of the scheme."""
    secret = (
        {}
        if verify == "none"
        else {"secret": BASE64_SECRET if verify == "standard-webhooks" else secret_of(verify)}
    )
    return {"name": verify, "verify": verify, **NEEDS.get(verify, {}), **secret, **fields}


def secret_of(verify: str) -> str:
    return f"shop:{SECRET}" if verify == "basic" else SECRET


def source(folder: Path, verify: str, **fields: Any) -> Source:
    """Return the source that a file declares."""
    [found] = read_sources(declare(folder, row(verify, **fields))).values()
    return found


def webhook(
    verify: str,
    body: bytes | None = None,
    *,
    event_id: str = "evt_1",
    secret: str = SECRET,
    at: float | str = START,
    query: str = "",
    kind: str | None = None,
) -> Webhook:
    """Return a webhook with a signature, of this time, in seconds since the epoch or as text."""
    if body is None:
        body = f"MessageSid={event_id}&Body=Hi+there" if verify == "twilio" else _example(verify, event_id)
        body = body.encode() if isinstance(body, str) else body
    kind = kind or (FORM if verify == "twilio" else "application/json")
    headers = _HEADERS[verify](
        _Sent(body, event_id, secret, at if isinstance(at, str) else str(int(at)), query, kind)
    )
    return Webhook(
        (("content-type", kind.encode()), *((name, value.encode()) for name, value in headers.items())),
        body,
        query,
    )


def _example(verify: str, event_id: str) -> bytes:
    return json.dumps({"id": event_id, "type": "order.paid", "event_id": event_id, "team_id": "T1"}).encode()


class _Sent(NamedTuple):
    body: bytes
    event_id: str
    secret: str
    at: str
    query: str
    kind: str

    def sign(self, before: str = "", algorithm: str = "sha256") -> bytes:
        return hmac.digest(self.secret.encode(), before.encode() + self.body, algorithm)

    def sign_form(self) -> bytes:
        text = TWILIO_URL + (f"?{self.query}" if self.query else "")
        if self.kind == FORM:
            fields = set(parse_qsl(self.body.decode(), keep_blank_values=True))
            text += "".join(map("".join, sorted(fields)))
        return hmac.digest(self.secret.encode(), text.encode(), "sha1")


_HEADERS: dict[str, Callable[[_Sent], dict[str, str]]] = {
    "standard-webhooks": lambda sent: {
        "webhook-id": sent.event_id,
        "webhook-timestamp": sent.at,
        "webhook-signature": "v1," + in_base64(sent.sign(f"{sent.event_id}.{sent.at}.")),
    },
    "github": lambda sent: {
        "x-github-event": "ping",
        "x-github-delivery": sent.event_id,
        "x-hub-signature-256": f"sha256={sent.sign().hex()}",
    },
    "gitlab": lambda sent: {"x-gitlab-token": sent.secret, "x-gitlab-event-uuid": sent.event_id},
    "stripe": lambda sent: {"stripe-signature": f"t={sent.at},v1={sent.sign(f'{sent.at}.').hex()}"},
    "slack": lambda sent: {
        "x-slack-request-timestamp": sent.at,
        "x-slack-signature": f"v0={sent.sign(f'v0:{sent.at}:').hex()}",
    },
    "shopify": lambda sent: {
        "x-shopify-topic": "app.uninstalled",
        "x-shopify-webhook-id": sent.event_id,
        "x-shopify-hmac-sha256": in_base64(sent.sign()),
    },
    "twilio": lambda sent: {
        "i-twilio-idempotency-token": sent.event_id,
        "x-twilio-signature": in_base64(sent.sign_form()),
    },
    "hmac": lambda sent: {"x-signature": sent.sign().hex(), "x-id": sent.event_id},
    "token": lambda sent: {"x-token": sent.secret, "x-id": sent.event_id},
    "basic": lambda sent: {
        "authorization": "Basic " + in_base64(f"shop:{sent.secret}".encode()),
        "x-id": sent.event_id,
    },
    "none": lambda sent: {"x-id": sent.event_id},
}


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def hash_in_query(body: bytes) -> str:
    """Return the query with which Twilio signs another body than a form."""
    return f"bodySHA256={hashlib.sha256(body).hexdigest()}"
