"""Endpoints as Prefect blocks."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from prefect.blocks.fields import SecretDict
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks import FileEndpoint, SinkBlock, WebhookEndpoint
from blocks.catalog import name_from_url
from resonant.errors import AddressRefused, EndpointError
from resonant.events import make_event

SECRET = "whsec_" + base64.b64encode(b"a signing secret, 24 byte").decode()


class TestWebhookEndpointIsAProperBlock(BlockStandardTestSuite):
    test_has_a_valid_image = None  # it would fetch the logo from the network, and there is none

    @pytest.fixture
    def block(self):
        return WebhookEndpoint


class TestFileEndpointIsAProperBlock(BlockStandardTestSuite):
    test_has_a_valid_image = None  # it would fetch the logo from the network, and there is none

    @pytest.fixture
    def block(self):
        return FileEndpoint


def webhook(**fields) -> WebhookEndpoint:
    return WebhookEndpoint(**{"url": SecretStr("https://hooks.example.com/in?key=t0ken")} | fields)


def test_what_is_secret_of_an_endpoint_shows_in_no_text_of_the_block():
    block = webhook(
        headers=SecretDict({"authorization": "Bearer s3cret"}),
        signing_secret=SecretStr(SECRET),
        previous_signing_secret=SecretStr(SECRET),
    )

    shown = repr(block) + str(block) + json.dumps(block.model_dump(mode="json"), default=str)

    for secret in ("t0ken", "hooks.example.com", "s3cret", SECRET):
        assert secret not in shown


def test_the_plain_endpoint_carries_everything_that_was_configured():
    endpoint = webhook(
        headers=SecretDict({"x-key": "1"}),
        signing_secret=SecretStr(SECRET),
        previous_signing_secret=SecretStr("whsec_b2xkIG9sZCBvbGQgb2xk"),
        timeout=3,
        status_overrides={404: "transient"},
    ).to_endpoint("billing")

    assert endpoint.name == "billing"
    assert endpoint.url == "https://hooks.example.com/in?key=t0ken"
    assert endpoint.headers == {"x-key": "1"}
    assert endpoint.signing_secrets == (SECRET, "whsec_b2xkIG9sZCBvbGQgb2xk")
    assert endpoint.timeout == 3
    assert endpoint.overrides == {404: "transient"}


def test_statuses_may_come_as_the_text_that_the_ui_sends():
    assert webhook(status_overrides={"404": "transient"}).status_overrides == {404: "transient"}


@pytest.mark.parametrize(
    "fields", [{"timeout": 0}, {"concurrency": 0}, {"status_overrides": {404: "sometimes"}}]
)
def test_a_value_out_of_range_is_refused_by_the_form(fields):
    with pytest.raises(ValidationError):
        webhook(**fields)


def test_an_endpoint_that_cannot_be_used_says_so_when_it_is_opened():
    with pytest.raises(EndpointError, match="billing"):
        webhook(url=SecretStr("ftp://example.com")).open("billing")
    with pytest.raises(AddressRefused):
        webhook(url=SecretStr("http://127.0.0.1/")).open("billing")


def test_a_failure_is_described_without_the_url():
    target = webhook().open("billing")

    described = target.describe(ConnectionError("cannot reach https://hooks.example.com/in?key=t0ken"))

    assert described.startswith("ConnectionError")
    assert "t0ken" not in described


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8080/hook", "127-0-0-1-8080"),
        ("https://Hooks.Example.com/orders", "hooks-example-com"),
        ("https://user:pw@api.example.com:8443", "api-example-com-8443"),
        ("http://[::1]:9000/", "1-9000"),
    ],
)
def test_an_endpoint_is_named_after_host_and_port(url, name):
    assert name_from_url(url) == name


@pytest.mark.parametrize("url", ["http://", "ftp://example.com", "no url"])
def test_what_is_no_http_url_names_no_endpoint(url):
    with pytest.raises(EndpointError):
        name_from_url(url)


def test_a_file_endpoint_appends_the_events_data(tmp_path):
    target = FileEndpoint(path=tmp_path / "events.jsonl").open("file-endpoint/log")
    events = [make_event(type="t", source="/s", data={"n": n}) for n in range(2)]

    for event in events:
        asyncio.run(target.sink.send(event))

    assert (tmp_path / "events.jsonl").read_text() == '{"n":0}\n{"n":1}\n'


def test_a_sink_of_ones_own_keeps_its_secrets_out_of_what_is_stored():
    class Queue(SinkBlock):
        password: SecretStr = SecretStr("hunter2-hunter2")
        headers: SecretDict = SecretDict({"x": "also-secret"})

        async def deliver(self, event):
            raise ConnectionError(f"login with {self.password.get_secret_value()} and also-secret failed")

    described = Queue().open("queue/q").describe(ConnectionError("with hunter2-hunter2 and also-secret"))

    assert described == "ConnectionError: with *** and ***"
