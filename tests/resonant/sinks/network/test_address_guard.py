"""The addresses that are refused."""

import ipaddress
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import AddressRefused
from resonant.sinks.network.address_guard import check_address, guarded_socket_factory, is_allowed
from support.programs import in_namespace

DENIED = {
    "private": "10.254.0.0 192.168.10.65 172.16.10.65 fdee:3a45:9057::1 fd00:ec2::254",
    "this network": "0.0.0.0 0.1.2.3 ::",
    "loopback": "127.0.0.1 127.254.254.254 ::1",
    "link-local": "169.254.45.1 169.254.169.254 fe80::dead:beef fe80::1%eth0 fe80::1%25",
    "site-local": "fec0::1",
    "broadcast and reserved": "255.255.255.255 240.240.240.240",
    "multicast": "224.1.2.3 239.255.255.255 ff02::1 ff0e::1 ff02::1%eth0",
    "IETF protocol assignments": "192.0.0.0 192.0.0.9 192.0.0.170 2001:1::1",
    "documentation": "192.0.2.255 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 3fff:fff:ffff::1",
    "shared address space": "100.64.0.0 100.100.0.0 100.127.255.255",
    "benchmarking": "198.18.0.0 198.19.255.255 2001:2::1",
    "AS112 and multicast tunnelling": "192.31.196.1 192.52.193.1 192.175.48.1 2620:4f:8000::1",
    "6to4": "192.88.99.1 2002:c0a8:1::dead:beef 2002:808:808::1",
    "NAT64": "64:ff9b::c0a8:0 64:ff9b::808:808 64:ff9b:1::808:808",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "ORCHID": "2001:10::1 2001:20::1",
    "SRv6": "5f00::1",
    "discard-only": "100::1",
    "metadata services of clouds": "168.63.129.16 100.100.100.200 192.0.0.192 169.254.170.2 fd20:ce::254",
    "IPv4-mapped": "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe ::ffff:127.0.0.1%eth0",
    "IPv4-compatible and translated": "::127.0.0.1 ::8.8.8.8 ::ffff:0:8.8.8.8",
    "no address": "localhost 2130706433 0x7f000001 0177.0.0.1 127.1 8.8.8 08.8.8.8 8.8.8.8/32 [::1] 1.1.1.1%eth0 -",
}
ALLOWED = "1.1.1.1 8.8.8.8 2001:4860:4860::8888 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 ::ffff:808:808"


INVALID = ["", " ", "8.8.8.8 ", "8.8.8.8\n", "\uff18.8.8.8"]


@pytest.mark.parametrize(
    "address",
    [pytest.param(a, id=f"{kind}: {a}") for kind, all_ in DENIED.items() for a in all_.split()] + INVALID,
)
def test_a_private_or_special_address_is_refused(address):
    assert not is_allowed(address)


@pytest.mark.parametrize("address", ALLOWED.split())
def test_a_globally_reachable_address_is_allowed(address):
    assert is_allowed(address)
    check_address(address)


@pytest.mark.parametrize(
    ("last_inside", "first_outside"),
    [
        ("10.255.255.255", "11.0.0.0"),
        ("100.127.255.255", "100.128.0.0"),
        ("168.63.129.16", "168.63.129.17"),
        ("172.31.255.255", "172.32.0.0"),
        ("192.0.0.255", "192.0.1.0"),
        ("198.19.255.255", "198.20.0.0"),
        ("2001:1ff:ffff::", "2001:200::"),
        ("2001:db8:ffff::", "2001:db9::"),
        ("2002:ffff::", "2003::"),
    ],
)
def test_a_block_ends_where_the_registry_says(last_inside, first_outside):
    assert not is_allowed(last_inside)
    assert is_allowed(first_outside)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_mapped_into_ipv6_is_judged_like_itself(ip):
    assert is_allowed(f"::ffff:{ip}") == is_allowed(str(ip)) == is_allowed(ip)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_within_any_other_ipv6_address_is_refused(ip):
    n = int(ip)
    for disguise in (
        n,  # IPv4-compatible
        (0x0064_FF9B << 96) + n,  # NAT64
        (0x2002 << 112) + (n << 80),  # 6to4
        (0x2001_0000 << 96) + (n ^ 0xFFFF_FFFF),  # Teredo
    ):
        assert not is_allowed(ipaddress.IPv6Address(disguise))


