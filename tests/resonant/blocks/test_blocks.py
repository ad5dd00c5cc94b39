"""Endpoints as Prefect blocks."""

import asyncio
import base64
import gc
import json
import logging
import random
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
import trustme
from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate, BlockSchemaCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.dispatch import get_registry_for_type
from pydantic import AfterValidator, SecretStr, ValidationError, create_model, model_validator

from resonant.blocks import SinkBlock, WebhookEndpoint
from resonant.blocks.catalog import name_from_url, remove_endpoint, save_endpoints
from resonant.blocks.documents import endpoint_documents, require_endpoint
from resonant.blocks.loading import load_endpoint, load_endpoints, unusable_endpoint
from resonant.delivery.attempt import AttemptRunner
from resonant.errors import AddressRefused, EndpointError, InvalidEvent, SendFailed, UnexpectedStatus
from resonant.events import Event, Lease
from resonant.settings import egress_proxy
from resonant.sinks import reloading
from resonant.sinks.base import Receipt
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.network.proxy import Proxy
from resonant.testing import FixedClock, Receiver, respond
from support.file_endpoint import FileEndpoint
from support.waiting import until

SECRET = "whsec_" + base64.b64encode(b"a signing secret, 24 byte").decode()


def webhook(**fields) -> WebhookEndpoint:
    return WebhookEndpoint(**{"url": SecretStr("https://hooks.example.com/in?key=t0ken")} | fields)


@pytest.mark.parametrize(
    ("kind", "first"), [(WebhookEndpoint, ["url", "allow_private"]), (FileEndpoint, ["path", "policy"])]
)
def test_the_form_shows_the_fields_of_a_kind_above_those_that_every_endpoint_has(kind, first):
    fields = kind.model_json_schema()["properties"]
    assert sorted(fields, key=lambda name: fields[name]["position"])[:2] == first


def test_a_caller_may_change_the_schema_that_it_gets():
    WebhookEndpoint.model_json_schema()["properties"]["url"].clear()
    assert WebhookEndpoint.model_json_schema()["properties"]["url"]["title"] == "Url"


@pytest.mark.parametrize("use", [WebhookEndpoint.check, WebhookEndpoint.open])
def test_an_unusable_endpoint_is_refused_when_it_is_checked_or_opened(use):
    use(webhook(), "billing")
    use(webhook(url=SecretStr("http://127.0.0.1/"), allow_private=True), "billing")
    with pytest.raises(EndpointError, match="billing"):
        use(webhook(url=SecretStr("ftp://example.com")), "billing")
    with pytest.raises(
        AddressRefused, match=r"127\.0\.0\.1 is a private or special address; --allow-private"
    ):
        use(webhook(url=SecretStr("http://127.0.0.1/")), "billing")


def test_no_secret_of_an_endpoint_shows_in_a_text_of_the_block():
    block = webhook(
        headers='{"authorization": "Bearer s3cret"}',
        signing_secret=SecretStr(SECRET),
        previous_signing_secret=SecretStr(SECRET),
    )

    shown = repr(block) + str(block) + json.dumps(block.model_dump(mode="json"), default=str)

    for secret in ("t0ken", "hooks.example.com", "s3cret", SECRET):
        assert secret not in shown


def test_an_open_endpoint_has_the_configuration_of_its_block():
    old, until = "whsec_b2xkIG9sZCBvbGQgb2xk", datetime(2026, 1, 1, tzinfo=UTC)
    block = webhook(
        headers='{"x-key": 1}',
        signing_secret=SecretStr(SECRET),
        previous_signing_secret=SecretStr(old),
        previous_signing_secret_until=until,
        timeout=3,
        status_overrides={"404": "transient"},  # text, as the UI sends it
        policy="classic",
        concurrency=2,
        rate=0.5,
    )
    assert block.to_endpoint("billing") == Endpoint(
        name="billing",
        url="https://hooks.example.com/in?key=t0ken",
        headers={"x-key": "1"},
        signing_secrets=(SECRET, old),
        signing_ends={old: until.timestamp()},
        timeout=3,
        overrides={404: "transient"},
    )
    opened = block.open("billing")
    assert (opened.policy, opened.timeout, opened.concurrency, opened.rate) == ("classic", 3, 2, 0.5)
    described = opened.describe(ConnectionError("cannot reach https://hooks.example.com/in?key=t0ken"))
    assert described == "ConnectionError: cannot reach ***"


