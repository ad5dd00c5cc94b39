"""``endpoint rotate-secret`` prints the new secret, says how long the old one also signs, and never loses a secret."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal

import httpx
import pytest

from blocks import WebhookEndpoint, load_endpoint

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


def test_the_new_secret_is_printed_alone_and_a_message_has_the_end_of_the_old_one(resonant, saved):
    done = resonant.on_prefect("endpoint", "rotate-secret", NAME)
    assert done.out == f"{saved()}\n" != f"{OLD}\n"
    said = rf"endpoint {NAME}: signs with the new and the old secret until 20[^ ]+Z; {FOLLOW}\. Give the receiver the new"
    assert re.match(said, done.err)
    shown = json.loads(resonant.on_prefect("endpoint", "show", NAME, "--json").out)
    assert (shown["signing_secret"], shown["previous_signing_secret"]) == ("set", "set")
    assert shown["previous_signing_secret_until"][:19].replace(" ", "T") in done.err


def test_end_cannot_be_combined_with_a_new_secret(resonant, saved):
    resonant.on_prefect("endpoint", "rotate-secret", NAME, "--end", "--secret-stdin", typed=OLD, code=2)


def test_without_an_overlap_and_after_the_end_the_new_secret_signs_alone(resonant, saved):
    alone = f"endpoint {NAME}: signs with the new secret alone; {FOLLOW}\n"
    assert resonant.on_prefect("endpoint", "rotate-secret", NAME, "--overlap", "0").err == alone
    resonant.on_prefect("endpoint", "rotate-secret", NAME)
    ended = resonant.on_prefect("endpoint", "rotate-secret", NAME, "--end")
    assert (ended.out, ended.err) == ("", alone)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_secret_whose_save_has_no_answer_is_printed_and_can_be_given_again(
    resonant, saved, monkeypatch, interrupted
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
        lost = resonant.on_prefect("endpoint", "rotate-secret", NAME, code=130 if interrupted else 1)
    assert lost.out == f"{saved()}\n" != f"{OLD}\n"
    assert "the answer to the save is missing" in lost.err
    assert (
        f"Run the command again with it: `resonant endpoint rotate-secret {NAME} --secret-stdin`" in lost.err
    )
    again = resonant.on_prefect("endpoint", "rotate-secret", NAME, "--secret-stdin", typed=lost.out)
    assert again.out == ""
    assert "signs with the new and the old secret until" in again.err


def test_a_refused_secret_is_not_printed(resonant, saved):
    resonant.on_prefect("endpoint", "rotate-secret", NAME)
    refused = resonant.on_prefect("endpoint", "rotate-secret", NAME, code=1)
    assert (refused.out, "a rotation is under way" in refused.err) == ("", True)
