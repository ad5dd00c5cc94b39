"""Signatures: those of the official library, over any bytes; and no id can forge one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import hmac_data

from resonant.errors import InvalidEvent
from resonant.events import Event
from resonant.events.webhook_ids import webhook_id
from resonant.sinks.http import HttpSink
from resonant.testing import FixedClock
from support.events import changed
from support.http_sinks import EVENT, SECRET, endpoint

NOW = 1_800_000_000
IDS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=20
)


def signed(event, mode="binary", now=NOW):
    """Return the signature's header, and the id, time and body of a request."""
    sink = HttpSink(
        endpoint("http://example.com", mode=mode, signing_secrets=(SECRET,)), clock=FixedClock(now)
    )
    request = sink._request(event)
    headers = request.headers
    return headers["webhook-signature"], (
        headers["webhook-id"],
        headers["webhook-timestamp"],
        request.content,
    )


@given(st.text(st.characters(exclude_categories=["Cs"])), IDS, st.sampled_from(["binary", "structured"]))
def test_the_signature_of_a_text_is_that_of_the_official_library(text, sent_id, mode):
    event = changed(EVENT, body=text.encode(), form="text", webhook_id=sent_id)
    found, (_, _, body) = signed(event, mode)
    assert found == Webhook(SECRET).sign(sent_id, datetime.fromtimestamp(NOW, UTC), body.decode())


@given(st.binary())
@example(b"\xff\x00")
def test_the_signature_of_bytes_is_that_of_the_bytes(body):
    event = changed(EVENT, body=body, form="bytes", webhook_id="evt_1")
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac_data(key, f"evt_1.{NOW}.".encode() + body)
    assert signed(event)[0] == "v1," + base64.b64encode(digest).decode()


def test_the_stored_webhook_id_is_signed_and_not_the_id_of_the_event():
    found, (sent_id, _, _) = signed(changed(EVENT, id="a.1.b", webhook_id="evt_hash"))
    assert sent_id == "evt_hash"
    assert found == signed(changed(EVENT, id="c", webhook_id="evt_hash"))[0]


def test_an_id_with_dots_would_sign_a_forged_request_so_the_stored_webhook_id_has_none():
    """The example in SECURITY.md."""
    chosen = changed(EVENT, id="order.1700000000.hello", body=b"world", form="text")
    forged = changed(EVENT, id="order", body=b"hello.1800000000.world", form="text")
    signature, _ = signed(chosen)
    assert signature == signed(forged, now=1_700_000_000)[0]

    found, (sent_id, _, _) = signed(changed(chosen, webhook_id=webhook_id(chosen.identity, is_taken=False)))
    assert "." not in sent_id
    assert found != signature


@pytest.mark.parametrize("event_id", ["a\nb", "a\r\nb", "a b", "a\x00", "😀", "ä", ""])
def test_an_id_that_a_header_cannot_carry_as_it_is_is_refused(event_id):
    with pytest.raises(InvalidEvent, match=r"^id "):
        Event(type="a", source="/b", data=1, id=event_id)