async def test_the_wait_for_the_configuration_of_an_idle_endpoint_is_no_part_of_the_attempt(monkeypatch):
    for name, seconds in (("LOOK_AGAIN_SECONDS", 0.005), ("IDLE_SECONDS", 0.01), ("_WAIT_SECONDS", 0.01)):
        monkeypatch.setattr(reloading, name, seconds)
    monkeypatch.setattr("resonant.delivery.attempt._GRACE_SECONDS", 0)
    loaded = asyncio.get_running_loop().create_future()
    monkeypatch.setattr("resonant.blocks.webhook_endpoint.load_endpoint", lambda _name: loaded)
    event = Event(type="t", source="/s", data={})
    lease = Lease(1, 1, "me", event, "billing", round_started_at=0.0, accepted_at=0.0)
    runner = AttemptRunner(clock=FixedClock(0.0), rng=random.Random())
    async with Receiver(respond(200)) as receiver:
        block = webhook(url=SecretStr(receiver.url), allow_private=True)
        loaded.set_result(block)
        opened = block.open("billing")
        await opened.sink.send(event)
        await until(lambda: opened.sink._looking is None)
        loaded = asyncio.get_running_loop().create_future()  # Prefect does not answer any more
        await opened.prepare()
        monkeypatch.setattr(reloading, "_WAIT_SECONDS", 3600)  # longer than the attempt may take
        made = (await runner.attempt(lease, opened)).attempt
        await opened.close()
    assert made.result == "delivered"


async def test_deliver_sends_once_and_returns_the_receipt_with_and_without_await():
    answers = iter([respond(503), *[respond(202, body=b"thanks")] * 3])
    async with Receiver(lambda _request: next(answers)) as receiver:
        block = webhook(url=SecretStr(receiver.url), allow_private=True, signing_secret=SecretStr(SECRET))
        with pytest.raises(UnexpectedStatus, match=r"^the endpoint answered 503$"):
            await block.deliver({"id": "evt_1", "type": "t", "source": "/s", "data": 1})
        receipt = await block.deliver(Event(id="evt_1", type="t", source="/s", data=1))
        without_loop = await asyncio.to_thread(
            block.deliver, Event(id="evt_2", type="t", source="/s", data=1)
        )
        in_own_loop = await asyncio.to_thread(
            lambda: asyncio.run(block.deliver(Event(id="evt_3", type="t", source="/s", data=1)))
        )
    assert receipt == Receipt(202, "thanks")
    assert astuple(receipt) == astuple(without_loop) == astuple(in_own_loop)
    assert [each.headers["webhook-id"] for each in receiver.journal] == ["evt_1", "evt_1", "evt_2", "evt_3"]
    assert all(each.headers["webhook-signature"].startswith("v1,") for each in receiver.journal)


async def test_the_error_of_deliver_without_an_answer_has_no_secret():
    block = webhook(url=SecretStr("http://127.0.0.1:9/in?key=t0ken"), allow_private=True)
    with pytest.raises(SendFailed) as failed:
        await block.deliver({"type": "t", "source": "/s"})
    assert "t0ken" not in str(failed.value)
    assert failed.value.__cause__ is None
    with pytest.raises(SendFailed, match="AddressRefused"):
        await webhook(url=SecretStr("http://localhost:9/in")).deliver({"type": "t", "source": "/s"})
    behind_proxy = webhook(proxy=SecretStr("http://jo:s3cret@127.0.0.1:9"))
    with pytest.raises(SendFailed, match="no connection to the proxy"):
        await behind_proxy.deliver({"type": "t", "source": "/s"})
    with pytest.raises(InvalidEvent, match=r"^type is missing$"):
        await block.deliver({"source": "/s"})
    with pytest.raises(InvalidEvent, match=r"^must be a JSON object, not a string$"):
        await block.deliver("paid")


