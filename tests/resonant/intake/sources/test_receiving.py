"""``POST /sources/NAME``: what is stored, what is answered, and what is counted."""

import asyncio
import json
from urllib.parse import quote, quote_plus

import pytest

from resonant.errors import StoreUnavailable
from resonant.intake.limits import IntakeLimits
from resonant.intake.requests.group_commit import GroupCommit
from resonant.intake.sources.declared import read_sources
from resonant.intake.sources.templates import FORM
from resonant.routing import new_subscription
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.views.known_names import remember_endpoints
from resonant.testing import FixedClock
from support.desk import START
from support.posting import posting
from support.sources import NEEDS, SIGNING, declare, hash_in_query, row, webhook


@pytest.fixture
def receiver(sqlite_desk, tmp_path):
    """Return a function that declares sources, and returns a client; by default, the events are for the endpoint orders."""
    with posting(sqlite_desk, sources=(sources := {})) as client:

        def start(*rows, **fields):
            sources.update(
                read_sources(declare(tmp_path, *({"endpoint": "orders"} | each | fields for each in rows)))
            )
            return client

        yield start


def send(client, webhook, name):
    return client.desk.run(sending(client, webhook, name))


def sending(client, webhook, name):
    query = f"?{webhook.query}" if webhook.query else ""
    headers = [(key.encode(), value) for key, value in webhook.headers]
    return client.http.post(f"/sources/{name}{query}", content=webhook.body, headers=headers)


def counted(client):
    return {f"{name} {result}": count for (name, result), count in client.meters.sources.items()}


def problem(answer, status):
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == answer.json()["status"] == status, answer.text
    return answer.json()["detail"]


# --- stored ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", NEEDS)
def test_a_webhook_is_stored_once_before_it_is_answered(receiver, verify):
    client = receiver(row(verify))
    first, again = send(client, webhook(verify), verify), send(client, webhook(verify), verify)

    assert (first.is_success, again.is_success) == (True, True)
    [stored] = client.stored()
    assert stored.body == webhook(verify).body
    assert counted(client) == {f"{verify} stored": 1, f"{verify} duplicate": 1}


def test_the_answer_names_the_event(receiver):
    client = receiver(row("stripe"))
    expected = {"id": "evt_1", "source": "/stripe"}
    answers = [send(client, webhook("stripe"), "stripe") for _ in range(2)]
    assert [(each.status_code, each.json()) for each in answers] == [
        (202, expected | {"duplicate": False}),
        (202, expected | {"duplicate": True}),
    ]


@pytest.mark.parametrize(
    ("verify", "text", "kind"), [("slack", "", None), ("twilio", "<Response/>", "text/xml; charset=utf-8")]
)
def test_slack_and_twilio_get_the_answers_that_they_show_to_people(receiver, verify, text, kind):
    answer = send(receiver(row(verify)), webhook(verify), verify)
    assert (answer.status_code, answer.text, answer.headers.get("content-type")) == (200, text, kind)


def test_a_json_body_of_twilio_is_stored(receiver):
    body = b'{"a": 1}'
    client = receiver(row("twilio"))
    good = webhook("twilio", body, kind="application/json", query=hash_in_query(body))
    assert send(client, good, "twilio").status_code == 200
    assert [each.body for each in client.stored()] == [body]


def test_the_query_of_a_webhook_is_that_of_its_request_line(receiver):
    client = receiver(row("twilio"))
    good = webhook("twilio", query="a=1&b=%20")
    for host in (b"[", b"x?a=1", b"x#y"):
        assert send(client, good.with_also("host", host), "twilio").status_code == 200
    assert send(client, webhook("twilio").with_also("host", b"x?a=1"), "twilio").status_code == 200
    assert send(client, webhook("twilio").changed(query="a"), "twilio").status_code == 401


