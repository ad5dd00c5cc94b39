"""A server without tokens refuses requests that a browser sends for a page of another origin."""

from functools import partial

import pytest

from resonant.intake.access.foreign_pages import LocalAccess, host_name, without_foreign_pages
from resonant.intake.access.tokens import TokenAccess
from resonant.intake.app import resource
from resonant.intake.meters import Meters
from resonant.intake.serving.health import Metrics
from support.foreign_pages import ALLOWED, FRAME, LINK, REFUSED
from support.posting import posting

EVENT = b'{"id": "evt_1", "type": "order.paid", "source": "/shop", "data": 1}'


@pytest.fixture
def guarded(sqlite_desk):
    with posting(sqlite_desk, layer=partial(without_foreign_pages, is_local=True)) as client:
        yield client


def post(client, headers):
    headers = {"Host": "127.0.0.1:8080", "Content-Type": "application/cloudevents+json"} | headers
    return client.send("POST", "/events?endpoint=orders", content=EVENT, headers=headers)


@pytest.mark.parametrize("headers", ALLOWED + REFUSED)
def test_programs_and_its_own_pages_may_send_and_other_pages_may_not(guarded, headers):
    answer = post(guarded, headers)

    is_allowed = headers in ALLOWED
    assert answer.status_code == (202 if is_allowed else 403)
    assert is_allowed or answer.headers["content-type"] == "application/problem+json"
    assert len(guarded.stored()) == is_allowed


@pytest.mark.parametrize(("headers", "status"), [(LINK, 200), (FRAME, 403), ({}, 403)])
def test_a_link_from_another_page_may_be_followed_but_not_framed(guarded, headers, status):
    post(guarded, {})
    headers = {"Host": "127.0.0.1", "Sec-Fetch-Site": "cross-site", **headers}
    found = guarded.send("GET", "/events/%2Fshop/evt_1", headers=headers)

    assert found.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "evil.example.com:8080"}, 403),
        ({"Host": "evil.example.com:8080", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "https://evil.example.com"}, 403),
    ],
)
def test_beside_tokens_a_page_whose_name_resolves_to_loopback_cannot_read_the_open_metrics(
    sqlite_desk, headers, status
):
    routes = [resource("/metrics", GET=Metrics(Meters(), LocalAccess()).metrics)]
    with posting(sqlite_desk, access=TokenAccess(sqlite_desk.store), routes=routes) as client:
        answer = client.send("GET", "/metrics", headers={"Host": "127.0.0.1:8080", **headers})
    assert answer.status_code == status
    assert ("resonant_intake" in answer.text) == (status == 200)


def test_off_loopback_any_host_is_accepted_and_other_origins_are_refused(sqlite_desk):
    with posting(sqlite_desk, layer=partial(without_foreign_pages, is_local=False)) as client:

        def status(**headers):
            return post(client, {"Host": "events.example.com"} | headers).status_code

        assert status() == 202
        assert status(Origin="https://events.example.com") == 202
        assert status(Origin="https://evil.example.com") == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_the_media_types_that_a_page_may_send_without_a_preflight_are_refused(client, kind):
    assert client.post(EVENT, kind).status_code == 415
    assert client.stored() == []


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("LocalHost:80", "localhost"),
        ("[::1]", "::1"),
        ("127.0.0.1:", "127.0.0.1"),
        ("a b", None),
        ("", None),
        ("u@localhost", None),
    ],
)
def test_a_host_has_a_name_or_is_malformed(host, name):
    assert host_name(host) == name
