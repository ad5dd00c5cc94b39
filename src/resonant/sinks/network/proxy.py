"""A proxy between this network and endpoints, and the hosts that are reached without it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from resonant.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable

# What an endpoint has in place of a proxy's URL to connect directly.
DIRECT = "none"
# The names of this machine: no other machine reaches them.
LOOPBACK = ("localhost", "127.0.0.0/8", "::1")
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_PRINTABLE = re.compile(r"[!-~]+")
_USER = re.compile(r"[!-Z^-~]*")
_NAME = re.compile(r"\.?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; its ``repr`` contains no secret.

    Attributes:
        url: ``http://`` or ``https://``, optionally a user and a password, a host and a port.
        bypass: the hosts that are reached without it. ``*`` is every host. A name stands for itself and all names below it,
            with or without a dot at its beginning. An address or a network (``10.0.0.0/8``) stands for URLs with an address.

    Raises:
        ValueError: the text continues "the proxy ..." and contains no secret.
    """

    url: str = field(repr=False)
    bypass: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.url)
            port = url.port
        except ValueError:
            raise ValueError("must be a URL, such as http://USER:PASSWORD@HOST:PORT") from None
        if url.scheme not in {"http", "https"} or not _HOST.fullmatch(url.hostname or "") or port == 0:
            raise ValueError("must be http:// or https://, a host and a port")
        if url.path.strip("/") or url.query or url.fragment:
            raise ValueError("must have no path: percent-encode / ? # and @ in its user and password")
        if not unquote(url.netloc).isascii():
            raise ValueError("has a user or password that is not ASCII")
        if not (_PRINTABLE.fullmatch(self.url) and _USER.fullmatch(url.netloc.rpartition("@")[0])):
            raise ValueError(
                "has a space, a bracket or a backslash: percent-encode it in its user and password"
            )
        if ":" in unquote(url.username or ""):
            raise ValueError("has a user with a colon, which Basic authentication does not allow")

    @property
    def origin(self) -> str:
        """Scheme, host and port, without user and password."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"

    def serves(self, host: str) -> bool:
        """Return whether requests to a host go through the proxy."""
        return not any(_matches(each.lower(), host.lower().rstrip(".")) for each in self.bypass)


def proxy_of(name: str, given: str, default: Callable[[], Proxy | None]) -> Proxy | None:
    """Return an endpoint's proxy; None to connect directly.

    Args:
        name: the endpoint's name, for the error.
        given: the endpoint's setting: a URL, ``none``, or empty for the default.
        default: returns the default.

    Raises:
        EndpointError: the URL cannot be used; the text contains no secret.
    """
    if not given:
        return default()
    try:
        return None if given == DIRECT else Proxy(given)
    except ValueError as error:
        raise EndpointError(f"endpoint {name!r}: its proxy {error}") from None


def check_bypass(entry: str) -> None:
    """Refuse an entry of a list of hosts that matches nothing, such as one with a port.

    Raises:
        ValueError: the message quotes the entry.
    """
    with contextlib.suppress(ValueError):
        ip_network(entry, strict=False)
        return
    if entry != "*" and not _NAME.fullmatch(entry.lower()):
        raise ValueError(
            f"{entry!r} must be a host name, an address, a network such as 10.0.0.0/8, or *, without a port"
        )


def _matches(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):
        network = ip_network(entry, strict=False)
        try:
            return ip_address(host) in network
        except ValueError:
            return False
    name = entry.strip(".")
    return host == name or host.endswith(f".{name}")
