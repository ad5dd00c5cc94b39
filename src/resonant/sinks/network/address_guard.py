"""The addresses that an endpoint may have. A customer's URL must not reach the sender's internal network.

The lists are IANA's special-purpose address registries (RFC 6890 and its successors), as of 2025:
https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry. Everything in them is
refused, even the few globally reachable anycast services, since no endpoint uses them. The lists are explicit because
``ipaddress.is_global`` differs between patch releases of Python. Addresses of a cloud's own services outside the registries
are refused too, and so are the public addresses of this machine: its firewall does not filter what it sends to itself.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

from resonant.errors import AddressRefused

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared address space of carriers, including Alibaba's metadata service
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, including the metadata services of clouds
        "168.63.129.16/32",  # Azure's wire server, on a public address: metadata, certificates and DNS
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments, including Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnelling
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# Other IPv6 addresses are refused without a list: ::1, IPv4-compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard-only
# (100::/64), SRv6 (5f00::/16), unique-local, link-local, site-local and multicast are all outside this range.
_GLOBAL_UNICAST_IPV6 = IPv6Network("2000::/3")

_SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarking ...
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: contains an IPv4 address, perhaps a private one
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


def is_allowed(address: str | IPv4Address | IPv6Address) -> bool:
    """Return whether an endpoint may have this address: globally reachable unicast only.

    Args:
        address: in canonical text form, or parsed. An IPv4-mapped IPv6 address is judged by its IPv4 address.

    Returns:
        False also for any other string (a name, an octal or hexadecimal form, ...).
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _SPECIAL_IPV4)
    if ip.ipv4_mapped is not None:
        return is_allowed(ip.ipv4_mapped)
    return ip in _GLOBAL_UNICAST_IPV6 and not any(ip in network for network in _SPECIAL_IPV6)


def check_address(address: str) -> None:
    """Refuse an address that is not globally reachable unicast.

    Raises:
        AddressRefused: the message names the address and the option that permits it.
    """
    if not is_allowed(address):
        raise AddressRefused(
            f"{address} is a private or special address; --allow-private (allow_private on the endpoint) permits it"
        )


def check_host(host: str) -> None:
    """Refuse a host that is a private address in any notation, or a name of this machine. Other names are not resolved.

    For a host that a proxy resolves: the address that the proxy connects to is not known here.

    Raises:
        AddressRefused: the message names the address and the option that permits it.
    """
    name = host.lower().rstrip(".")
    if name.rpartition(".")[2] == "localhost":
        check_address("127.0.0.1")
    with contextlib.suppress(OSError):  # resolvers read 0x7f.1, 2130706433 and 127.1
        check_address(socket.inet_ntoa(socket.inet_aton(name)))
    with contextlib.suppress(ValueError):
        check_address(str(ip_address(name)))


def _check_not_own(family: int, address: tuple[Any, ...]) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # Sends nothing, but selects the address to send from: the same one, if it is local.
        probe.connect(address)
        if ip_address(probe.getsockname()[0]) == ip_address(address[0]):
            raise AddressRefused(
                f"{address[0]} is an address of this machine; --allow-private (allow_private on the endpoint) permits it"
            )


def guarded_socket_factory(addr_info: AddrInfoType) -> socket.socket:
    """Create the socket for a connection to a resolved address, if that is allowed and not this machine's own.

    For ``aiohttp.TCPConnector(socket_factory=...)``. It checks the address of the connection itself, so neither DNS
    rebinding (a name that resolves differently the second time) nor an unusual notation bypasses it. It is not
    used with a proxy, since it would see only the proxy's address: see ``check_host``.

    Args:
        addr_info: an entry of the result of ``socket.getaddrinfo``.

    Returns:
        An unconnected socket; the caller makes it non-blocking.

    Raises:
        PermissionError: with an ``AddressRefused`` as its cause. aiohttp tries the name's other addresses, and raises a
            ``ClientConnectorError`` from it.
    """
    family, kind, protocol, _, address = addr_info
    try:
        check_address(str(address[0]))
        _check_not_own(family, address)
    except AddressRefused as refused:
        # If a name has several addresses, aiohappyeyeballs drops exceptions other than `OSError`, and merges errors with
        # different texts. So this text names no address.
        problem = "a private or special address, and the endpoint does not allow private ones"
        raise PermissionError(errno.EACCES, problem) from refused
    return socket.socket(family=family, type=kind, proto=protocol)
