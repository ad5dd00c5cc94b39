"""Signatures: those of the official library, over any bytes; and no id can forge one."""

import base64
import re
import subprocess
import time
from datetime import UTC, datetime
from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import hmac_data

from resonant.events import Event
from resonant.events.webhook_ids import webhook_id
from resonant.sinks.http import HttpSink
from resonant.sinks.signing import new_secret, public_key
from resonant.testing import FixedClock
from support.events import changed
from support.http_sinks import EVENT, SECRET, endpoint
from support.pages import PROJECT
from support.programs import need

NOW = 1_800_000_000
IDS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=20
)


def signed(event, mode="binary", now=NOW, secrets=(SECRET,)):
    """Return the signature's header, and the id, time and body of a request."""
    sink = HttpSink(endpoint("http://example.com", mode=mode, signing_secrets=secrets), clock=FixedClock(now))
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
    chosen_id = "order.1700000000.hello"
    chosen = changed(EVENT, id=chosen_id, webhook_id=chosen_id, body=b"world", form="text")
    forged = changed(EVENT, id="order", body=b"hello.1800000000.world", form="text")
    signature, _ = signed(chosen)
    assert signature == signed(forged, now=1_700_000_000)[0]

    found, (sent_id, _, _) = signed(changed(chosen, webhook_id=webhook_id(chosen.identity, is_taken=False)))
    assert "." not in sent_id
    assert found != signature


@pytest.mark.parametrize("event_id", ["a b", " ", "😀", "ä", "a.b"])
def test_an_id_that_a_header_cannot_carry_as_it_is_is_signed_and_sent_as_a_hash(event_id):
    event = Event(type="a", source="/b", data=1, id=event_id)
    assert signed(event)[1][0] == webhook_id(event.identity, is_taken=False) != event_id


# --- Ed25519 ------------------------------------------------------------------------------------------------------

# The reference vector of the scheme `v1a`: the specification of Standard Webhooks shows the signature, and the tests of Svix'
# server have the key and the message.
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
SEED_ALONE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
VECTOR = changed(EVENT, body=b'{"test": 2432232314}', webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek")
SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


@pytest.mark.parametrize("secret", [PRIVATE, SEED_ALONE])
def test_a_key_pair_signs_as_the_reference_vector_and_has_its_public_key(secret):
    assert signed(VECTOR, now=1_614_265_330, secrets=(secret,))[0] == SIGNATURE
    assert public_key(secret) == PUBLIC


def test_a_shared_secret_and_a_key_pair_sign_side_by_side_in_their_order():
    both = {SECRET: signed(VECTOR)[0], PRIVATE: signed(VECTOR, secrets=(PRIVATE,))[0]}
    for order in permutations(both):
        assert signed(VECTOR, secrets=order)[0] == " ".join(both[secret] for secret in order)


@pytest.mark.program
def test_openssl_verifies_the_signature_of_a_new_key_pair(tmp_path):
    secret = new_secret("ed25519")
    found, (sent_id, moment, body) = signed(EVENT, secrets=(secret,))
    # The structure of a public key in DER (RFC 8410) ends with the key.
    public = base64.b64decode(public_key(secret).removeprefix("whpk_"))
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    (tmp_path / "signature").write_bytes(base64.b64decode(found.removeprefix("v1a,")))

    def verdict(message: bytes) -> str:
        (tmp_path / "message").write_bytes(message)
        verify = "pkeyutl -verify -rawin -pubin -keyform DER -inkey key -sigfile signature -in message"
        command = [need("openssl"), *verify.split()]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    assert "Verified Successfully" in verdict(f"{sent_id}.{moment}.".encode() + body)
    assert "Verification Failure" in verdict(f"{sent_id}.{moment}.".encode() + body + b" ")


def test_the_function_on_the_page_for_receivers_verifies_what_is_sent_and_nothing_else():
    page = (PROJECT / "docs" / "how-to" / "sign-and-rotate.md").read_text()
    [code] = re.findall(r"```python\n([^`]*def is_signed[^`]*)```", page)
    names = {}
    exec(code, names)
    secret, now = new_secret("ed25519"), int(time.time())
    found, (sent_id, moment, body) = signed(EVENT, now=now, secrets=(SECRET, secret))
    headers = {"webhook-id": sent_id, "webhook-timestamp": moment, "webhook-signature": found}
    is_signed, public = names["is_signed"], public_key(secret)
    assert is_signed(public, headers, body)
    assert not is_signed(PUBLIC, headers, body)
    assert not is_signed(public, headers, body + b" ")
    assert not is_signed(public, headers | {"webhook-id": "other"}, body)
    assert not is_signed(public, headers | {"webhook-timestamp": str(now - 301)}, body)
