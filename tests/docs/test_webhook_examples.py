"""The sources that the page about webhooks and flows shows: a server with them stores what each service sends, once."""

import hmac
import json
from urllib.parse import quote_plus

import pytest
import yaml

from resonant.intake.sources.declared import read_sources
from resonant.intake.sources.templates import FORM
from resonant.routing import new_subscription
from resonant.store.shared.subscriptions import add_subscription
from resonant.testing import FixedClock
from support.desk import START, opened_desk
from support.pages import PROJECT, Page, commands
from support.posting import posting
from support.sources import Webhook, in_base64, webhook

PAGE = Page(PROJECT / "docs" / "how-to" / "start-a-flow-from-a-webhook.md")
EXAMPLES = [block.text for block in PAGE.blocks if block.language == "yaml"]
# The bodies are from the documentation of the services, shortened.
BODIES = {
    "github": {"ref": "refs/heads/main", "repository": {"id": 17, "full_name": "acme/shop"}},
    "stripe": {
        "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
        "object": "event",
        "api_version": "2019-02-19",
        "created": 1_686_089_970,
        "data": {"object": {"id": "in_1NG8Du2eZvKYlo2C9XMqbR0x", "object": "invoice", "status": "paid"}},
        "type": "invoice.paid",
    },
    "slack": {
        "token": "XXYYZZ",
        "team_id": "T123ABC456",
        "api_app_id": "A123ABC456",
        "event": {
            "type": "app_mention",
            "user": "U123ABC456",
            "text": "<@U0LAN0Z89> run",
            "ts": "1515449522.000016",
        },
        "type": "event_callback",
        "event_id": "Ev123ABC456",
        "event_time": 1_515_449_522,
    },
    "typeform": {
        "event_id": "LtWXD3crgy",
        "event_type": "form_response",
        "form_response": {
            "form_id": "lT4Z3j",
            "token": "a3a12ec67a1365927098a606107fac15",
            "answers": [
                {"type": "text", "text": "Grüße", "field": {"id": "DlXFaesGBpoF", "type": "long_text"}}
            ],
        },
    },
}
STORED = {
    "github": ("com.github.push.none", "/github/acme/shop", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
    "stripe": ("com.stripe.invoice.paid", "/stripe", "evt_1NG8Du2eZvKYlo2CUI79vXWy"),
    "slack": ("com.slack.app_mention", "/slack/T123ABC456", "Ev123ABC456"),
    "typeform": ("com.typeform.form_response", "/typeform/lT4Z3j", "LtWXD3crgy"),
}


def secret(service):
    return f"the secret of {service}"


def signed(service, content=None, *, key=None):
    """Return a webhook as its service signs it; the content and the key may be others."""
    key = key or secret(service)
    body = json.dumps(content or BODIES[service], ensure_ascii=False).encode()
    if service == "typeform":
        signature = f"sha256={in_base64(hmac.digest(key.encode(), body, 'sha256'))}".encode()
        return Webhook((("content-type", b"application/json"), ("typeform-signature", signature)), body)
    made = webhook(service, body, secret=key, event_id=STORED[service][2])
    return made.changed(x_github_event="push") if service == "github" else made


def subscribed():
    """Return the types for which the page adds endpoints."""
    words = [
        each
        for block in PAGE.blocks
        for each in commands(block)
        if each[:3] == ["resonant", "endpoint", "add"]
    ]
    return {each[each.index("--types") + 1] for each in words if "--types" in each}


@pytest.fixture
def intake(sqlite_url, tmp_path, monkeypatch):
    """The intake with the sources of the page, in whose store an endpoint has the types of the page."""
    sources = {}
    for number, example in enumerate(EXAMPLES):
        for row in yaml.safe_load(example)["sources"]:
            monkeypatch.setenv(row["secret"].removeprefix("env:"), secret(row["name"]))
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        sources |= read_sources(file)
    with opened_desk(sqlite_url, FixedClock(START)) as desk, posting(desk, sources=sources) as client:
        types = {"types": sorted(subscribed())}
        desk.write(add_subscription, new_subscription("orders", types), who="a test", now=START)
        yield client


def send(intake, service, sent):
    headers = [(name.encode(), value) for name, value in sent.headers]
    return intake.send("POST", f"/sources/{service}", content=sent.body, headers=headers)


def test_each_service_has_an_example_of_at_most_ten_lines():
    names = [row["name"] for example in EXAMPLES for row in yaml.safe_load(example)["sources"]]
    assert sorted(names) == sorted(STORED)
    assert max(len(example.splitlines()) for example in EXAMPLES) <= 10


@pytest.mark.parametrize("service", STORED)
def test_a_webhook_is_stored_once_as_the_event_that_its_endpoint_gets(intake, service):
    answers = [send(intake, service, signed(service)) for _ in range(2)]
    assert all(each.is_success for each in answers), [each.text for each in answers]
    [event] = intake.stored()
    assert (event.type, event.source, event.id) == STORED[service]
    assert event.body == signed(service).body
    assert {f"{name} {result}": count for (name, result), count in intake.meters.sources.items()} == {
        f"{service} stored": 1,
        f"{service} duplicate": 1,
    }


def test_the_default_content_type_of_github_gives_the_same_event(intake):
    body = json.dumps(BODIES["github"]).encode()
    form = b"payload=" + quote_plus(body).encode()
    made = webhook("github", form, secret=secret("github"), event_id=STORED["github"][2], kind=FORM)
    assert send(intake, "github", made.changed(x_github_event="push")).status_code == 202
    [event] = intake.stored()
    assert (event.type, event.source, event.id) == STORED["github"]
    assert (event.form, event.body, event.datacontenttype) == ("json", body, None)


@pytest.mark.parametrize("service", STORED)
def test_a_forged_webhook_is_refused(intake, service):
    original = signed(service)
    forged = [
        signed(service, key="another secret"),
        original.changed(body=original.body.replace(b"id", b"ID")),
    ]
    assert [send(intake, service, each).status_code for each in forged] == [401, 401]
    assert intake.stored() == []


def test_the_handshake_of_slack_gets_its_challenge_and_stores_nothing(intake):
    asked = {
        "token": "Jhj5dZrVaK7ZwHHjRyZWjbDl",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY",
        "type": "url_verification",
    }
    answer = send(intake, "slack", signed("slack", asked))
    assert (answer.status_code, answer.json()) == (200, {"challenge": asked["challenge"]})
    assert send(intake, "slack", signed("slack", asked, key="another secret")).status_code == 401
    assert intake.stored() == []
