"""Which event a webhook becomes: by the defaults of its scheme, and by the templates of its source."""

import json

import pytest

from resonant.errors import InvalidEvent
from resonant.intake.sources.templates import FORM
from support.sources import NEEDS, webhook

MOST_BYTES = 10_000


def event(source, webhook, most_bytes=MOST_BYTES):
    return source.event(webhook.received, most_bytes=most_bytes)


def identity(found):
    return found.type, found.source, found.id


PUSH = {"ref": "refs/heads/main", "repository": {"full_name": "octo/shop"}}
OPENED = {"action": "opened", "number": 7, "repository": {"full_name": "octo/shop"}}
MESSAGE = {
    "type": "event_callback",
    "event_id": "Ev1",
    "team_id": "T1",
    "event": {"type": "app_mention"},
}


@pytest.mark.parametrize(
    ("verify", "headers", "data", "expected"),
    [
        ("github", {"x_github_event": "ping"}, {"zen": "Keep it", "hook_id": 1}, ("com.github.ping.none", "/github/organisation", "evt_1")),
        ("github", {"x_github_event": "push"}, PUSH, ("com.github.push.none", "/github/octo/shop", "evt_1")),
        ("github", {"x_github_event": "pull_request"}, OPENED, ("com.github.pull_request.opened", "/github/octo/shop", "evt_1")),
        ("gitlab", {}, {"object_kind": "push", "project": {"path_with_namespace": "a/b"}}, ("com.gitlab.push", "/gitlab/a/b", "evt_1")),
        ("gitlab", {"idempotency_key": "key"}, {"event_name": "user_create"}, ("com.gitlab.event", "/gitlab/group", "key")),
        ("stripe", {}, {"id": "evt_9", "type": "charge.succeeded"}, ("com.stripe.charge.succeeded", "/stripe", "evt_9")),
        ("slack", {}, MESSAGE, ("com.slack.app_mention", "/slack/T1", "Ev1")),
        ("shopify", {"x_shopify_topic": "orders/create", "x_shopify_shop_domain": "a.myshopify.com"}, {"id": 1},
         ("com.shopify.orders%2Fcreate", "/shopify/a.myshopify.com", "evt_1")),
        ("standard-webhooks", {}, {"type": "user.created"}, ("user.created", "/standard-webhooks", "evt_1")),
        ("standard-webhooks", {}, [1, 2], ("webhook.received", "/standard-webhooks", "evt_1")),
        ("hmac", {}, "any", ("webhook.received", "/hmac", "evt_1")),
        ("token", {}, 1, ("webhook.received", "/token", "evt_1")),
        ("basic", {}, None, ("webhook.received", "/basic", "evt_1")),
        ("none", {}, {}, ("webhook.received", "/none", "evt_1")),
    ],
)  # fmt: skip
def test_the_defaults_of_a_scheme_work_for_the_events_of_its_service(of, verify, headers, data, expected):
    given = of(verify, **({"id": "{header.x-id}"} if verify == "none" else {}))
    assert identity(event(given, webhook(verify, json.dumps(data).encode()).changed(**headers))) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"command=%2Fdeploy&team_id=T1&trigger_id=1.2.a", ("com.slack.event", "/slack/T1", "1.2.a")),
        (b"payload=%7B%22type%22%3A%22block_actions%22%7D", ("com.slack.event", "/slack/team", None)),
    ],
)
def test_a_command_or_button_of_slack_is_stored_as_its_form(of, body, expected):
    good = webhook("slack", body, kind=FORM)
    found = event(of("slack"), good)
    assert identity(found) == (
        *expected[:2],
        expected[2] or good["x-slack-signature"].decode().replace("=", "%3D"),
    )
    assert (found.body, found.form, found.datacontenttype) == (body, "text", FORM)


def test_a_message_of_twilio_has_the_token_or_the_signature_as_its_id(of):
    good = webhook("twilio", b"AccountSid=AC1&Body=caf%C3%A9")
    assert identity(event(of("twilio"), good)) == ("com.twilio.webhook", "/twilio/AC1", "evt_1")
    without = event(of("twilio"), good.changed(i_twilio_idempotency_token=None))
    assert len(without.id) >= 28
    assert without.body == good.body


