"""``endpoint update`` changes only the given settings."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint, load_endpoint
from resonant.blocks.catalog import remove_endpoint, update_webhook_endpoint
from resonant.errors import EndpointError, UnknownEndpoint

pytestmark = pytest.mark.engine

NAME = "updated"
SECRET = "whsec_b2xkIG9sZCBvbGQgb2xk"


@pytest.fixture
async def update(prefect_api):
    """Change a fully configured endpoint; return the message's list of kept settings, and the endpoint."""

    async def run(fields=None, *, headers=None, overrides=None, clear=()):
        kept = await update_webhook_endpoint(
            NAME, fields or {}, headers=headers or {}, overrides=overrides or {}, clear=clear
        )
        return kept, await load_endpoint(NAME)

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(
            url=SecretStr("https://hooks.example.com/in"),
            headers='{"X-Key": "1", "x-more": "2"}',
            signing_secret=SecretStr(SECRET),
            timeout=30,
            policy="classic",
            status_overrides={404: "transient"},
        ).asave(NAME, overwrite=True)
        yield run
        await remove_endpoint(NAME)


async def test_a_new_url_keeps_the_secret_the_headers_and_all_else(update):
    kept, block = await update({"url": SecretStr("https://new.example.com/in")})

    endpoint = block.to_endpoint(NAME)
    assert endpoint.url == "https://new.example.com/in"
    assert (endpoint.signing_secrets, endpoint.headers) == ((SECRET,), {"X-Key": "1", "x-more": "2"})
    assert (endpoint.timeout, endpoint.overrides, block.policy) == (30, {404: "transient"}, "classic")
    assert kept == (
        "its signing secret, 2 of its headers, its policy classic, its timeout of 30 s, 1 of its overrides"
    )


async def test_headers_and_overrides_are_added_or_replaced_by_name_and_a_mode_is_kept(update):
    await update({"mode": "structured"})
    kept, block = await update(headers={"x-key": "new"}, overrides={404: "permanent", 409: "transient"})

    endpoint = block.to_endpoint(NAME)
    assert (endpoint.headers, endpoint.mode) == ({"x-more": "2", "x-key": "new"}, "structured")
    assert block.status_overrides == {404: "permanent", 409: "transient"}
    assert "1 of its headers" in kept
    assert "its structured mode" in kept
    assert "overrides" not in kept
    _, block = await update({"mode": "binary"})
    assert block.to_endpoint(NAME).mode == "binary"


async def test_a_cleared_setting_has_its_default(update):
    _, block = await update(clear={"headers", "policy", "status_overrides", "concurrency", "ca_file"})

    assert (block.headers, block.policy, block.status_overrides) == (None, None, {})
    assert block.signing_secret.get_secret_value() == SECRET


async def test_an_unusable_value_or_an_unknown_name_changes_nothing(update):
    with pytest.raises(EndpointError, match="must begin with http"):
        await update({"url": SecretStr("ftp://x")})
    with pytest.raises(EndpointError, match="not 24 to 64"):
        await update({"signing_secret": SecretStr("whsec_c2hvcnQ=")})
    with pytest.raises(UnknownEndpoint, match="nowhere"):
        await update_webhook_endpoint("nowhere", {"timeout": 3.0}, headers={}, overrides={})
    _, block = await update(clear={"ca_file"})
    assert (block.url.get_secret_value(), block.signing_secret.get_secret_value()) == (
        "https://hooks.example.com/in",
        SECRET,
    )
