"""``resonant serve`` in a process of its own: how it starts, what it survives, and how it ends."""

import asyncio
import contextlib
import json
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support import patient
from support.commands import run_in_process
from support.http_connections import connected
from support.processes import clean_environment
from support.serving import Serving, add_endpoints, create_token, serving
from support.store_rows import DELIVERIES
from support.waiting import until, wait_until

MIB = 1024 * 1024
HEAD = b"POST /events?endpoint=shop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/cloudevents+json\r\n"


@pytest.fixture
def url(tmp_path) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    add_endpoints(url, "shop")
    return url


@pytest.fixture
def server(url, tmp_path) -> Iterator[Serving]:
    with serving(url, tmp_path, "--no-auth") as started:
        yield started


def event(number: int) -> dict[str, str]:
    return {"specversion": "1.0", "id": f"e{number}", "type": "order.paid", "source": "/s"}


async def send(client: httpx.AsyncClient, server: Serving, number: int) -> int:
    """Send an event, and return the status; 0 if the server ended without an answer."""
    headers = {"Content-Type": "application/cloudevents+json"}
    try:
        answer = await client.post(
            f"{server.url}/events?endpoint=shop", json=event(number), headers=headers, timeout=60
        )
    except httpx.TransportError:
        return 0
    return answer.status_code


def stored(server: Serving) -> set[str]:
    with contextlib.closing(sqlite3.connect(server.store_url.removeprefix("sqlite:///"))) as database:
        return {row[0] for row in database.execute(f"SELECT event_id FROM {DELIVERIES}")}


def refused(folder: Path, url: str, *options: str) -> str:
    """Run a server that must end with exit code 1 and one line, and return the line."""
    environment = clean_environment() | {"HOME": str(folder), "RESONANT_DATABASE_URL": url}
    done = run_in_process(["serve", *options], environment, folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    return done.stderr


def test_names_its_address_and_its_store_and_ends_with_exit_code_0(server, tmp_path):
    said = server.log.read_text()
    assert f"{server.url}/events" in said
    assert "store.db" in said
    assert "everyone who can connect" in said
    assert patient.get(f"{server.url}/metrics?access_token=x").status_code == 400, (
        "as all paths without tokens"
    )
    line = refused(tmp_path, server.store_url, "--port", str(server.port))
    assert line.startswith(f"resonant: cannot listen on 127.0.0.1 port {server.port}: Address already in use")
    assert server.stop() == 0
    assert server.log.read_text() == said, "it ends without a word"


def test_beyond_loopback_it_needs_a_token_or_no_auth_and_so_do_its_metrics(url, tmp_path):
    line = refused(tmp_path, url, "--host", "0.0.0.0", "--port", "0")
    assert "`resonant token create NAME`" in line
    assert "--no-auth" in line

    token = create_token(url, tmp_path, "shop")
    with serving(url, tmp_path, "--host", "0.0.0.0") as open_to_all:
        said = open_to_all.log.read_text()
        assert f"http://0.0.0.0:{open_to_all.port}/events" in said
        assert "1 token" in said
        assert token not in said
        metrics = f"{open_to_all.url}/metrics"
        assert patient.get(metrics).status_code == 401
        assert patient.get(metrics, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    with serving(url, tmp_path) as on_loopback:
        metrics = f"{on_loopback.url}/metrics"
        assert patient.get(metrics).status_code == 200
        assert patient.get(metrics, headers={"Host": "evil.example.com"}).status_code == 403


async def test_sigterm_under_load_answers_every_event_that_it_stores(server):
    answered: dict[int, int] = {}

    async def client(first: int) -> None:
        async with patient.AsyncClient() as http:
            for number in range(first, first + 10_000):
                answered[number] = await send(http, server, number)
                if answered[number] == 0:
                    return

    clients = [asyncio.create_task(client(10_000 * n)) for n in range(10)]
    while len(answered) < 300:
        await asyncio.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)

    assert server.process.wait(60) == 0
    assert set(answered.values()) == {202, 0}
    assert stored(server) == {f"e{number}" for number, status in answered.items() if status == 202}


async def test_another_signal_ends_it_at_once(server):
    async def refuses_connections() -> bool:
        try:
            async with connected(server.port):
                return False
        except ConnectionResetError:  # the listener was closed during the handshake
            return False
        except ConnectionRefusedError:
            return True

    async with connected(server.port) as client:
        await client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert (await client.answer()).status == 100
        await client.send(b"hi")
        server.process.send_signal(signal.SIGINT)
        await until(refuses_connections)
        # It waits for the rest of the request; otherwise, its exit code would be 0.
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == -signal.SIGINT


async def test_two_servers_share_a_store(server, url, tmp_path):
    with serving(url, tmp_path, "--no-auth") as other:
        async with patient.AsyncClient() as http:
            sent = [send(http, each, number) for number in range(50) for each in (server, other)]
            assert await asyncio.gather(*sent) == [202] * 100
    assert len(stored(server)) == 50


@pytest.mark.slow
async def test_answers_503_while_another_process_holds_the_store_and_ends_within_seconds(server):
    with contextlib.closing(sqlite3.connect(server.store_url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        body = json.dumps(event(1)).encode()
        async with connected(server.port) as client, patient.AsyncClient() as http:
            await client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            # It answers this later request, so it has read the former one.
            assert (await http.get(f"{server.url}/healthz")).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            assert (await client.answer()).status == 503
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_answers_503_while_postgresql_is_away_and_goes_on_when_it_is_back(
    postgresql, postgresql_url, tmp_path
):
    add_endpoints(postgresql_url, "shop")
    with serving(postgresql_url, tmp_path, "--no-auth") as server:

        def status(path: str) -> int:
            return patient.get(f"{server.url}/{path}").status_code

        def send_one(number: int) -> int:
            async def main() -> int:
                async with patient.AsyncClient() as http:
                    return await send(http, server, number)

            return asyncio.run(main())

        assert send_one(1) == 202
        with postgresql.stopped():
            assert send_one(2) == 503
            wait_until(lambda: status("readyz") == 503)
            assert status("healthz") == 200
        assert send_one(2) == 202
        wait_until(lambda: status("readyz") == 200)
        assert "Traceback" not in server.log.read_text()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [HEAD + b"X: " + b"a" * 30_000, HEAD + b"Content-Length: 900000\r\n\r\n" + b" " * 300_000],
    ids=["headers", "bodies"],
)
async def test_serves_others_beside_1000_slow_clients_in_200_mib(server, part):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def slow(has_sent: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            async with connected(server.port) as client:
                await client.send(part)
                has_sent.set()
                while True:
                    await client.send(b" ")
                    await asyncio.sleep(0.5)

    sent = [asyncio.Event() for _ in range(1_000)]
    clients = [asyncio.create_task(slow(each)) for each in sent]
    await until(lambda: sum(each.is_set() for each in sent) > 950, every=0.1)
    process = psutil.Process(server.process.pid)
    async with patient.AsyncClient() as http:
        for number in range(100):
            assert await send(http, server, number) == 202
            assert process.memory_info().rss < 200 * MIB
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