def test_a_source_without_an_endpoint_is_routed_by_subscriptions(receiver):
    client = receiver(row("stripe"), endpoint=None)
    answer = send(client, webhook("stripe"), "stripe")
    assert (answer.status_code, answer.json()) == (
        202,
        {"id": "evt_1", "source": "/stripe", "unrouted": True},
    )
    assert client.stored() == []

    client.desk.write(
        add_subscription, new_subscription("orders", {"types": ["com.stripe.*"]}), who="a test", now=START
    )
    client.desk.clock.advance(60)
    assert send(client, webhook("stripe", at=START + 60), "stripe").json()["duplicate"] is False
    assert len(client.stored()) == 1
    assert counted(client) == {"stripe unrouted": 1, "stripe stored": 1}


def test_a_source_may_refuse_what_no_subscription_matches(receiver):
    client = receiver(row("stripe", unrouted="refuse"), endpoint=None)
    assert problem(send(client, webhook("stripe"), "stripe"), 422) == "no subscription matches the event"
    assert counted(client) == {"stripe refused": 1}


# --- repeated -------------------------------------------------------------------------------------------------------

OTHER = json.dumps({"id": "evt_1", "type": "order.paid", "retry": 2}).encode()


def test_the_same_id_with_other_content_is_a_conflict(receiver):
    client = receiver(row("stripe"))
    send(client, webhook("stripe"), "stripe")
    detail = problem(send(client, webhook("stripe", OTHER), "stripe"), 409)
    assert "retry" not in detail
    assert counted(client) == {"stripe stored": 1, "stripe conflict": 1}


def test_a_source_may_acknowledge_conflicts(receiver):
    client = receiver(row("stripe", on_conflict="keep"))
    send(client, webhook("stripe"), "stripe")
    answer = send(client, webhook("stripe", OTHER), "stripe")
    assert (answer.status_code, answer.json()["conflict"]) == (200, True)
    assert [each.body for each in client.stored()] == [webhook("stripe").body]
    assert counted(client) == {"stripe stored": 1, "stripe kept": 1}


COPIED = {
    "github": "x-github-delivery",
    "shopify": "x-shopify-webhook-id",
    "twilio": "i-twilio-idempotency-token",
    "hmac": "x-id",
}


@pytest.mark.parametrize("verify", COPIED)
def test_for_five_minutes_a_copy_under_another_id_is_a_duplicate(sqlite_desk, open_desk, tmp_path, verify):
    steady = FixedClock(0.0)
    desk = open_desk(f"sqlite:///{tmp_path / 'another.db'}", steady=steady)
    sources = read_sources(declare(tmp_path, row(verify, endpoint="orders")))
    body, other = (b"MessageSid=1", b"MessageSid=2") if verify == "twilio" else (b"{}", b'{"a": 1}')
    with posting(desk, sources=sources) as client:
        for seconds, stored in ((0, 1), (299, 1), (2, 2)):
            steady.advance(seconds)
            good = webhook(verify, body, event_id=f"copy-{seconds}")
            assert send(client, good, verify).is_success
            assert counted(client).get(f"{verify} stored") == stored
        assert send(client, webhook(verify, other, event_id="other"), verify).is_success
    assert counted(client) == {f"{verify} stored": 3, f"{verify} duplicate": 1}


def test_a_copy_of_a_form_in_another_encoding_is_a_duplicate(receiver):
    client = receiver(row("twilio"))
    good = webhook("twilio", b"Body=Hi+there&MessageSid=1")
    send(client, good, "twilio")
    for number, body in enumerate(
        (b"MessageSid=1&Body=Hi%20there", b"&Body=Hi+there&MessageSid=%31", b"Body=Hi+thereMessageSid1")
    ):
        copy = good.changed(body=body, i_twilio_idempotency_token=f"copy-{number}")
        assert send(client, copy, "twilio").status_code == 200
    assert len(client.stored()) == 1


