"""Failures with the same cause have the same fingerprint, and others do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.store.queue.fingerprint import fingerprint, normalised


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no route to https://a.example/x?id=7", "no route to <url>"),
        ("order 550e8400-e29b-41d4-a716-446655440000 unknown", "order <uuid> unknown"),
        ("evt_0193c5c2-7a31-7c4e-9d0b-5f7e0a1b2c3d unknown", "evt_<uuid> unknown"),
        ("expired 2026-01-31T12:00:00.5Z", "expired <time>"),
        ("expired 2026-01-31 12:00+01:00", "expired <time>"),
        ("connect to 10.0.0.1:443 refused", "connect to <address>:<n> refused"),
        ("connect to [2001:db8::ab] refused", "connect to [<address>] refused"),
        ("connect to fe80::1 refused", "connect to <address> refused"),
        ("object at 0x7f00aa", "object at <hex>"),
        ("commit deadbeef01 and req_deadbeef02", "commit <hex> and req_<hex>"),
        ("no field 'total' in \"order\"", "no field <text> in <text>"),
        ("I don't know it and can't say", "I don't know it and can't say"),
        ("after 1.5 s and 3 tries", "after <n> s and <n> tries"),
        ("std::error", "std::error"),
        ("effaced feedback", "effaced feedback"),
    ],
)
def test_the_variable_parts_of_a_message_are_taken_out(message, expected):
    assert normalised(message) == expected
    assert normalised(expected) == expected


def test_messages_that_differ_in_their_variable_parts_have_one_fingerprint():
    one, other = (fingerprint("orders", "http_400", f"order {n} of 'x{n}' is bad") for n in (17, 400))
    assert one == other
    assert len(one) == 12
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("orders", "http_400", "bad"), ("audit", "http_400", "bad")),
        (("orders", "http_400", "bad"), ("orders", "http_401", "bad")),
        (("orders", "http_400", "bad"), ("orders", "http_400", "worse")),
        (("orders", "http_400", "bad"), ("orders", None, None)),
        (("a", "b", "c"), ("a", "bc", "")),
        (("ab", "c", ""), ("a", "bc", "")),
    ],
    ids=["endpoint", "code", "message", "nothing", "apart", "apart at the start"],
)
def test_another_endpoint_code_or_message_is_another_fingerprint(one, other):
    assert fingerprint(*one) != fingerprint(*other)


def test_text_that_no_database_stores_has_a_fingerprint_too():
    assert fingerprint("orders", "http_400", "\udcff")


@given(st.text(alphabet="5a'\"0x1f.:- \n", max_size=20))
def test_a_normalised_message_stays_as_it_is(message):
    assert normalised(normalised(message)) == normalised(message)
