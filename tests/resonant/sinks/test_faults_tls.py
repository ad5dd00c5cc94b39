"""The faults of a receiver over TLS, and a day of many faults."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from resonant.delivery.verdict import Verdict
from resonant.sinks.http import HttpSink
from resonant.testing import (
    FAULTS,
    FLAWS,
    Action,
    Authority,
    Receiver,
    bad_day,
    named_fault,
    never_answer,
    raw,
    read_journal,
    reset_before_response,
)
from support.events import changed
from support.faulty_receivers import (
    DISCONNECTED,
    EVENT,
    EXPECTED,
    NO_HTTP,
    RESET,
    TIMEOUT,
    delivered,
    endpoint,
    first_meets,
    meet,
    no_socket_left,
    outcome_of,
    request,
)

pytestmark = pytest.mark.filterwarnings("error")
TLS_BROKEN = Verdict("unknown", "tls_error")
UNVERIFIED = Verdict("permanent", "tls_certificate")


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def ca_file(authority, tmp_path):
    return authority.write_to(tmp_path / "ca.pem")


async def meet_tls(ca_file, *, scheme="https", **options):
    async with no_socket_left(), Receiver(**options) as receiver:
        url = f"{scheme}://{receiver.url.partition('://')[2]}"
        async with HttpSink(endpoint(url, ca_file=ca_file)) as sink:
            outcome = await outcome_of(sink)
            assert await outcome_of(sink) == outcome
        return outcome, len(receiver.journal)


async def test_a_certificate_that_verifies_is_a_delivery(authority, ca_file):
    assert await meet_tls(ca_file, tls=authority.context()) == (delivered(), 2)


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_certificate_that_does_not_verify_is_permanent_and_nothing_was_sent(authority, ca_file, flaw):
    assert await meet_tls(ca_file, tls=authority.context(flaw)) == (UNVERIFIED, 0)


async def test_an_authority_that_nobody_trusts_is_permanent(ca_file):
    assert await meet_tls(ca_file, tls=Authority().context()) == (UNVERIFIED, 0)


async def test_tls_with_one_that_does_not_speak_it_is_unknown_and_nothing_was_sent(ca_file):
    welcome = raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert await meet_tls(ca_file, connection=welcome) == (TLS_BROKEN, 0)


async def test_plain_http_to_one_that_speaks_tls_is_no_delivery(authority, ca_file):
    outcome, received = await meet_tls(ca_file, scheme="http", tls=authority.context())
    assert outcome in {NO_HTTP, DISCONNECTED, RESET}
    assert received == 0


@pytest.mark.parametrize(
    ("welcome", "codes"),
    [
        (never_answer(), {"timeout"}),
        (reset_before_response(), {"connection_reset"}),
        (raw(b""), {"connection_reset", "disconnected"}),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_a_handshake_that_does_not_end_well_is_transient(ca_file, welcome, codes):
    outcome, received = await meet_tls(ca_file, connection=welcome)
    assert outcome.category == "transient"
    assert outcome.code in codes
    assert received == 0


@pytest.mark.parametrize("way", [way for way in FAULTS if not way.startswith("half-close")])
async def test_over_tls_every_way_ends_like_without(authority, ca_file, way):
    action = FAULTS[way]
    tls = authority.context()
    outcome = await meet(first_meets(action), tls=tls, ca_file=ca_file, clock=time.time)
    assert outcome == EXPECTED[way]


# All at once
@pytest.mark.slow
async def test_a_bad_day_is_survived_and_the_journal_agrees(tmp_path):
    """Hundreds at a time on one sink: each has an outcome, and what is called delivered was answered with 2xx."""
    journal = tmp_path / "journal.jsonl"

    async with (
        no_socket_left(),
        Receiver(bad_day(0.5, seed=6), journal_path=journal) as receiver,
        HttpSink(endpoint(receiver.url, timeout=4.0)) as sink,
    ):
        events = [changed(EVENT, id=f"evt_{number}") for number in range(300)]
        outcomes = await asyncio.gather(*(outcome_of(sink, event) for event in events))
        for _ in range(3):
            assert await outcome_of(sink, changed(EVENT, id="evt_after")) is not None
    outcomes = dict(zip([event.id for event in events], outcomes, strict=True))
    received = {each.webhook_id: each for each in read_journal(journal)}
    # On a slow machine the deadline may come before the request was sent.
    assert received.keys() >= {each for each, outcome in outcomes.items() if outcome != TIMEOUT}
    for event_id, outcome in outcomes.items():
        if isinstance(outcome, str):
            assert received[event_id].status == 200, received[event_id]
    kinds = Counter(outcome if isinstance(outcome, str) else outcome.code for outcome in outcomes.values())
    assert kinds[delivered()] > 100
    assert {"timeout", "connection_reset", "bad_response", "http_503", "throttled"} <= kinds.keys()


def test_a_bad_day_is_the_same_whenever_the_seed_is():
    def day(seed, share=0.3):
        script = bad_day(share, seed)
        requests = [request(f"evt_{number}", 1 + number % 3) for number in range(1000)]
        return [script(each).name for each in requests]

    assert day(1) == day(1) != day(2)
    assert 0.6 < day(1).count("respond") / 1000 < 0.8
    assert set(day(1, share=1.0)) == {action.name for action in FAULTS.values()}
    assert set(day(1, share=0.0)) == {"respond"}


def test_hell_does_what_the_type_names():
    named = {
        "demo.status-418": ("respond", 418),
        "demo.garbage": ("garbage", None),
        "endless-body-503": ("endless_body", 503),
        "demo.retry-after-seconds": ("retry_after", 429),
        "demo.retry-after-seconds-503": ("retry_after", 503),
        "order.paid": ("respond", 200),
        "demo.status-099": ("respond", 200),
    }
    for event_type, expected in named.items():
        action = named_fault(request("evt_1", 1, event_type))
        assert (action.name, action.status) == expected
