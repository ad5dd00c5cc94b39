"""An HTTP endpoint as a Prefect block: what is secret of it lives here, and nowhere else."""

from __future__ import annotations

from prefect.blocks.fields import SecretDict
from pydantic import Field, HttpUrl, SecretStr

from blocks.endpoint import EndpointBlock
from resonant.classify import Category
from resonant.courier import Target
from resonant.redact import safe_message
from resonant.sink import Endpoint, HttpSink


class WebhookEndpoint(EndpointBlock):
    """Receives events by HTTP POST: CloudEvents in binary mode, signed as Standard Webhooks if it has a secret."""

    _block_type_name = "Webhook Endpoint"
    _block_type_slug = "webhook-endpoint"
    _description = "An HTTP endpoint that Resonant delivers events to."
    _documentation_url = HttpUrl("https://www.standardwebhooks.com")

    url: SecretStr = Field(description="http or https; kept secret, since it may carry a token.")
    headers: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description="Headers sent with every event, e.g. Authorization.",
    )
    signing_secret: SecretStr | None = Field(
        default=None, description="Standard Webhooks secret: whsec_ and base64. Signs every attempt."
    )
    previous_signing_secret: SecretStr | None = Field(
        default=None,
        description="While a secret is rotated: the old one, which signs too until it is removed.",
    )
    allow_private: bool = Field(
        default=False, description="Allow private and special addresses, such as 127.0.0.1 or 10.0.0.0/8."
    )
    status_overrides: dict[int, Category] = Field(
        default_factory=dict, description='Statuses this endpoint means otherwise, e.g. {"404": "transient"}.'
    )
    ca_file: str | None = Field(
        default=None, description="File of certificates (PEM) to trust instead of the public ones."
    )

    def to_endpoint(self, name: str) -> Endpoint:
        """Return the plain endpoint, with its secrets.

        Raises:
            EndpointError: a value cannot be used; the text holds no secret.
        """
        secrets = (self.signing_secret, self.previous_signing_secret)
        return Endpoint(
            name=name,
            url=self.url.get_secret_value(),
            headers={key: str(value) for key, value in self.headers.get_secret_value().items()},
            signing_secrets=tuple(secret.get_secret_value() for secret in secrets if secret is not None),
            timeout=self.timeout,
            allow_private=self.allow_private,
            overrides=dict(self.status_overrides),
            ca_file=self.ca_file,
        )

    def open(self, name: str) -> Target:
        """Return the endpoint, ready for sending; see ``EndpointBlock.open``."""
        endpoint = self.to_endpoint(name)
        sink = HttpSink(endpoint)
        return Target(
            name=name,
            sink=sink,
            describe=lambda error: safe_message(error, endpoint),
            close=sink.aclose,
            timeout=self.timeout,
            overrides=endpoint.overrides,
            policy=self.policy,
            concurrency=self.concurrency,
        )