def test_templates_give_each_attribute(of):
    found = event(
        of(
            "github",
            type="shop.{data/action}",
            source="/repos/{data/repository/full_name}",
            id="{data/number}-{header.x-github-delivery}",
            subject="{data/number|}",
            extensions={"action": "{data/action}", "sender": "{data/sender/login|}"},
        ),
        webhook("github", json.dumps(OPENED).encode()),
    )
    assert identity(found) == ("shop.opened", "/repos/octo/shop", "7-evt_1")
    assert (found.subject, dict(found.extensions)) == ("7", {"action": "opened"})


def test_without_a_value_subject_and_extensions_are_absent(of):
    found = event(of("stripe", subject="{data/none|}", extensions={"a": "{data/none|}"}), webhook("stripe"))
    assert (found.subject, dict(found.extensions)) == (None, {})


@pytest.mark.parametrize(
    ("body", "kind", "form"),
    [
        (b'{ "b":1.10,\r\n "a": "\\u00fc" , "b": 2}\n', "application/json", "json"),
        (b'{"a": 1}', "application/vnd.api+json; charset=utf-8", "json"),
        (b'{"a": 1}', "text/plain", "text"),
        (b"{not json", "application/json", "bytes"),
        (b'{"a": "\xfc"}', "application/json; charset=latin-1", "bytes"),
        (b"<a/>", "application/xml", None),
        (b"a=1&b=%C3%BC", FORM, "text"),
        (b"a=\xff", FORM, "bytes"),
        (bytes(range(256)), "application/octet-stream", "bytes"),
        (b"", "application/json", "absent"),
    ],
)  # fmt: skip
def test_the_body_is_kept_byte_for_byte_with_its_content_type(of, body, kind, form):
    found = event(of("hmac"), webhook("hmac", body, kind=kind))
    assert found.body == body
    assert form in (None, found.form) or (form == "text" and found.form == "bytes")
    if found.form != "absent":
        assert (found.datacontenttype or "application/json") == kind


def test_a_body_without_a_content_type_is_bytes(of):
    found = event(of("hmac"), webhook("hmac", b'{"a": 1}').changed(content_type=None))
    assert (found.form, found.body, found.datacontenttype) == ("bytes", b'{"a": 1}', None)


@pytest.mark.parametrize(
    ("fields", "data", "said"),
    [
        ({"id": "{data/id}"}, {}, "the request has no data/id"),
        ({"type": "{data/type}"}, {"type": "resonant.delivery.dead"}, "is reserved"),
        ({"type": "{data/type}"}, {"type": "resonant"}, "is reserved"),
        ({"source": "{data/source}"}, {"source": "/resonant"}, "is reserved"),
        ({"source": "{data/source}"}, {"source": "resonant/x"}, "is reserved"),
        ({"source": "/a/{data/source}"}, {"source": "../resonant"}, "segments . or .."),
        ({"source": "/a/{data/source}"}, {"source": "%2e%2e/resonant"}, "segments . or .."),
        ({"subject": "{data/subject}"}, {"subject": "x" * 300}, "subject must have 1 to 255 characters"),
        ({"id": "{data/id}"}, {"id": "x" * 300}, "id must have 1 to 255 characters"),
        ({"type": "{data/a}"}, {"a": {"b": 1}}, "data/a is not a single value"),
    ],
)
def test_a_value_that_is_missing_or_not_allowed_is_refused(of, fields, data, said):
    with pytest.raises(InvalidEvent, match=said):
        event(
            of("stripe", **({"type": "t", "id": "1"} | fields)), webhook("stripe", json.dumps(data).encode())
        )


def test_a_body_that_is_too_large_is_refused(of):
    assert event(of("hmac"), webhook("hmac", b"x" * 100, kind="text/plain"), most_bytes=100)
    with pytest.raises(InvalidEvent) as raised:
        event(of("hmac"), webhook("hmac", b"x" * 101, kind="text/plain"), most_bytes=100)
    assert raised.value.code == "too_large"


def test_a_content_type_that_is_none_is_refused(of):
    with pytest.raises(InvalidEvent, match="datacontenttype"):
        event(of("hmac"), webhook("hmac").changed(content_type="not a type"))


@pytest.mark.parametrize("verify", NEEDS)
def test_an_id_in_a_header_that_nobody_signs_may_be_copied(of, verify):
    assert of(verify).may_be_copied == (verify in ("github", "shopify", "twilio", "hmac"))
    assert not of(verify, id="{data/id}").may_be_copied


def test_no_secret_is_in_its_text(of):
    assert "very-secret" not in repr(of("github", secret="very-secret"))
