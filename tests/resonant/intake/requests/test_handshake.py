"""``OPTIONS /events``: a sender of CloudEvents asks whether it may send."""

import pytest

from support.posting import posting

ASKS = "WebHook-Request-Origin"
ALLOWED = "webhook-allowed-origin"


@pytest.fixture
def client(sqlite_desk):
    with posting(sqlite_desk, allowed_origins=["events.example.com"]) as client:
        yield client


@pytest.mark.parametrize("origin", ["events.example.com", "Events.Example.com"])
def test_an_allowed_origin_may_send_at_any_rate(client, origin):
    headers = {
        ASKS: origin,
        "WebHook-Request-Rate": "120",
        "WebHook-Request-Callback": "http://127.0.0.1:1/x",
    }
    answer = client.send("OPTIONS", "/events", headers=headers)

    assert answer.status_code == 200
    assert (answer.headers[ALLOWED], answer.headers["webhook-allowed-rate"]) == (origin, "*")
    assert answer.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    "origin", ["evil.example.com", "*", "", "events.example.com.evil.net", "https://events.example.com"]
)
def test_other_origins_are_refused(client, origin):
    answer = client.send("OPTIONS", "/events", headers={ASKS: origin})

    assert answer.status_code == 403
    assert ALLOWED not in answer.headers


def test_without_allowed_origins_every_origin_is_refused(sqlite_desk):
    with posting(sqlite_desk) as client:
        assert client.send("OPTIONS", "/events", headers={ASKS: "events.example.com"}).status_code == 403


def test_without_an_origin_the_answer_lists_the_allowed_methods(client):
    answer = client.send("OPTIONS", "/events")

    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")


def test_no_answer_allows_pages_of_other_origins_to_read_it(client):
    preflight = {"Origin": "https://events.example.com", "Access-Control-Request-Method": "POST"}
    asked = {**preflight, ASKS: "events.example.com"}
    answers = [
        client.send("OPTIONS", "/events", headers=preflight),
        client.send("OPTIONS", "/events", headers=asked),
        client.send("POST", "/events", headers=preflight),
        client.send("GET", "/events/%2Fshop/evt_1", headers=preflight),
    ]

    names = {name for answer in answers for name in answer.headers}
    assert not any(name.startswith("access-control") for name in names)
