"""``endpoint rotate-secret`` waits for live runs, and never loses a new secret."""

from __future__ import annotations

import asyncio
import base64
import signal
import time

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import WebhookEndpoint, load_endpoint
from blocks.loading import block_slug
from resonant.cli import rotating
from resonant.store.shared import signers

pytestmark = pytest.mark.engine

NAME = "cli-rotated"
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()


@pytest.fixture
def signing(prefect_api, monkeypatch):
    """An endpoint that signs with the old secret; the function returns the current one."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    async def save():
        url = SecretStr("https://hooks.example.com/in")
        block = WebhookEndpoint(url=url, signing_secret=SecretStr(OLD), timeout=0.5)
        await block.asave(NAME, overwrite=True)

    async def read():
        return (await load_endpoint(NAME)).signing_secret.get_secret_value()

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        asyncio.run(save())
        yield lambda: asyncio.run(read())
        asyncio.run(Block.adelete(block_slug(NAME)))


@pytest.fixture
def stuck(worker):
    """A live run that does not read the endpoint again."""
    worker.do(lambda store: store.write(signers.report, "stuck", {NAME: None}, now=time.time() + 60))


def test_the_new_secret_is_printed_alone_when_every_run_signs_with_it(resonant, signing):
    done = resonant.on_prefect("endpoint", "rotate-secret", NAME)

    assert done.out == f"{signing()}\n"
    assert "done, every run signs with the new secret, and with the old one too until" in done.err


def test_a_run_that_does_not_follow_is_named_and_the_secret_is_not_lost(
    resonant, signing, stuck, monkeypatch
):
    monkeypatch.setattr(rotating, "_PATIENCE_SECONDS", 0.0)

    done = resonant.on_prefect("endpoint", "rotate-secret", NAME, code=1)

    assert "saved; waiting for 1 run to use it" in done.err
    assert "saved, but 1 run signs with only the old secret. Do not change the receiver yet" in done.err
    assert "done" not in done.err.replace("not done", "")
    assert done.out == f"{signing()}\n" != f"{OLD}\n"

    again = resonant.on_prefect("endpoint", "rotate-secret", NAME, "--secret-stdin", typed=done.out, code=1)
    assert "1 run signs with only the old secret" in again.err
    assert (again.out, signing()) == ("", done.out.strip())


def test_ctrl_c_in_the_wait_prints_the_secret_and_says_how_to_go_on(resonant, signing, stuck):
    process = resonant.start("endpoint", "rotate-secret", NAME)
    while "waiting for" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert out == f"{signing()}\n" != f"{OLD}\n"
    assert "interrupted; the new secret is saved. Do not change the receiver yet" in err
