"""Which event a webhook becomes: by the defaults of its scheme, and by the templates of its source."""

import json
from urllib.parse import quote, quote_plus

import pytest

from resonant.errors import InvalidEvent
from resonant.intake.sources.templates import FORM
from resonant.sinks.wire import message
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
        (b'{"a": 1}', "application/json; charset=latin-1", "json"),
        (b"{not json", "application/jsonl", "text"),
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


def test_json_is_kept_without_a_byte_order_mark_which_breaks_it_in_a_document(of):
    found = event(of("hmac"), webhook("hmac", b'\xef\xbb\xbf{"a": 1}'))
    assert json.loads(message(found, "structured")[1])["data"] == {"a": 1}


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{not json", "application/json", "not JSON: Expecting property name"),
        (b'{"a": 1} ,', "application/vnd.api+json; charset=utf-8", "not JSON: Extra data"),
        (b'{"a": NaN}', "Application/JSON", "NaN is not a JSON value"),
        (b'{"a": 1e999}', "application/json", "out of range"),
        (b'{"a": "\xfc"}', "application/json; charset=latin-1", "not UTF-8"),
        (b"[" * 100_000, "application/json", "nested too deeply"),
        (b" ", "application/json", "not JSON"),
    ],
)
def test_a_body_that_claims_json_and_is_not_is_refused(of, body, kind, said):
    with pytest.raises(InvalidEvent) as raised:
        event(of("hmac"), webhook("hmac", body, kind=kind), 200_000)
    assert said in str(raised.value)
    assert str(raised.value).endswith("correct one of them at the provider")
    assert "\n" not in str(raised.value)


# --- the form of GitHub ---------------------------------------------------------------------------------------------


def in_form(text, quoting=quote_plus):
    return f"payload={quoting(text)}".encode()


PUSHED = json.dumps(
    PUSH | {"message": "+1 & = % %41 \n \u20ac", "author": "Gr\u00fc\u00dfe \U0001f600"}, ensure_ascii=False
)


@pytest.mark.parametrize(
    "body",
    [
        in_form(PUSHED),
        in_form(PUSHED, quote),
        in_form(PUSHED, lambda text: "".join(f"%{each:02x}" for each in text.encode())),
        b"a=1&" + in_form(PUSHED) + b"&Payload=2",
    ],
    ids=["plus", "percent", "all", "other fields"],
)
@pytest.mark.parametrize(
    "kind", [FORM, f"{FORM}; charset=utf-8", "Application/X-WWW-Form-URLEncoded;Charset=UTF-8"]
)
def test_a_form_of_github_becomes_the_event_of_its_json(of, body, kind):
    expected = event(of("github"), webhook("github", PUSHED.encode()).changed(x_github_event="push"))
    found = event(of("github"), webhook("github", body, kind=kind).changed(x_github_event="push"))
    assert identity(found) == ("com.github.push.none", "/github/octo/shop", "evt_1")
    assert (found.form, found.body, found.datacontenttype) == ("json", PUSHED.encode(), None)
    assert found == expected


def test_templates_see_a_form_of_github_as_its_json(of):
    source = of("github", subject="{data/number}", extensions={"kind": "{header.content-type}"})
    as_json = event(source, webhook("github", json.dumps(OPENED).encode()))
    assert event(source, webhook("github", in_form(json.dumps(OPENED)), kind=FORM)) == as_json
    assert as_json.subject == "7"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "(it is missing)"),
        (b"Payload=%7B%7D", "(it is missing)"),
        (b'{"action": "opened"}', "(it is missing)"),
        (b"payload=%7B%7D&payload=%7B%7D", "(it is given more than once)"),
        (b"payload=", "(not JSON: Expecting value at column 1)"),
        (b"payload=%7B", "(not JSON: "),
        (b"payload=%7B%7D%7B", "(not JSON: Extra data"),
        (b"payload=%257B%257D", "(not JSON: "),
        (b"payload=%FF", "in UTF-8)"),
        (b"payload=%ED%A0%80", "in UTF-8)"),
        (b"payload=\xff", "in UTF-8)"),
        (b"payload=%7B%7D" + b"&a=1" * 1_000, "at most 1000 fields"),
        (b"payload=" + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_form_of_github_without_its_payload_is_refused_with_the_remedy(of, body, said):
    with pytest.raises(InvalidEvent) as raised:
        event(of("github"), webhook("github", body, kind=FORM), 200_000)
    assert str(raised.value).startswith("cannot read the field payload of the form (")
    assert str(raised.value).endswith(": set the content type application/json at the provider")
    assert said in str(raised.value)
    assert raised.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{}", "text/plain", "the content type is text/plain: set the content type application/json"),
        (b"{}", None, "the content type is missing: set the content type application/json"),
        (b"", "application/json", "not JSON"),
        (b"[]", "application/json", "the data is not a JSON object"),
        (b"payload=%22%7B%7D%22", FORM, "the data is not a JSON object"),
        (b"payload=null", FORM, "the data is not a JSON object"),
    ],
)
def test_what_github_never_sends_is_refused(of, body, kind, said):
    with pytest.raises(InvalidEvent, match=said) as raised:
        event(of("github"), webhook("github", body).changed(content_type=kind))
    assert "at the provider" in str(raised.value)


def test_a_form_of_another_service_with_a_payload_stays_a_form(of):
    body = in_form(PUSHED)
    found = event(of("hmac"), webhook("hmac", body, kind=FORM))
    assert (found.form, found.body) == ("text", body)


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