def test_the_same_body_under_two_topics_is_two_events(receiver):
    client = receiver(row("shopify"))
    good = webhook("shopify", b"{}")
    send(client, good, "shopify")
    other = good.changed(x_shopify_topic="orders/paid", x_shopify_webhook_id="other")
    assert send(client, other, "shopify").json()["duplicate"] is False
    assert len(client.stored()) == 2


def test_a_webhook_that_was_not_stored_does_not_make_its_copy_a_duplicate(receiver):
    client = receiver(row("github"), endpoint="late")
    assert send(client, webhook("github", b"{}"), "github").status_code == 503
    client.desk.write(remember_endpoints, ["late"])
    again = send(client, webhook("github", b"{}", event_id="again"), "github")
    assert (again.status_code, again.json()["duplicate"]) == (202, False)


def test_copies_at_the_same_time_are_stored_once(receiver):
    client = receiver(row("github"))

    async def all_at_once():
        return await asyncio.gather(
            *(sending(client, webhook("github", b"{}", event_id=f"copy-{n}"), "github") for n in range(20))
        )

    answers = client.desk.run(all_at_once())
    assert [each.status_code for each in answers] == [202] * 20
    assert [each.json()["duplicate"] for each in answers].count(False) == 1
    (stored,) = client.stored()
    assert {each.json()["id"] for each in answers} == {stored.id}


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", NEEDS)
def test_without_a_fitting_signature_the_answer_is_401_and_says_nothing_else(receiver, verify):
    client = receiver(row(verify))
    send(client, webhook(verify), verify)
    said = set()
    for forged in (
        webhook(verify, secret="another"),
        webhook(verify, b"not json", secret="another"),
        webhook(verify, event_id="another", secret="another"),
        webhook(verify, b"x" * 100_000, secret="another"),
        webhook("none").changed(query="id=evt_1"),
    ):
        said.add(problem(send(client, forged, verify), 401))
    assert said == {"the signature, token or password does not fit"}
    assert len(client.stored()) == 1
    assert counted(client)[f"{verify} forged"] == 5


def test_a_sender_is_asked_for_its_password(receiver):
    client = receiver(row("basic"), row("token"))
    answer = send(client, webhook("basic").changed(authorization=None), "basic")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="resonant"')
    assert "www-authenticate" not in send(client, webhook("none"), "token").headers


@pytest.mark.parametrize("verify", ["standard-webhooks", "stripe", "slack"])
def test_an_old_webhook_is_answered_403(receiver, verify):
    client = receiver(row(verify))
    client.desk.clock.advance(301)
    assert "too long ago" in problem(send(client, webhook(verify), verify), 403)
    assert client.stored() == []
    assert counted(client) == {f"{verify} stale": 1}


def test_a_web_page_is_refused_where_nothing_is_checked(receiver):
    client = receiver(row("none", id="{data/id}"))
    from_page = webhook("none").changed(host="127.0.0.1", origin="https://evil.example.com")
    assert "origin" in problem(send(client, from_page, "none"), 403).lower()
    assert client.stored() == []
    assert counted(client) == {"none refused": 1}


@pytest.mark.parametrize(
    "path", ["/sources/other", "/sources/Stripe", "/sources/stripe/", "/sources/stripe/x", "/sources/"]
)
def test_there_is_no_other_source(receiver, path):
    client = receiver(row("stripe"))
    assert client.send("POST", path, content=b"{}").status_code == 404
    assert counted(client) == {}


def test_without_a_file_there_is_no_source(client):
    assert client.send("POST", "/sources/stripe", content=b"{}").status_code == 404