async def test_the_error_of_deliver_has_no_oauth_token():
    def script(request):
        if request.path == "/token":
            return respond(200, body=b'{"access_token": "t0ken", "token_type": "bearer"}')
        return respond(200, {"x": request.headers["authorization"].split()[1] + "a" * 70_000})

    async with Receiver(script) as receiver:
        block = webhook(
            url=SecretStr(receiver.url),
            allow_private=True,
            oauth_token_url=f"{receiver.url}/token",
            oauth_client_id="me",
            oauth_client_secret=SecretStr("s3cret"),
        )
        with pytest.raises(SendFailed, match=r"[*]{3}aaa") as failed:
            await block.deliver({"type": "t", "source": "/s"})
    assert "t0ken" not in str(failed.value)


def test_an_endpoint_goes_through_its_own_proxy_or_that_of_the_settings(monkeypatch):
    monkeypatch.setenv("RESONANT_PROXY", "http://everybodys:3128")
    default = egress_proxy()
    assert default.url == "http://everybodys:3128"
    assert webhook().to_endpoint("a").proxy == default
    assert webhook(proxy=SecretStr("")).to_endpoint("a").proxy == default
    assert webhook(proxy=SecretStr("http://own:3128\n")).to_endpoint("a").proxy == Proxy("http://own:3128")
    assert webhook(proxy=SecretStr("none")).to_endpoint("a").proxy is None


def test_a_client_certificate_that_expires_soon_causes_a_warning_and_is_still_sent(caplog):
    issued = trustme.CA().issue_cert("a.example", not_after=datetime.now(UTC) + timedelta(days=3))
    block = webhook(
        client_certificate=SecretStr(issued.cert_chain_pems[0].bytes().decode()),
        client_key=SecretStr(issued.private_key_pem.bytes().decode()),
    )
    block.open("billing")
    assert "endpoint billing: its client certificate expires on " in caplog.text
    assert block.to_endpoint("billing").client_certificate is not None


def test_a_short_signing_secret_causes_a_warning_and_still_signs(caplog):
    webhook(signing_secret=SecretStr(SECRET)).open("billing")
    assert not caplog.records
    block = webhook(signing_secret=SecretStr("whsec_c2hvcnQ="))
    block.open("billing")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("endpoint billing: its signing secret has 5 bytes, not 24 to 64: ")
    assert block.to_endpoint("billing").signing_secrets == ("whsec_c2hvcnQ=",)


@pytest.mark.parametrize("headers", ["x-key: s3cret", "[]", "{", '"s3cret"', "1"])
def test_headers_that_are_not_a_json_object_are_refused_and_not_quoted(headers):
    with pytest.raises(EndpointError, match="its headers must be a JSON object") as refused:
        webhook(headers=headers).open("billing")
    assert "s3cret" not in str(refused.value)
    for none in (None, "", " ", "{}"):
        assert webhook(headers=none).to_endpoint("billing").headers == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("timeout", 0), ("concurrency", 0), ("rate", 0), ("rate", 10_001), ("status_overrides", {404: "odd"})],
)
def test_a_value_out_of_range_is_refused_by_the_form(field, value):
    with pytest.raises(ValidationError):
        webhook(**{field: value})


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8080/hook", "127-0-0-1-8080"),
        ("https://Hooks.Example.com/orders", "hooks-example-com"),
        ("https://user:pw@api.example.com:8443", "api-example-com-8443"),
        ("http://[::1]:9000/", "1-9000"),
    ],
)
def test_an_endpoint_is_named_after_host_and_port_of_an_http_url(url, name):
    assert name_from_url(url) == name
    for other in ("http://", "ftp://example.com", "no url"):
        with pytest.raises(EndpointError):
            name_from_url(other)


PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQ==\n-----END PRIVATE KEY-----\n"


class Login(Block):
    """A block within another."""

    user: str = "anna"
    password: SecretStr = SecretStr("hunter2-hunter2")


class Vault(SinkBlock):
    """An endpoint with a secret in each place, whose sink gives them all away."""

    key: SecretStr = SecretStr(PEM)
    login: Login = Login()
    others: list[SecretStr] = [SecretStr("one-of-many")]  # noqa: RUF012 - pydantic copies it
    options: SecretDict = SecretDict({"pins": [4711_0815], "nested": {"token": "also-s3cret"}})

    async def deliver(self, event):
        said = f"{PEM!r} {PEM} hunter2-hunter2 one-of-many 47110815 also-s3cret anna"
        if event.type == "t.ok":
            return Receipt(200, said, f"late: {said}")
        error = ConnectionError(said)
        error.excerpt = said
        raise error


def test_a_secret_of_several_lines_is_redacted_as_a_whole_and_in_part():
    described = Vault().open("vault/v").describe
    assert described(ValueError(f"cannot read {PEM}")) == "ValueError: cannot read ***"
    assert described(ValueError("in line 2: MIIEvQIBADANBgkqhkiG9w0BAQEF")) == "ValueError: in line 2: ***"


@pytest.mark.parametrize(
    ("event_type", "fields"), [("t.ok", ["excerpt", "warning"]), ("t.no", ["excerpt", "error"])]
)
async def test_attempts_of_an_own_sink_are_stored_without_the_secrets_of_its_block(event_type, fields):
    """The runner would store these fields."""
    event = Event(type=event_type, source="/s", data=1)
    lease = Lease(1, 1, "me", event, "vault/v", round_started_at=0.0, accepted_at=0.0)
    attempt_runner = AttemptRunner(clock=FixedClock(0.0), rng=random.Random(7))
    made = (await attempt_runner.attempt(lease, Vault().open("vault/v"))).attempt
    for field in fields:
        kept = getattr(made, field)
        assert "anna" in kept
        for secret in (*PEM.splitlines(), "hunter2", "one-of-many", "47110815", "also-s3cret"):
            assert secret not in kept


class Note(Block):
    """A block that is no endpoint."""

    _block_type_slug = "note"

    text: str = "buy milk"


@pytest.fixture
async def listed(prefect_api):
    """List the endpoints that this test has made; other tests have theirs on the same server."""

    async def names():
        return set(await load_endpoints())

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        others = await names()

        async def list_them():
            return {name: block for name, block in (await load_endpoints()).items() if name not in others}

        yield list_them
        for name in await names() - others:
            await remove_endpoint(name)


async def break_endpoint(name: str, **data) -> None:
    """Save a webhook endpoint, and replace its values as an older version or the UI may have done: by default, no URL."""
    await webhook().asave(name)
    async with get_client() as client:
        document = await client.read_block_document_by_name(name, "webhook-endpoint")
        broken = BlockDocumentUpdate(data=data or {"headers": {"x": "s3cret"}}, merge_existing_data=False)
        await client.update_block_document(document.id, broken)


