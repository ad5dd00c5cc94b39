"""A secret that retires: it signs until its end, and not a second longer."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import FixedClock, Receiver

NEW, OLD = ("whsec_" + base64.b64encode(dead_letter * 32).decode() for dead_letter in (b"n", b"o"))
EVENT = Event(type="order.paid", source="/shop", data={"order": 42}, id="evt_1")


def verified_by(received) -> list[str]:
    """Say which secrets the reference library can verify this request with."""
    found = []
    for secret in (NEW, OLD):
        try:
            assert Webhook(secret).verify(received.body, dict(received.headers)) == {"order": 42}
        except WebhookVerificationError:
            continue
        found.append(secret)
    return found


async def send_at(now, **fields):
    async with Receiver() as receiver:
        endpoint = Endpoint("orders", receiver.url, allow_private=True, **fields)
        async with HttpSink(endpoint, clock=FixedClock(now)) as sink:
            await sink.send(EVENT)
        return receiver.journal[0]


@pytest.mark.parametrize(
    ("seconds_left", "verified"), [(86_400, [NEW, OLD]), (1, [NEW, OLD]), (0, [NEW]), (-1, [NEW])]
)
async def test_an_old_secret_signs_until_its_end(seconds_left, verified):
    now = int(time.time())
    received = await send_at(now, signing_secrets=(NEW, OLD), signing_ends={OLD: now + seconds_left})
    assert verified_by(received) == verified
    signatures = received.headers["webhook-signature"].split(" ")
    assert len(signatures) == len(verified)
    assert all(signature.startswith("v1,") for signature in signatures)


async def test_the_new_secrets_signature_comes_first():
    now = int(time.time())
    both, alone = [await send_at(now, signing_secrets=secrets) for secrets in ((NEW, OLD), (NEW,))]
    assert both.headers["webhook-signature"].split(" ")[0] == alone.headers["webhook-signature"]


async def test_when_the_only_secret_has_ended_nothing_is_signed():
    now = int(time.time())
    received = await send_at(now, signing_secrets=(OLD,), signing_ends={OLD: now})
    assert "webhook-signature" not in received.headers
