"""``endpoint rotate-secret`` prints the new secret, says how long the old one also signs, and never loses a secret."""

import asyncio
import base64
import os
import re
import signal

import httpx
import pytest

from resonant.blocks import WebhookEndpoint, load_endpoint
from resonant.sinks.signing import public_key

pytestmark = pytest.mark.engine

NAME = "cli-rotated"
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
FOLLOW = "processes that are sending follow within a minute"


@pytest.fixture
def saved(webhook):
    """An endpoint that signs with the old secret; the function returns the current one."""
    webhook(NAME, signing_secret=OLD)

    def read() -> str:
        return asyncio.run(load_endpoint(NAME)).signing_secret.get_secret_value()

    return read


def test_the_new_secret_is_printed_alone_and_a_message_has_the_end_of_the_old_one(endpoint, saved):
    done = endpoint("rotate-secret", NAME)
    assert done.out == f"{saved()}\n" != f"{OLD}\n"
    said = rf"endpoint {NAME}: signs with the new and the old secret until 20[^ ]+Z; {FOLLOW}\. Give the receiver the new"
    assert re.match(said, done.err)
    shown = endpoint.show(NAME)
    assert (shown["signing_secret"], shown["previous_signing_secret"]) == ("set", "set")
    assert shown["previous_signing_secret_until"][:19].replace(" ", "T") in done.err


def test_an_endpoint_changes_to_a_key_pair_and_its_public_keys_are_shown_and_rotated(endpoint, saved):
    def rotate(*options):
        return endpoint("rotate-secret", NAME, *options).out.strip()

    first = rotate("--signing", "ed25519")
    assert endpoint.show(NAME)["public_key"] == first
    assert public_key(saved()) == first
    assert "previous_public_key" not in endpoint.show(NAME), "the old secret is a shared one"
    rotate("--end")
    second = rotate()
    shown = endpoint.show(NAME)
    assert (shown["public_key"], shown["previous_public_key"]) == (second, first)
    assert f"public_key: {second}\n" in endpoint("show", NAME).out
    assert saved() not in str(shown)
    rotate("--end")
    assert rotate("--signing", "hmac") == saved()


def test_a_new_endpoint_gets_a_key_pair_and_its_public_key_is_printed(endpoint, saved):
    url = "https://hooks.example.com/in"
    endpoint("remove", NAME, "--yes")
    added = endpoint("add", NAME, url, "--signing", "ed25519").out
    assert added.splitlines()[-1] == f"public key: {public_key(saved())}"
    again = endpoint("add", NAME, url, "--signing", "ed25519", "--overwrite", code=2)
    assert "--signing cannot be combined with --secret-stdin or --overwrite" in again.err
    public = public_key(saved())
    refused = endpoint("rotate-secret", NAME, "--secret-stdin", typed=public, code=1)
    assert "a public key (whpk_) cannot sign: give the private key (whsk_)" in refused.err


def test_without_an_overlap_and_after_the_end_the_new_secret_signs_alone(endpoint, saved):
    alone = f"endpoint {NAME}: signs with the new secret alone; {FOLLOW}\n"
    assert endpoint("rotate-secret", NAME, "--overlap", "0").err == alone
    endpoint("rotate-secret", NAME)
    ended = endpoint("rotate-secret", NAME, "--end")
    assert (ended.out, ended.err) == ("", alone)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_secret_whose_save_has_no_answer_is_printed_and_can_be_given_again(
    endpoint, saved, monkeypatch, interrupted
):
    save = WebhookEndpoint.asave

    async def save_without_an_answer(block, *args, **kwargs):
        await save(block, *args, **kwargs)
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        raise httpx.ReadError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(WebhookEndpoint, "asave", save_without_an_answer)
        lost = endpoint("rotate-secret", NAME, code=130 if interrupted else 1)
    assert lost.out == f"{saved()}\n" != f"{OLD}\n"
    assert "the answer to the save is missing" in lost.err
    again = f"`resonant endpoint rotate-secret {NAME} --secret-stdin`"
    assert f"Run the command again with it: {again}" in lost.err
    again = endpoint("rotate-secret", NAME, "--secret-stdin", typed=lost.out)
    assert again.out == ""
    assert "signs with the new and the old secret until" in again.err


def test_the_audit_has_each_rotation_and_its_early_end_but_no_secret(resonant, endpoint, saved):
    endpoint("rotate-secret", NAME, "--overlap", "48")
    refused = endpoint("rotate-secret", NAME, code=1)
    assert (refused.out, "a rotation is under way" in refused.err) == ("", True)
    endpoint("rotate-secret", NAME, "--end", "--secret-stdin", typed=OLD, code=2)
    endpoint("rotate-secret", NAME, "--end")
    endpoint("rotate-secret", NAME, "--end", code=1)

    rows = resonant.json("audit")

    assert [(row["action"], row["selection"]) for row in reversed(rows)] == [
        ("endpoint rotate-secret", {"endpoint": NAME, "overlap_hours": 48.0}),
        ("endpoint rotate-secret", {"endpoint": NAME, "end": True}),
    ]
    assert f"endpoint {NAME}, overlap hours 48\n" in resonant.on_a_terminal("audit")
    assert saved() not in str(rows)