@pytest.mark.parametrize(
    ("verify", "body", "kind", "status", "said"),
    [
        ("stripe", b"not json", "text/plain", 400, "JSON"),
        ("stripe", b"", "application/json", 422, "correct one of them at the provider"),
        (
            "github",
            b"payload=1&payload=2",
            FORM,
            422,
            "set the content type application/json at the provider",
        ),
        ("github", b"a=%FF", FORM, 422, "set the content type application/json at the provider"),
        ("slack", b"a=1&" * 1_001, "application/json", 422, "correct one of them at the provider"),
        ("stripe", b'{"type": "t"}', "application/json", 422, "the request has no data/id"),
        ("stripe", b'{"id": "\\ud800", "type": "t"}', "application/json", 422, "lone surrogate"),
        ("hmac", b"{}", "no type", 422, "datacontenttype"),
        ("slack", b"a=%FF", FORM, None, ""),
    ],
)
def test_a_signed_webhook_that_becomes_no_event_is_refused_with_the_reason(
    receiver, verify, body, kind, status, said
):
    client = receiver(row(verify))
    answer = send(client, webhook(verify, body, kind=kind), verify)
    if status is None:
        assert answer.status_code == 200
    else:
        assert said in problem(answer, status)
        assert counted(client) == {f"{verify} refused": 1}


@pytest.mark.parametrize("verify", [*NEEDS, "none"])
@pytest.mark.parametrize("kind", ["application/json", "application/problem+json; charset=utf-8"])
def test_a_body_that_claims_json_and_is_not_is_refused_with_what_to_change(receiver, verify, kind):
    client = receiver(row(verify, **({"id": "{header.x-id}"} if verify == "none" else {})))
    body = b"not json"
    query = hash_in_query(body) if verify == "twilio" else ""
    sent = webhook(verify, body, kind=kind, query=query)
    if verify == "none":
        sent = sent.changed(host="127.0.0.1")
    detail = problem(send(client, sent, verify), 422)
    assert detail == (
        f"the content type {kind.partition(';')[0]} does not fit the body (not JSON: Expecting value at column 1): "
        "correct one of them at the provider"
    )
    assert client.stored() == []
    assert counted(client) == {f"{verify} refused": 1}


def test_a_form_of_github_is_the_same_event_as_its_json(receiver):
    client = receiver(row("github"))
    text = '{"action": "opened", "title": "50% + Gr\u00fc\u00dfe", "repository": {"full_name": "octo/shop"}}'
    forms = [f"payload={quote_plus(text)}", f"payload={quote(text)}"]
    answers = [send(client, webhook("github", each.encode(), kind=FORM), "github") for each in forms]
    answers.append(send(client, webhook("github", text.encode()), "github"))
    assert [(each.status_code, each.json()["duplicate"]) for each in answers] == [
        (202, False),
        (202, True),
        (202, True),
    ]
    [stored] = client.stored()
    assert (stored.type, stored.source, stored.id) == ("com.github.ping.opened", "/github/octo/shop", "evt_1")
    assert (stored.form, stored.body, stored.datacontenttype) == ("json", text.encode(), None)


def test_the_signature_of_a_form_covers_its_raw_body(receiver):
    client = receiver(row("github"))
    good = webhook("github", b"payload=%7B%22a%22%3A+1%7D", kind=FORM)
    for body in (b"payload=%7B%22a%22%3A%201%7D", b'{"a": 1}', b"payload=%7b%22a%22%3A+1%7D"):
        problem(send(client, good.changed(body=body), "github"), 401)
    assert send(client, good, "github").status_code == 202


def test_the_limit_of_a_form_is_that_of_its_payload(receiver):
    client = receiver(row("github", max_bytes=60))
    longest = '{"a":"' + "\u00e9" * 26 + '"}'
    assert len(longest.encode()) == 60

    def answer(payload):
        return send(client, webhook("github", f"payload={payload}".encode(), kind=FORM), "github")

    def longest_form_of(text):
        return "".join(f"%{each:02X}" for each in text.encode())

    problem(answer(longest_form_of(f"{longest} ")), 413)
    assert "the limit is 60" in problem(answer(quote_plus(f"{longest} ")), 413)
    assert client.stored() == []
    assert answer(longest_form_of(longest)).status_code == 202


