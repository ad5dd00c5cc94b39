"""``resonant serve`` behind nginx with the documented configuration."""

import json

import httpx
import pytest

from support.nginx import CONFIGURATION, nginx
from support.pages import PROJECT, Page
from support.ports import free_port
from support.producers import Producers
from support.programs import need
from support.serving import add_endpoints, create_token, serving
from support.waiting import wait_until

pytestmark = pytest.mark.program

EVENT = {"specversion": "1.0", "id": "e1", "type": "t", "source": "/s", "data": {"n": 1}}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def store_url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/resonant.db"
    add_endpoints(url, "shop")
    return url


@pytest.fixture(scope="module")
def token(store_url, tmp_path_factory):
    return create_token(store_url, tmp_path_factory.mktemp("home"), "shop", "--read")


@pytest.fixture(scope="module")
def client(store_url, token, tmp_path_factory):
    """A client of nginx, with a token."""
    need("nginx")
    with (
        serving(store_url, tmp_path_factory.mktemp("serve")) as server,
        nginx(tmp_path_factory.mktemp("nginx"), server.port) as proxy,
        proxy.client() as client,
    ):
        client.headers["authorization"] = f"Bearer {token}"
        yield client


def post(client, events, **headers):
    return client.post(
        "/events?endpoint=shop",
        content=json.dumps(events),
        headers={"content-type": "application/cloudevents-batch+json"} | headers,
    )


def test_the_page_about_http_shows_the_configuration_as_it_is():
    blocks = Page(PROJECT / "docs" / "how-to" / "http-intake.md").blocks
    assert [block.text for block in blocks if block.language == "nginx"] == [CONFIGURATION.read_text()]


def test_an_event_is_stored_and_looked_up_through_nginx(client):
    answer = post(client, [EVENT | {"id": "a/b"}])
    assert answer.status_code == 202
    assert answer.json()["events"][0]["endpoints"] == ["shop"]
    answer = client.get("/events/%2Fs/a%2Fb")
    assert (answer.status_code, answer.json()["id"]) == (200, "a/b")


def test_the_largest_batch_passes_and_a_larger_one_is_refused_by_nginx(client):
    events = [EVENT | {"id": f"large-{n}", "data": "x" * (MIB - 300)} for n in range(8)]
    assert len(json.dumps(events)) < 8 * MIB
    assert post(client, events).status_code == 202

    refused = post(client, [*events, events[0]])

    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert "8 MiB" in refused.json()["detail"]


@pytest.mark.parametrize(("lines", "status"), [(3, 202), (5, 400)])
def test_headers_of_up_to_32_kib_pass(client, lines, status):
    headers = {f"x-{n}": "x" * 7_500 for n in range(lines)}
    assert post(client, [EVENT | {"id": "headers"}], **headers).status_code == status


def test_a_connection_to_nginx_serves_many_requests(client):
    def connection(answer):
        return answer.extensions["network_stream"].get_extra_info("client_addr")

    answers = [post(client, [EVENT | {"id": f"kept-{n}"}]) for n in range(20)]

    assert {answer.status_code for answer in answers} == {202}
    assert len({connection(answer) for answer in answers}) == 1


def test_while_the_server_is_away_nginx_asks_to_come_back(tmp_path):
    with nginx(tmp_path, free_port()) as proxy, proxy.client() as client:
        answer = post(client, [EVENT])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["status"] == 503


def test_no_event_is_lost_or_stored_twice_when_the_server_restarts(store_url, token, tmp_path):
    port = free_port()
    with nginx(tmp_path, port) as proxy:

        def make_client() -> httpx.Client:
            client = proxy.client()
            client.headers["authorization"] = f"Bearer {token}"
            return client

        producers = Producers(make_client)
        with producers.at_work():
            for _ in range(2):
                before = len(producers.answered)
                with serving(store_url, tmp_path, port=port) as server:
                    wait_until(lambda: len(producers.answered) > before + 50 or producers.problems)  # noqa: B023
                    assert server.stop() == 0
            with serving(store_url, tmp_path, port=port):
                producers.finish()
    assert producers.problems == []
    assert producers.repeated > 0, "no producer noticed a restart: the test tests nothing"
    assert producers.duplicates == 0, "the server ended without an answer to a request that it had stored"
