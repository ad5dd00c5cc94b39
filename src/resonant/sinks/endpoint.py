"""A configured HTTP endpoint, checked when it is created."""

import contextlib
import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx

from resonant.errors import EndpointError
from resonant.events import Category
from resonant.sinks.network.address_guard import check_address, check_host
from resonant.sinks.network.client_certificate import ClientCertificate
from resonant.sinks.network.proxy import Proxy
from resonant.sinks.oauth import OAuth
from resonant.sinks.signing import signer

Mode = Literal["binary", "structured"]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?")  # RFC 9110, 5.5, without the obsolete octets
_RESERVED_PREFIXES = ("ce-", "webhook-")
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "traceparent"}
    | {"tracestate", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True)
class Endpoint:
    """A configured HTTP destination; its ``repr`` contains no secret.

    Attributes:
        name: the endpoint's name in the store, labels and logs.
        url: http or https; its user and password are sent as Basic authentication.
        headers: sent with every event, in addition to those that Resonant sets.
        signing_secrets: Standard Webhooks secrets (base64, with or without the prefix ``whsec_``) or Ed25519 private keys
            (``whsk_`` and base64); during a rotation, two secrets sign.
        signing_ends: when each secret stops signing, in seconds since the epoch; a secret without an entry never stops.
        timeout: seconds for a whole attempt, from connecting to the end of the answer.
        allow_private: whether connections to private and special addresses are allowed.
        overrides: the endpoint's categories for status codes, in place of the default ones.
        ca_file: certificates (PEM) to trust instead of the public ones.
        proxy: the proxy to connect through.
        client_certificate: identifies Resonant to a receiver that demands a certificate.
        oauth: gets the tokens that are sent as the header Authorization.
        mode: ``binary`` sends the data as the body and the attributes as headers; ``structured`` sends the whole event as
            the body, in JSON.

    Raises:
        EndpointError: a value cannot be used; the message says which and contains no secret.
        AddressRefused: the URL names a private or special address, and ``allow_private`` is not set.
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    signing_ends: Mapping[str, float] = field(default_factory=dict, repr=False)
    timeout: float = 15.0
    allow_private: bool = False
    overrides: Mapping[int, Category] = field(default_factory=dict)
    ca_file: str | None = None
    mode: Mode = "binary"
    proxy: Proxy | None = None
    client_certificate: ClientCertificate | None = None
    oauth: OAuth | None = None

    def __post_init__(self) -> None:
        url = self._parsed(self.url, "its URL")
        self._check_headers(url)
        for secret in self.signing_secrets:
            try:
                signer(secret)
            except ValueError as error:
                raise self._error(str(error)) from None
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise self._error(f"its timeout must be a positive number of seconds, not {self.timeout}")
        self._check_address(url)
        if self.client_certificate is not None and url.scheme != "https":
            raise self._error("it has a client certificate, but its URL does not begin with https://")
        if self.oauth is not None:
            self._check_oauth(self.oauth, url)

    def proxy_for(self, url: httpx.URL) -> Proxy | None:
        """Return the proxy to connect through for a URL; None without one."""
        if self.proxy is None:
            return None
        return self.proxy if self.proxy.serves(url.raw_host.decode("ascii")) else None

    def _parsed(self, text: str, what: str) -> httpx.URL:
        try:
            url = httpx.URL(text)
            host = url.host  # raises if an A-label (xn--) is invalid
        except (httpx.InvalidURL, TypeError, ValueError):
            raise self._error(f"{what} is not well-formed") from None  # the original errors quote the URL
        if url.scheme not in {"http", "https"}:
            raise self._error(f"{what} must begin with http:// or https://")
        if not host:
            raise self._error(f"{what} has no host")
        if b"%" in url.raw_host or not _has_valid_labels(url.raw_host):
            raise self._error(f"{what} has an invalid host")
        if url.port is not None and not 0 < url.port < 1 << 16:
            raise self._error(f"{what} has port {url.port}, which is not within 1 to 65535")
        return url

    def _check_address(self, url: httpx.URL) -> None:
        if not self.allow_private:
            with contextlib.suppress(ValueError):  # a name: its addresses are checked when connecting
                check_address(str(ipaddress.ip_address(url.host)))
            if self.proxy_for(url) is not None:
                check_host(url.host)

    def _check_oauth(self, oauth: OAuth, url: httpx.URL) -> None:
        token_url = self._parsed(oauth.token_url, "its OAuth token URL")
        if token_url.userinfo or token_url.fragment:
            raise self._error("its OAuth token URL must have no user and no fragment")
        self._check_address(token_url)
        if url.userinfo or any(name.lower() == "authorization" for name in self.headers):
            raise self._error(
                "it has OAuth settings, and also an Authorization header or a user in its URL: remove one"
            )

    def _check_headers(self, url: httpx.URL) -> None:
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise self._error("one of its headers has an illegal name")
            if not _HEADER_VALUE.fullmatch(value):
                raise self._error(f"the value of header {name} must be printable ASCII on one line")
            if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
                raise self._error(f"header {name} is set by Resonant")
            if name.lower() == "authorization" and url.userinfo:
                raise self._error("it has both an Authorization header and a user in its URL")

    def _error(self, problem: str) -> EndpointError:
        return EndpointError(f"endpoint {self.name!r}: {problem}")


def _has_valid_labels(host: bytes) -> bool:
    try:
        host.decode("ascii").encode("idna")  # the resolver also refuses empty and too long labels
    except UnicodeError:
        return False
    return True
