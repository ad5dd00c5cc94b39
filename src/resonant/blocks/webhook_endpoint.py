"""An HTTP endpoint as a Prefect block, the only place that stores its secrets."""

import contextlib
import json
import logging
import time
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, Field, SecretStr

from resonant.blocks.endpoint import EndpointBlock, described
from resonant.blocks.loading import load_endpoint
from resonant.delivery.attempt import Destination
from resonant.errors import EndpointError, NotReady, ResonantError, SendFailed
from resonant.events import Category, Clock, Event
from resonant.input_lines import event_from_fields
from resonant.local.calls import Finished, both_ways
from resonant.settings import egress_proxy, load_settings
from resonant.sinks.base import Receipt
from resonant.sinks.endpoint import Endpoint, Mode
from resonant.sinks.network.client_certificate import certificate_of, problem_of_end
from resonant.sinks.network.proxy import proxy_of
from resonant.sinks.oauth import Authentication, OAuth
from resonant.sinks.redaction import Redactor
from resonant.sinks.signing import problem_of_secret, public_key

logger = logging.getLogger(__name__)


class SentReceipt(Receipt, Finished):
    """The receipt of a send that has ended."""

    __slots__ = ()


class WebhookEndpoint(EndpointBlock):
    """Receives events through HTTP POST: CloudEvents, signed per Standard Webhooks if it has a secret.

    Example:
        ```python
        from resonant.blocks import WebhookEndpoint

        endpoint = WebhookEndpoint.load("BLOCK_NAME")
        event = {"type": "com.example.order.paid", "source": "/shop", "data": {"order": 17}}
        endpoint.emit(event)
        ```
    """

    _block_type_name = "Webhook Endpoint"
    _block_type_slug = "webhook-endpoint"
    _description = "An HTTP endpoint that Resonant delivers events to."

    url: SecretStr = described("url")
    allow_private: bool = described("allow_private")
    # Not a SecretDict: Prefect's form shows an empty one as ******** and then cannot save it.
    headers: SecretStr | None = described("headers")
    signing_secret: SecretStr | None = described("signing_secret")
    previous_signing_secret: SecretStr | None = Field(
        default=None,
        description="The old secret, which also signs during a rotation.",
    )
    previous_signing_secret_until: AwareDatetime | None = Field(
        default=None,
        description="Time when the old secret stops signing. Empty: it signs until it is removed.",
    )
    mode: Mode = described("mode")
    status_overrides: dict[int, Category] = described("status_overrides")
    ca_file: str | None = described("ca_file")
    proxy: SecretStr | None = described("proxy")
    client_certificate: SecretStr | None = described("client_certificate")
    client_key: SecretStr | None = described("client_key")
    oauth_token_url: SecretStr | None = described("oauth_token_url")
    oauth_client_id: str | None = described("oauth_client_id")
    oauth_client_secret: SecretStr | None = described("oauth_client_secret")
    oauth_scope: str | None = described("oauth_scope")
    oauth_audience: str | None = described("oauth_audience")
    oauth_authentication: Authentication = described("oauth_authentication")

    def header_values(self, name: str) -> dict[str, str]:
        """Return the headers, which are secret.

        Raises:
            EndpointError: the headers are not a JSON object.
        """
        try:
            headers = json.loads((self.headers.get_secret_value() if self.headers else "").strip() or "{}")
        except ValueError:
            headers = None
        if not isinstance(headers, dict):
            raise EndpointError(
                f'endpoint {name!r}: its headers must be a JSON object, as in {{"Authorization": "Bearer ..."}}'
            )
        return {key: str(value) for key, value in headers.items()}

    def to_endpoint(self, name: str) -> Endpoint:
        """Return the plain endpoint, with its secrets.

        Raises:
            EndpointError: a value cannot be used; the text contains no secret.
        """
        secrets = _revealed(self.signing_secret)
        old = [secret for secret in _revealed(self.previous_signing_secret) if secret not in secrets]
        until = self.previous_signing_secret_until
        return Endpoint(
            name=name,
            url=self.url.get_secret_value(),
            headers=self.header_values(name),
            signing_secrets=(*secrets, *old),
            signing_ends={} if until is None else dict.fromkeys(old, until.timestamp()),
            timeout=self.timeout,
            allow_private=self.allow_private,
            overrides=dict(self.status_overrides),
            ca_file=self.ca_file,
            mode=self.mode,
            proxy=proxy_of(name, _text(self.proxy), egress_proxy),
            client_certificate=certificate_of(name, _text(self.client_certificate), _text(self.client_key)),
            oauth=self._oauth(name),
        )

    def _oauth(self, name: str) -> OAuth | None:
        url, secret = _text(self.oauth_token_url), _text(self.oauth_client_secret)
        client_id = self.oauth_client_id or ""
        if not (url or client_id or secret or self.oauth_scope or self.oauth_audience):
            return None
        try:
            return OAuth(
                url, client_id, secret, self.oauth_scope, self.oauth_audience, self.oauth_authentication
            )
        except ValueError as error:
            raise EndpointError(f"endpoint {name!r}: its OAuth settings {error}") from None

    def public_keys(self) -> dict[str, str]:
        """Return the public keys (``whpk_``) of its Ed25519 keys, by their names in ``endpoint show``."""
        fields = {"public_key": self.signing_secret, "previous_public_key": self.previous_signing_secret}
        keys = {name: public_key(secret.get_secret_value()) for name, secret in fields.items() if secret}
        return {name: key for name, key in keys.items() if key}

    def check(self, name: str) -> None:
        """Check the configuration.

        Raises:
            EndpointError: a value cannot be used; the text contains no secret.
        """
        self.to_endpoint(name)

    def warning(self) -> str | None:
        """Return advice about a signing secret of the wrong length, or a client certificate that expires soon; None without any."""
        problem = self.signing_secret and problem_of_secret(self.signing_secret.get_secret_value())
        if problem:
            return f"{problem}: `resonant endpoint rotate-secret` makes a new one"
        return problem_of_end(_text(self.client_certificate), datetime.now(UTC))

    def deliver(self, event: Event | dict[str, Any]) -> Any:
        """Send an event once, without the store: no retries, no gate, no rate limit, and no record.

        In asynchronous code, ``await`` it, as ``adeliver``.

        Args:
            event: as for ``emit``.

        Returns:
            The receipt of an answer with a status from 200 to 299.

        Raises:
            InvalidEvent: the event is malformed.
            EndpointError: the endpoint cannot be used as configured.
            UnexpectedStatus: the answer has another status.
            SendFailed: there is no answer. The message contains no secret.
        """
        return both_ways(self.adeliver(event), lambda receipt: SentReceipt(*astuple(receipt)))

    async def adeliver(self, event: Event | dict[str, Any]) -> Receipt:
        """Send an event once in asynchronous code, as ``deliver`` does."""
        from resonant.sinks.http import HttpSink  # noqa: PLC0415 - as in `open`

        if isinstance(event, Event):
            given = event
        else:
            given = event_from_fields(event, max_bytes=load_settings().max_event_bytes)
        endpoint = self.to_endpoint(self._block_document_name or "without a name")
        async with HttpSink(endpoint) as sink:
            with contextlib.suppress(NotReady):  # the send reports it
                await sink.prepare()
            try:
                return await sink.send(given)
            except ResonantError:
                raise
            except Exception as error:  # noqa: BLE001 - its text may contain the URL
                raise SendFailed(Redactor.of(endpoint, also=sink.tokens).message(error)) from None

    def open(self, name: str, *, clock: Clock = time.time) -> Destination:
        """Return a destination that reads this endpoint's configuration again while it is open."""
        # This imports the HTTP client, which `endpoint list` does not need.
        from resonant.sinks.reloading import ReloadingSink  # noqa: PLC0415

        async def read() -> Endpoint:
            block = await load_endpoint(name)
            if not isinstance(block, WebhookEndpoint):
                raise EndpointError(f"endpoint {name!r} is no longer a webhook endpoint")
            return block.to_endpoint(name)

        endpoint = self.to_endpoint(name)
        if warning := self.warning():
            logger.warning("endpoint %s: %s", name, warning)
        sink = ReloadingSink(endpoint, read, clock=clock)
        return Destination(
            name=name,
            sink=sink,
            describe=sink.describe,
            close=sink.aclose,
            connect=sink.connect,
            prepare=sink.prepare,
            problem=sink.problem,
            timeout=self.timeout,
            overrides=endpoint.overrides,
            policy=self.policy,
            concurrency=self.concurrency,
            rate=self.rate,
        )


def _revealed(secret: SecretStr | None) -> list[str]:
    return [] if secret is None else [secret.get_secret_value()]


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value().strip()
