"""Each scheme accepts what its service signs: published examples, rotated secrets, and the forms that it allows."""

import base64
import datetime as dt

import pytest
from standardwebhooks import Webhook as StandardWebhook
from starlette.datastructures import Headers

from resonant.intake.sources.schemes import Forged
from resonant.intake.sources.source import Stale
from resonant.intake.sources.templates import FORM, Received
from support.desk import START
from support.sources import BASE64_SECRET, NEEDS, hash_in_query, secret_of, webhook

TIMED = ("standard-webhooks", "stripe", "slack")


def passes(source, webhook, now=START):
    try:
        source.check(webhook.received, webhook.query, now)
    except Forged:
        return False
    return True


@pytest.mark.parametrize("verify", NEEDS)
def test_a_request_of_the_service_passes_and_one_with_another_secret_does_not(of, verify):
    source = of(verify)
    assert passes(source, webhook(verify))
    assert passes(source, webhook(verify, b"\x00\xff not text", kind="application/octet-stream")) == (
        verify != "twilio"
    )
    assert not passes(source, webhook(verify, secret="another"))


@pytest.mark.parametrize("verify", NEEDS)
def test_while_a_secret_is_rotated_both_pass(of, verify):
    other = {"standard-webhooks": "whsec_" + base64.b64encode(b"other").decode(), "basic": "shop:other"}
    source = of(
        verify,
        secret=[
            other.get(verify, "other"),
            BASE64_SECRET if verify == "standard-webhooks" else secret_of(verify),
        ],
    )
    assert passes(source, webhook(verify))
    assert passes(source, webhook(verify, secret="other"))
    assert not passes(source, webhook(verify, secret="third"))


@pytest.mark.parametrize("verify", NEEDS)
def test_without_or_with_a_repeated_header_of_its_own_it_is_forged(of, verify):
    source, good = of(verify), webhook(verify)
    signing = [name for name, _ in good.headers if name not in ("content-type", "x-id", "x-github-event", "x-github-delivery",
               "x-shopify-topic", "x-shopify-webhook-id", "i-twilio-idempotency-token", "x-gitlab-event-uuid")]  # fmt: skip
    assert signing
    for name in signing:
        assert not passes(source, good.changed(**{name: None})), name
        assert not passes(source, good.with_also(name, good[name])), name


@pytest.mark.parametrize("verify", TIMED)
@pytest.mark.parametrize(("age", "is_stale"), [(300, False), (301, True), (-300, False), (-301, True)])
def test_a_signed_time_may_be_five_minutes_off(of, verify, age, is_stale):
    source, good = of(verify), webhook(verify)
    if is_stale:
        with pytest.raises(Stale) as raised:
            source.check(good.received, "", START + age)
        assert raised.value.age == age
    else:
        source.check(good.received, "", START + age)


def test_the_tolerance_of_a_source_is_its_own(of):
    with pytest.raises(Stale):
        of("stripe", tolerance=10).check(webhook("stripe").received, "", START + 11)
    of("stripe", tolerance=3_600).check(webhook("stripe").received, "", START + 3_600)


@pytest.mark.parametrize("verify", TIMED)
@pytest.mark.parametrize("time", ["", "-1", "1e9", "1700000000.5", " 1700000000", "٣", "9" * 13, "nan", "x"])
def test_a_signed_time_that_is_no_whole_number_is_forged(of, verify, time):
    assert not passes(of(verify), webhook(verify, at=time))


# --- published examples ---------------------------------------------------------------------------------------------


def example(body, kind="application/json", **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Received(Headers({"content-type": kind} | given), body)


def test_the_example_of_githubs_documentation(of):
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    source = of("github", secret="It's a Secret to Everybody")
    source.check(example(b"Hello, World!", x_hub_signature_256=signature), "", START)
    with pytest.raises(Forged):
        source.check(example(b"Hello, World?", x_hub_signature_256=signature), "", START)


SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)