def test_a_body_beyond_the_limit_of_its_source_is_refused_unread(receiver):
    client = receiver(row("stripe", max_bytes=60), row("hmac"))
    assert "60 bytes" in problem(send(client, webhook("stripe"), "stripe"), 413)
    beyond = b"x" * (IntakeLimits().event_bytes + 1)
    problem(send(client, webhook("hmac", beyond, kind="text/plain"), "hmac"), 413)
    at_limit = webhook("hmac", beyond[1:], kind="text/plain")
    assert send(client, at_limit, "hmac").status_code == 202
    assert counted(client) == {"stripe refused": 1, "hmac refused": 1, "hmac stored": 1}


def test_the_rate_of_a_source_counts_what_it_signed(receiver):
    client = receiver(row("stripe", rate=2))
    for _ in range(5):
        assert send(client, webhook("stripe", secret="another"), "stripe").status_code == 401
    answers = [send(client, webhook("stripe", event_id=f"e{n}"), "stripe") for n in range(3)]
    assert [each.status_code for each in answers] == [202, 202, 429]
    assert "the source may send 2 requests per second" in problem(answers[-1], 429)
    assert answers[-1].headers["retry-after"] == "1"
    assert counted(client) == {"stripe forged": 5, "stripe stored": 2, "stripe limited": 1}


def test_a_source_whose_endpoint_is_unknown_asks_to_send_again(receiver):
    client = receiver(row("stripe"), endpoint="unknown")
    assert problem(send(client, webhook("stripe"), "stripe"), 503) == "the source's endpoint does not exist"
    assert counted(client) == {"stripe failed": 1}


def test_while_the_store_is_away_nothing_is_acknowledged(receiver, monkeypatch):
    async def fail(*_):
        raise StoreUnavailable("the store is away")

    client = receiver(row("github"))
    monkeypatch.setattr(GroupCommit, "accept", fail)
    answer = send(client, webhook("github"), "github")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert counted(client) == {"github failed": 1}
    monkeypatch.undo()
    assert send(client, webhook("github", event_id="again"), "github").json()["duplicate"] is False


# --- handshakes -----------------------------------------------------------------------------------------------------

ASKED = b'{"type": "url_verification", "token": "t", "challenge": "3eZbrw1a"}'


def test_slacks_question_is_answered_if_it_is_signed(receiver):
    client = receiver(row("slack"))
    answer = send(client, webhook("slack", ASKED), "slack")
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1a"})
    assert send(client, webhook("slack", ASKED, secret="another"), "slack").status_code == 401
    assert client.stored() == []
    assert counted(client) == {"slack challenge": 1, "slack forged": 1}


def test_a_message_about_the_verification_is_an_event(receiver):
    client = receiver(row("slack"))
    sent = b'{"type": "event_callback", "event_id": "Ev1", "event": {"text": "url_verification"}}'
    assert send(client, webhook("slack", sent), "slack").text == ""
    assert len(client.stored()) == 1


def test_only_slacks_verification_is_answered(receiver):
    client = receiver(row("hmac"))
    assert send(client, webhook("hmac", ASKED), "hmac").status_code == 202


def test_the_handshake_of_cloudevents_is_answered(sqlite_desk, tmp_path):
    sources = read_sources(declare(tmp_path, row("stripe")))
    with posting(sqlite_desk, sources=sources, allowed_origins=["events.example.com"]) as client:
        asked = {"WebHook-Request-Origin": "events.example.com"}
        answer = client.send("OPTIONS", "/sources/stripe", headers=asked)
        assert answer.headers["webhook-allowed-origin"] == "events.example.com"
        assert client.send("GET", "/sources/stripe").status_code == 405


# --- read again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", SIGNING)
def test_sources_may_change_while_requests_arrive(receiver, verify):
    client = receiver(row(verify))
    assert send(client, webhook(verify), verify).is_success
    receiver(row(verify, name="moved"))
    assert send(client, webhook(verify), "moved").is_success