@pytest.mark.engine
async def test_every_endpoint_is_loaded_by_name_and_a_broken_one_can_be_removed(listed, tmp_path):
    await webhook(timeout=3).asave("the-zoo")
    await FileEndpoint(path=tmp_path / "log").asave("the-log")
    await break_endpoint("the-crm")
    await webhook().asave("the-billing")
    await Note().asave("shopping", overwrite=True)
    found = await listed()

    assert [(name, type(block)) for name, block in found.items()] == [
        ("file-endpoint/the-log", FileEndpoint),
        ("the-billing", WebhookEndpoint),
        ("the-crm", EndpointError),
        ("the-zoo", WebhookEndpoint),
    ]
    assert found["the-zoo"].timeout == 3
    assert str(found["the-crm"]) == "endpoint 'the-crm' is not configured completely: save it again"

    for name in ("the-crm", "file-endpoint/the-log"):
        await remove_endpoint(name)
    assert list(await listed()) == ["the-billing", "the-zoo"]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"timeout": -1}, "its timeout must be greater than 0"),
        ({"concurrency": "many"}, "its concurrency must be a valid integer"),
        (
            {"status_overrides": {"404": "odd"}},
            "its status_overrides must be 'transient', 'permanent' or 'unknown'",
        ),
        ({"signing_secret": ["s3cret"]}, "its signing_secret must be text"),
    ],
)
async def test_a_wrong_value_is_named_without_its_text(listed, values, problem):
    await break_endpoint("the-crm", url="https://hooks.example.com/", **values)
    [found] = (await listed()).values()
    with pytest.raises(EndpointError) as loaded:
        await load_endpoint("the-crm")

    assert str(found) == str(loaded.value) == f"endpoint 'the-crm': {problem}: save it again"


@pytest.mark.engine
async def test_an_endpoint_without_its_class_does_not_hide_others_and_can_be_removed(listed):
    class Pigeon(SinkBlock):
        _block_type_slug = "pigeon"

        async def deliver(self, event):
            return None

    await Pigeon().asave("grey")
    await webhook().asave("the-billing")
    get_registry_for_type(Block).pop("pigeon")
    found = await listed()
    assert isinstance(found["the-billing"], WebhookEndpoint)
    assert isinstance(found["pigeon/grey"], EndpointError)
    assert "pigeon" in str(found["pigeon/grey"])
    await remove_endpoint("pigeon/grey")
    assert list(await listed()) == ["the-billing"]


@pytest.mark.engine
@pytest.mark.parametrize("block", [webhook(), None], ids=["saved", "removed"])
async def test_an_import_names_the_endpoint_that_another_command_changes(listed, monkeypatch, block):
    await webhook().asave("the-crm")
    stale = await endpoint_documents() if block is None else {}

    async def read_earlier(_names):
        return stale

    if block is None:
        await remove_endpoint("the-crm")
    monkeypatch.setattr("resonant.blocks.catalog.webhook_endpoints", read_earlier)
    with pytest.raises(EndpointError, match="endpoint 'the-crm': another command saved or removed it"):
        await save_endpoints({"the-crm": block}, lambda _name: None)


@pytest.mark.engine
async def test_an_import_hides_each_secret_after_an_older_resonant_registered_its_schema(listed):
    await WebhookEndpoint.register_type_and_schema()
    fields = WebhookEndpoint._to_block_schema().fields
    properties = {name: each for name, each in fields["properties"].items() if name != "signing_secret"}
    secrets = [name for name in fields["secret_fields"] if name != "signing_secret"]
    older = BlockSchemaCreate(
        fields=fields | {"properties": properties, "secret_fields": secrets},
        block_type_id=WebhookEndpoint._block_type_id,
    )
    async with get_client() as client:
        await client.create_block_schema(older)
        await save_endpoints({"the-crm": webhook(signing_secret=SecretStr(SECRET))}, lambda _name: None)
        shown = await client.read_block_document_by_name("the-crm", "webhook-endpoint", include_secrets=False)
    assert shown.data["signing_secret"] == "********"


