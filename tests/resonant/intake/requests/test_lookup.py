"""``GET /events/{source}/{id}``: the deliveries of an event."""

import pytest

from resonant.events import Event
from resonant.intake.access.tokens import TokenAccess
from support.posting import posting

EVENT = Event(id="a/b?c", source="/shop/eu", type="order.paid", data={"card": "4111"})
PATH = "/events/%2Fshop%2Feu/a%2Fb%3Fc"


@pytest.fixture
def get(sqlite_desk):
    """Send GET with a token."""
    sqlite_desk.enqueue("evt_0")
    with posting(sqlite_desk, access=TokenAccess(sqlite_desk.store)) as client:

        def get(path, token=None, method="GET"):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.send(method, path, headers=headers)

        yield get


@pytest.fixture
def reader(new_token):
    return new_token("reader", can_read=True)


def test_an_event_has_the_state_of_each_delivery_and_no_data(get, reader, sqlite_desk):
    desk = sqlite_desk
    desk.bury(EVENT, endpoint="billing", reason="permanent", status_code=400, code="http_400")
    desk.enqueue(EVENT)

    answer = get(PATH, reader)

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    document = answer.json()
    billing, orders = document.pop("deliveries")
    assert document == {
        "id": "a/b?c",
        "source": "/shop/eu",
        "type": "order.paid",
        "accepted_at": "2023-11-14T22:13:20.000Z",
    }
    assert billing == {
        "endpoint": "billing",
        "status": "dead_letter",
        "attempts": 1,
        "replays": 0,
        "reason": "permanent",
        "category": "transient",
        "code": "http_400",
        "status_code": 400,
        "first_attempt_at": "2023-11-14T22:13:20.000Z",
        "next_attempt_at": None,
        "finished_at": "2023-11-14T22:13:20.000Z",
    }
    assert (orders["endpoint"], orders["status"], orders["attempts"]) == ("orders", "pending", 0)
    assert "4111" not in answer.text


def test_head_is_answered_as_get_without_a_body(get, reader, sqlite_desk):
    sqlite_desk.enqueue(EVENT)
    assert get(PATH, reader, "HEAD").status_code == 200


def test_the_state_follows_the_attempts(get, reader, sqlite_desk):
    desk = sqlite_desk
    desk.fail(desk.claim_one(), desk.park_for(60))
    [found] = get("/events/%2Fshop/evt_0", reader).json()["deliveries"]
    assert (found["status"], found["code"], found["status_code"]) == ("retrying", "http_503", 503)
    assert found["next_attempt_at"] == "2023-11-14T22:14:20.000Z"

    desk.clock.advance(60)
    desk.deliver(desk.claim_one())
    [found] = get("/events/%2Fshop/evt_0", reader).json()["deliveries"]
    assert (found["status"], found["attempts"], found["next_attempt_at"]) == ("delivered", 2, None)


UNKNOWN = [
    "/events/%2Fshop/evt_1",
    "/events/shop/evt_0",
    "/events//shop/evt_0",
    "/events/%2Fshop",
    "/events/",
    "/events/%2Fshop/evt_0/",
    "/events/%2Fshop%2Fevt_0",
    "/events/..%2F..%2Fetc/passwd",
    "/events/%FF/evt_0",
    "/events/%252Fshop/evt_0",
    "/events/'%20OR%201=1--/evt_0",
]


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_source_or_id_is_404(get, reader, path):
    answer = get(path, reader)

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "/etc" not in answer.text


def test_a_name_that_no_database_can_store_is_404(client):
    assert client.send("GET", "/events/%2Fshop%00/evt_0").status_code == 404


def test_a_token_without_read_is_403_and_a_missing_token_is_401(get, new_token):
    sender = new_token("sender")

    assert [get("/events/%2Fshop/evt_0", each).status_code for each in (sender, None)] == [403, 401]


@pytest.mark.parametrize(
    ("scopes", "endpoints"),
    [
        ({"source": "/shop*"}, ["billing", "orders"]),
        ({"source": "/crm"}, None),
        ({"type": "user.*"}, None),
        ({"endpoint": "billing"}, ["billing"]),
        ({"endpoint": "crm"}, None),
    ],
)
def test_a_token_sees_only_deliveries_within_its_scopes(get, new_token, sqlite_desk, scopes, endpoints):
    for endpoint in ("billing", "orders"):
        sqlite_desk.enqueue(EVENT, endpoint=endpoint)

    answer = get(PATH, new_token(can_read=True, **scopes))

    assert answer.status_code == (404 if endpoints is None else 200)
    assert [each["endpoint"] for each in answer.json().get("deliveries", ())] == (endpoints or [])