def test_the_example_of_slacks_documentation(of):
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    request = example(SLACK_BODY, FORM, x_slack_request_timestamp="1531420618", x_slack_signature=signature)
    source = of("slack", secret="8f742231b10e8888abcd99yyyzzz85a5")
    source.check(request, "", 1531420618 + 60)
    assert (
        source.event(request, most_bytes=10_000).id
        == "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    with pytest.raises(Stale):
        source.check(request, "", START)


@pytest.mark.parametrize(
    ("query", "body", "kind", "signature"),
    [
        (
            "foo=1&bar=2",
            b"Digits=1234&To=%2B18005551212&From=%2B14158675309&Caller=%2B14158675309&CallSid=CA1234567890ABCDE",
            FORM,
            "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
        ),
        (
            "foo=1&bar=2",
            b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
            FORM,
            "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
        ),
        (
            "foo=1&bar=2&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620",
            b'{"property": "value", "boolean": true}',
            "application/json",
            "a9nBmqA0ju/hNViExpshrM61xv4=",
        ),
    ],
    ids=["form", "repeated fields", "JSON"],
)
def test_the_examples_of_twilios_documentation_and_libraries(of, query, body, kind, signature):
    source = of("twilio", secret="12345", url="https://mycompany.com/myapp.php")
    source.check(example(body, kind, x_twilio_signature=signature), query, START)
    for changed in (
        example(body + b"x", kind, x_twilio_signature=signature),
        example(b"", kind, x_twilio_signature=signature),
    ):
        with pytest.raises(Forged):
            source.check(changed, query, START)
    with pytest.raises(Forged):
        source.check(example(body, kind, x_twilio_signature=signature), f"{query}&x=1", START)


def test_the_library_of_standard_webhooks_signs_what_passes(of):
    signer, body = StandardWebhook(BASE64_SECRET), '{"type": "contact.created"}'
    now = dt.datetime.fromtimestamp(START, dt.UTC)
    headers = {
        "webhook_id": "msg_1",
        "webhook_timestamp": str(int(START)),
        "webhook_signature": signer.sign("msg_1", now, body),
    }
    of("standard-webhooks").check(example(body.encode(), **headers), "", START)
    svix = {name.replace("webhook", "svix"): value for name, value in headers.items()}
    of("standard-webhooks").check(example(body.encode(), **svix), "", START)


# --- what each service allows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_one_of_several_signatures_in_a_header_is_enough(of, first):
    good, wrong = webhook("standard-webhooks"), b"v1," + base64.b64encode(bytes(32))
    both = [good["webhook-signature"], wrong, b"v2,x", b"v1a,x"]
    assert passes(
        of("standard-webhooks"), good.changed(webhook_signature=b" ".join(both if first else both[::-1]))
    )

    good, wrong = webhook("stripe"), b"v1=" + b"0" * 64
    time, signature = good["stripe-signature"].split(b",")
    both = [signature, wrong, b"v0=" + b"0" * 64]
    assert passes(
        of("stripe"), good.changed(stripe_signature=b",".join([time, *(both if first else both[::-1])]))
    )


def test_a_signature_of_another_version_does_not_count(of):
    good = webhook("stripe")
    assert not passes(
        of("stripe"), good.changed(stripe_signature=good["stripe-signature"].replace(b"v1=", b"v0="))
    )
    good = webhook("standard-webhooks")
    assert not passes(
        of("standard-webhooks"),
        good.changed(webhook_signature=good["webhook-signature"].replace(b"v1,", b"v1a,")),
    )


def test_the_id_of_an_event_is_the_one_that_was_signed(of):
    good = webhook("standard-webhooks")
    of_svix = good.changed(
        webhook_id=None, webhook_timestamp=None, webhook_signature=None,
        svix_id=good["webhook-id"], svix_timestamp=good["webhook-timestamp"], svix_signature=good["webhook-signature"],
    )  # fmt: skip
    source = of("standard-webhooks")
    assert passes(source, of_svix)
    assert source.event(of_svix.received, most_bytes=1_000).id == "evt_1"
    assert not passes(source, of_svix.changed(webhook_id="another"))


def test_the_hash_in_twilios_url_counts_whatever_the_content_type_says(of):
    body, source = b'{"a": 1}', of("twilio")
    good = webhook("twilio", body, kind="application/json", query=hash_in_query(body))
    assert passes(source, good)
    for forged in (b"", b"&&&", b"a=1", b'{"a": 2}'):
        for kind in (FORM, "application/json"):
            assert not passes(source, good.changed(body=forged, content_type=kind)), (forged, kind)


def test_twilios_body_that_is_no_form_needs_a_hash(of):
    assert not passes(of("twilio"), webhook("twilio", b'{"a": 1}', kind="application/json"))


@pytest.mark.parametrize(
    ("options", "signature"),
    [
        ({}, "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
        ({"prefix": "sha256="}, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
        ({"encoding": "base64"}, "dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc="),
        ({"algorithm": "sha1"}, "01dc10d0c83e72ed246219cdd91669667fe2ca59"),
        (
            {"algorithm": "sha512", "encoding": "base64", "prefix": "v1 "},
            "v1 Ee01WmF+mBNOhCASp5RMz1nBAlbLGCNXvX46QgE/8Hw3b4wUz1zBkj2iC1HWQlay+4678QCqZ6YTJvYf6oERvA==",
        ),
    ],
)
def test_hmac_has_a_header_an_algorithm_an_encoding_and_a_prefix(of, options, signature):
    source = of("hmac", secret="It's a Secret to Everybody", header="X-My-Signature", **options)
    source.check(example(b"Hello, World!", x_my_signature=signature), "", START)
    for forged in (f"{signature}0", signature[:-1], signature.swapcase()):
        with pytest.raises(Forged):
            source.check(example(b"Hello, World!", x_my_signature=forged), "", START)


@pytest.mark.parametrize(("verify", "header"), [("token", "x-token"), ("gitlab", "x-gitlab-token")])
def test_a_token_has_the_bytes_of_its_secret(of, verify, header):
    source = of(verify, secret="grüße")
    assert passes(source, webhook(verify).changed(**{header: "grüße".encode()}))
    assert not passes(source, webhook(verify).changed(**{header: "grüße".encode("latin-1")}))


def test_basic_takes_any_case_of_its_name_and_spaces(of):
    good = webhook("basic")
    encoded = good["authorization"].partition(b" ")[2]
    assert all(
        passes(of("basic"), good.changed(authorization=start + encoded)) for start in (b"basic ", b"BASIC   ")
    )
    assert not any(
        passes(of("basic"), good.changed(authorization=start + encoded)) for start in (b"Bearer ", b"", b" ")
    )


def test_none_checks_nobody(of):
    assert passes(
        of("none", id="{data/id}"), webhook("github", secret="any").changed(x_hub_signature_256=None)
    )


def test_a_signature_does_not_depend_on_the_url_but_for_twilio(of):
    for verify in NEEDS:
        moved = webhook(verify).changed(query="a=1")
        assert passes(of(verify), moved) == (verify != "twilio"), verify