@pytest.mark.engine
@pytest.mark.parametrize(("refusals", "long_waits"), [(3, 0), (4, 1)])
async def test_an_import_repeats_a_request_soon_that_met_another_write(
    listed, monkeypatch, refusals, long_waits
):
    """Prefect's own client would wait two seconds first, and some of a thousand requests meet another write."""
    refused, waits, send = [], [], httpx.AsyncHTTPTransport.handle_async_request

    async def refuse(transport, request):
        if request.url.path.endswith("/block_documents/") and len(refused) < refusals:
            refused.append(request)
            return httpx.Response(503)
        return await send(transport, request)

    async def wait(seconds):
        waits.append(seconds)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", refuse)
    monkeypatch.setattr("prefect.client.base.anyio.sleep", wait)
    await save_endpoints({"the-crm": webhook()}, lambda _name: None)
    assert len(waits) == refusals
    assert [seconds > 1 for seconds in waits] == [False] * 3 + [True] * long_waits
    assert "the-crm" in await listed()


@pytest.mark.engine
@pytest.mark.parametrize("name", ["nowhere", "file-endpoint/nowhere", "note/shopping", "no-such-type/x"])
async def test_only_endpoints_are_removed(listed, name):
    await Note().asave("shopping", overwrite=True)
    with pytest.raises(EndpointError, match=f"no endpoint is named '{name}'"):
        await remove_endpoint(name)
    assert (await Note.aload("shopping")).text == "buy milk"


@pytest.mark.engine
async def test_many_missing_endpoints_cost_one_request_and_a_few_one_more_for_suggestions(listed, caplog):
    await webhook().asave("the-billing")
    for number in (11, 2):
        names = [f"the-billng-{each}" for each in range(number)]
        caplog.clear()
        with caplog.at_level(logging.INFO, "httpx"):
            errors = await asyncio.gather(*map(load_endpoint, names), return_exceptions=True)
        assert [str(error).partition(":")[0].partition(";")[0] for error in errors] == [
            f"no endpoint is named {name!r}" for name in names
        ]
        assert all("did you mean the-billing" in str(error) for error in errors) == (number == 2)
        asked = sum("/block_documents/filter" in line for line in caplog.messages)
        assert asked == (1 if number == 11 else 3), "the second request for all names finds no more"


@pytest.mark.engine
async def test_endpoints_are_read_together_even_if_the_server_returns_few_at_once(
    listed, monkeypatch, caplog
):
    names = ("aa-first", "mm-next", "zz-last")
    for name in names:
        await webhook().asave(name)
    request = PrefectClient.request

    async def request_two(client, method, path, *, json):
        return await request(client, method, path, json=json | {"limit": 2})

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "httpx"):
        patch.setattr(PrefectClient, "request", request_two)
        await require_endpoint("zz-last")
        caplog.clear()
        assert len(await asyncio.gather(*map(load_endpoint, names))) == 3
    assert sum("/block_documents/filter" in line for line in caplog.messages) == 2


async def test_a_failed_read_that_nobody_waits_for_any_more_is_not_logged(monkeypatch, caplog):
    begun, late, others = asyncio.Event(), asyncio.Event(), asyncio.all_tasks()

    async def fail_late(*_arguments, **_options):
        begun.set()
        await late.wait()
        raise ConnectionError

    monkeypatch.setattr("resonant.blocks.documents._read_documents", fail_late)
    waiting = asyncio.create_task(load_endpoint("orders"))
    await begun.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    late.set()
    await until(lambda: asyncio.all_tasks() <= others)
    gc.collect()
    assert not caplog.messages


@pytest.mark.parametrize("model_wide", [True, False])
def test_the_text_of_a_sinks_own_validator_is_not_shown(model_wide):
    def refuse(value):
        raise ValueError("must not be s3cret")

    kind = create_model("Kind", key=(Annotated[str, AfterValidator(refuse)], ...))
    if model_wide:
        kind = create_model("Kind", __validators__={"all": model_validator(mode="before")(refuse)})
    with pytest.raises(ValidationError) as raised:
        kind.model_validate({"key": "s3cret"})

    assert str(unusable_endpoint("the-crm", raised.value)) == (
        "endpoint 'the-crm' is not configured completely: save it again"
    )