@given(st.ip_addresses())
def test_an_address_that_the_standard_library_calls_special_is_never_allowed(ip):
    special = not ip.is_global or ip.is_private or ip.is_multicast or ip.is_reserved or ip.is_link_local
    mapped = getattr(ip, "ipv4_mapped", None)
    assert mapped is not None or not (special and is_allowed(ip))


@given(st.text())
def test_any_text_gets_an_answer(text):
    assert is_allowed(text) in {True, False}


def test_the_refusal_names_the_address_and_the_option_that_permits_it():
    with pytest.raises(AddressRefused) as refused:
        check_address("10.0.0.1")
    option = "--allow-private (allow_private on the endpoint) permits it"
    assert str(refused.value) == f"10.0.0.1 is a private or special address; {option}"


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, ("8.8.8.8", 443)), (socket.AF_INET6, ("2001:4860:4860::8888", 443, 0, 0))],
)
def test_an_allowed_address_gets_a_plain_socket(family, address):
    with guarded_socket_factory((family, socket.SOCK_STREAM, 0, "", address)) as made:
        assert (made.family, made.type) == (family, socket.SOCK_STREAM)


@given(st.ip_addresses())
def test_the_factory_refuses_the_same_addresses(ip):
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    addr_info = (family, socket.SOCK_STREAM, 0, "", (str(ip), 443))
    if is_allowed(ip):
        guarded_socket_factory(addr_info).close()
    else:
        with pytest.raises(PermissionError) as refused:
            guarded_socket_factory(addr_info)
        assert isinstance(refused.value.__cause__, AddressRefused)


# Gives the loopback interface public addresses, and sends to itself there: `ip address add ... dev lo`, without that program.
_SEND_TO_OWN_ADDRESS = """
import asyncio, fcntl, socket, struct, sys
from resonant.delivery.classification import classify
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor

SET_ADDRESS, SET_FLAGS, UP = 0x8916, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as v4, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as v6:
    fcntl.ioctl(v4, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    address = socket.inet_aton("8.8.8.8")
    fcntl.ioctl(v4, SET_ADDRESS, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, address))
    address = socket.inet_pton(socket.AF_INET6, "2606:4700::1111")
    fcntl.ioctl(v6, SET_ADDRESS, struct.pack("16sIi", address, 128, socket.if_nametoindex("lo")))

async def answer(reader, writer):
    seen.append(writer.get_extra_info("peername"))
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 204 No Content\\r\\nConnection: close\\r\\n\\r\\n")
    writer.close()

async def send(host, port, **options):
    endpoint = Endpoint("own", f"http://{host}:{port}/", **options)
    async with HttpSink(endpoint) as sink:
        try:
            receipt = await sink.send(Event(type="t", source="/s", data=1, id="evt_1"))
        except Exception as error:
            print(len(seen), classify(error, now=0.0).code, Redactor.of(endpoint).message(error))
        else:
            print(len(seen), receipt.status_code)

async def main():
    server = await asyncio.start_server(answer, "::", 0)
    v4 = await asyncio.start_server(answer, "0.0.0.0", 0)
    for host, port in (("8.8.8.8", v4.sockets[0].getsockname()[1]), ("[2606:4700::1111]", server.sockets[0].getsockname()[1])):
        await send(host, port)
        await send(host, port, allow_private=True)

seen = []
asyncio.run(main())
"""


def test_a_public_address_of_this_machine_is_refused_without_a_connection():
    command = [*in_namespace("net"), sys.executable, "-c", _SEND_TO_OWN_ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    refused = "is an address of this machine; --allow-private (allow_private on the endpoint) permits it"
    assert done.stdout.splitlines() == [
        f"0 address_refused AddressRefused: 8.8.8.8 {refused}",
        "1 204",
        f"1 address_refused AddressRefused: 2606:4700::1111 {refused}",
        "2 204",
    ]
