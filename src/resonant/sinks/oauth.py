"""The settings with which an endpoint gets OAuth tokens."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote_plus, urlencode

Authentication = Literal["basic", "body"]


@dataclass(frozen=True, slots=True)
class OAuth:
    """How to get tokens with client credentials; its ``repr`` contains no secret.

    Attributes:
        token_url: the token endpoint, http or https; its query may contain a secret.
        client_id, client_secret: identify Resonant to the token endpoint.
        scope: the requested scopes, separated by spaces.
        audience: the requested audience, which some servers need.
        authentication: whether id and secret are sent as Basic authentication or in the body.

    Raises:
        ValueError: the text continues "its OAuth settings ..." and contains no secret.
    """

    token_url: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None
    authentication: Authentication = "basic"

    def __post_init__(self) -> None:
        required = ("token_url", "client_id", "client_secret")
        if missing := [name for name in required if not getattr(self, name)]:
            raise ValueError(f"need a token URL, a client id and a client secret: {missing[0]} is missing")

    @property
    def basic(self) -> str:
        """The client id and secret as Basic authentication (RFC 6749, 2.3.1: both form-urlencoded)."""
        both = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
        return base64.b64encode(both.encode()).decode()

    def request(self) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of a token request."""
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        fields = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
        if self.authentication == "basic":
            headers["authorization"] = f"Basic {self.basic}"
        else:
            fields |= {"client_id": self.client_id, "client_secret": self.client_secret}
        return headers, urlencode({name: value for name, value in fields.items() if value}).encode()


def without_query(token_url: str) -> str:
    """Return a token URL for display: ``***`` replaces its query."""
    url, mark, _ = token_url.partition("?")
    return f"{url}?***" if mark else url
