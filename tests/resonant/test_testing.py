import asyncio
import contextlib
import hashlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import warnings

import httpx
import pytest
import trustme

from resonant.testing import (
    HELL,
    Action,
    Authority,
    FixedClock,
    Received,
    Receiver,
    always_ok,
    eight_ways,
    endless_body,
    endless_headers,
    endless_interim,
    flaky,
    full_accept_queue,
    garbage,
    half_close,
    huge_header,
    interim_only,
    many_headers,
    never_answer,
    never_read,
    nobody_listening,
    raw,
    read_journal,
    redirect,
    reset_after_headers,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    respond,
    slow_body,
    slow_headers,
    surplus_body,
    truncated_body,
)


async def post(url, *, webhook_id="evt_1", event_type="demo.ok", body=b"{}", **options):
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"webhook-id": webhook_id, "ce-type": event_type}
        return await client.post(url, content=body, headers=headers, **options)


async def talk(url, request):
    """Speak raw HTTP; return all that comes until the receiver closes, and how it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(request)
    received = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65536), 5):
            received += chunk
    except ConnectionResetError:
        return received, "reset"
    else:
        return received, "closed"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


RAW = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


def raw_exchange(action):
    async def run():
        async with Receiver(action) as receiver:
            return await talk(receiver.url, RAW)

    return asyncio.run(run())


def test_a_script_decides_by_what_it_sees_of_the_request():
    seen = []

    def script(request):
        seen.append(request)
        return respond(201, {"x-answer": "yes"}, b"done")

    async def run():
        async with Receiver(script) as receiver:
            return await post(f"{receiver.url}/hooks?a=1", webhook_id="evt_9", body=b'{"n":1}')

    response = asyncio.run(run())
    (request,) = seen
    assert (response.status_code, response.headers["x-answer"], response.content) == (201, "yes", b"done")
    assert (request.method, request.path, request.webhook_id) == ("POST", "/hooks?a=1", "evt_9")
    assert (request.body, request.event_type, request.headers["ce-type"]) == (
        b'{"n":1}',
        "demo.ok",
        "demo.ok",
    )


def test_tries_are_counted_for_each_webhook_id():
    def script(request):
        return respond(500) if request.try_number < 3 else respond(200)

    async def run():
        async with Receiver(script) as receiver:
            ids = ["a", "b", "a", "a", "b"]
            return [(await post(receiver.url, webhook_id=i)).status_code for i in ids], receiver.journal

    statuses, journal = asyncio.run(run())
    assert statuses == [500, 500, 500, 200, 500]
    assert [(r.webhook_id, r.try_number) for r in journal] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("a", 3),
        ("b", 2),
    ]
    assert [r.status for r in journal] == statuses


def test_connections_are_kept_alive_unless_the_client_says_otherwise():
    async def run():
        async with Receiver() as receiver:
            async with httpx.AsyncClient(trust_env=False) as client:
                for _ in range(3):
                    await client.post(receiver.url)
                kept = receiver.accepted
                for _ in range(2):
                    await client.post(receiver.url, headers={"connection": "close"})
            return kept, receiver.accepted

    assert asyncio.run(run()) == (1, 2)


def test_repeated_headers_are_joined():
    request = b"POST / HTTP/1.1\r\nX-A: 1\r\nx-a: 2\r\nconnection: close\r\n\r\n"

    async def run():
        async with Receiver() as receiver:
            await talk(receiver.url, request)
            return receiver.journal[0].headers["x-a"]

    assert asyncio.run(run()) == "1, 2"


@pytest.mark.parametrize(
    ("action", "received", "end"),
    [
        (reset_before_response(), b"", "reset"),
        (reset_mid_response(), b"HTTP/1.1 2", "reset"),
        (reset_after_headers(), b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "reset"),
        (
            reset_mid_body(503),
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\nhalf",
            "reset",
        ),
        (truncated_body(), b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "closed"),
        (garbage(), b"\x00\x16\x03 this is no HTTP\r\n\r\n", "closed"),
        (interim_only(103), b"HTTP/1.1 103 Early Hints\r\n\r\n", "closed"),
        (half_close(), b"", "closed"),
        (half_close(503), b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\nhalf", "closed"),
        (raw(b"anything"), b"anything", "closed"),
        (raw(b"anything", end="reset"), b"anything", "reset"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
def test_each_fault_is_what_its_name_says(action, received, end):
    assert raw_exchange(action) == (received, end)


def test_a_half_closed_connection_still_takes_what_is_sent():
    async def run():
        async with Receiver(half_close()) as receiver:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
            writer.write(RAW)
            assert await reader.read() == b""
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            assert receiver._connections, "it is still there"
            writer.close()
            await writer.wait_closed()
            while receiver._connections:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 5))


def test_a_surplus_follows_what_was_promised_on_a_connection_that_stays():
    async def run():
        async with Receiver(surplus_body(201)) as receiver:
            return await talk(receiver.url, RAW.replace(b"host: x", b"connection: close"))

    received, end = asyncio.run(run())
    promised, surplus = received[: received.index(b"ok") + 2], received[received.index(b"ok") + 2 :]
    assert promised.startswith(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n")
    assert surplus == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert end == "closed"


@pytest.mark.parametrize(
    ("action", "size"), [(huge_header(300_000), 300_000), (many_headers(20_000), 200_000)]
)
def test_heads_can_be_as_large_as_one_likes(action, size):
    async def run():
        async with Receiver(action) as receiver:
            return await talk(receiver.url, RAW.replace(b"host: x", b"connection: close"))

    received, _ = asyncio.run(run())
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(received) > size


@pytest.mark.parametrize(
    ("action", "beginning"),
    [
        (slow_headers(bytes_per_second=50), b"HTTP/1.1 200 OK\r\nx-slow: ...."),
        (endless_headers(), b"HTTP/1.1 200 OK\r\nx-endless: yes\r\nx-endless: yes\r\n"),
        (endless_interim(), b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
def test_heads_without_end_go_on_until_the_client_hangs_up(action, beginning):
    async def run():
        async with Receiver(action) as receiver:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
            writer.write(RAW)
            received = await reader.readexactly(len(beginning))
            writer.transport.abort()
            while receiver._connections:
                await asyncio.sleep(0.01)
            return received

    assert asyncio.run(asyncio.wait_for(run(), 5)) == beginning


def test_a_connection_can_meet_its_fate_before_it_is_read():
    async def run():
        fates = {1: reset_before_response(), 2: garbage()}
        async with Receiver(connection=fates.get) as receiver:
            outcomes = []
            for _ in range(3):
                with contextlib.suppress(httpx.TransportError):
                    outcomes.append((await post(receiver.url)).status_code)
            return outcomes, receiver.accepted, len(receiver.journal)

    assert asyncio.run(run()) == ([200], 3, 1)


def test_what_is_never_read_fills_the_kernel_and_no_more():
    async def run():
        async with Receiver(connection=never_read()) as receiver:
            _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
            writer.write(RAW + b"x" * 50_000_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.3)
            writer.transport.abort()
            return receiver.journal

    assert asyncio.run(run()) == []


def test_a_port_can_refuse_and_a_queue_can_be_full():
    with nobody_listening() as url, pytest.raises(httpx.ConnectError):
        httpx.post(url, trust_env=False)
    with full_accept_queue() as url, pytest.raises(httpx.ConnectTimeout):
        httpx.post(url, trust_env=False, timeout=0.3)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("expired", "certificate has expired"),
        ("not_yet_valid", "certificate is not yet valid"),
        ("wrong_name", "IP address mismatch"),
        ("self_signed", "self-signed certificate"),
    ],
)
def test_each_flaw_of_a_certificate_is_what_its_name_says(tmp_path, flaw, said):
    authority = Authority()
    trust = ssl.create_default_context(cafile=authority.write_to(tmp_path / "ca.pem"))

    async def run(certificate):
        async with (
            Receiver(tls=authority.context(certificate)) as receiver,
            httpx.AsyncClient(verify=trust, trust_env=False) as client,
        ):
            return (await client.post(receiver.url)).status_code

    assert asyncio.run(run(None)) == 200
    with pytest.raises(httpx.ConnectError, match=said):
        asyncio.run(run(flaw))


def test_hell_runs_as_a_process_too(tmp_path):
    journal = tmp_path / "journal.jsonl"
    command = [
        sys.executable,
        "-m",
        "resonant.testing",
        "--script",
        "resonant.testing:hell",
        "--journal",
        str(journal),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        headers = {"webhook-id": "evt_1", "ce-type": "demo.reset-mid-body"}
        with pytest.raises(httpx.TransportError):
            httpx.post(url, headers=headers, trust_env=False)
        process.terminate()
    [received] = read_journal(journal)
    assert (received.webhook_id, received.action, received.status) == ("evt_1", "reset_mid_body", 200)
    assert {action.name for action in HELL.values()} > {"gzip_bomb", "slow_headers", "half_close"}


def test_redirects_name_a_location():
    async def run():
        async with Receiver(redirect("http://127.0.0.1:1/", status=308)) as receiver:
            return await post(receiver.url), receiver.journal[0]

    response, received = asyncio.run(run())
    assert (response.status_code, response.headers["location"]) == (308, "http://127.0.0.1:1/")
    assert (received.action, received.status) == ("redirect", 308)


def test_an_answer_can_be_late():
    async def run():
        async with Receiver(respond(200, delay=30)) as receiver:
            with pytest.raises(httpx.ReadTimeout):
                await post(receiver.url, timeout=httpx.Timeout(5, read=0.2))

    asyncio.run(run())


def test_never_answering_lasts_until_the_client_hangs_up():
    async def run():
        async with Receiver(never_answer()) as receiver:
            with pytest.raises(httpx.ReadTimeout):
                await post(receiver.url, timeout=httpx.Timeout(5, read=0.2))
            while receiver._connections:
                await asyncio.sleep(0.01)
            return receiver.journal[0]

    received = asyncio.run(asyncio.wait_for(run(), 5))
    assert (received.action, received.status) == ("never_answer", None)


@pytest.mark.parametrize(
    "action", [slow_body(bytes_per_second=50), endless_body()], ids=lambda action: action.name
)
def test_bodies_without_end_go_on_until_the_client_hangs_up(action):
    async def run():
        async with Receiver(action) as receiver:
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("POST", receiver.url) as response,
            ):
                body = response.aiter_raw(1)
                head = b"".join([await anext(body) for _ in range(5)])
                await body.aclose()
            while receiver._connections:
                await asyncio.sleep(0.01)
            return response.status_code, head

    status, head = asyncio.run(asyncio.wait_for(run(), 10))
    assert status == 200
    assert len(head) == 5


def test_an_action_of_ones_own_writes_to_the_stream():
    async def perform(reader, writer):
        writer.write(b"HTTP/1.1 299 Mine\r\ncontent-length: 0\r\n\r\n")

    async def run():
        async with Receiver(Action("mine", perform, 299)) as receiver:
            return (await post(receiver.url)).status_code, receiver.journal[0].action

    assert asyncio.run(run()) == (299, "mine")


def test_it_speaks_tls_where_given_a_context():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    async def run():
        async with (
            Receiver(tls=context) as receiver,
            httpx.AsyncClient(verify=trust, trust_env=False) as client,
        ):
            return receiver.url, (await client.post(receiver.url)).status_code

    url, status = asyncio.run(run())
    assert url.startswith("https://127.0.0.1:")
    assert status == 200


def test_a_port_can_be_taken_again_at_once():
    async def run():
        async with Receiver() as receiver:
            await post(receiver.url)
        async with Receiver(port=httpx.URL(receiver.url).port) as again:
            return receiver.url == again.url, (await post(again.url)).status_code

    assert asyncio.run(run()) == (True, 200)


def test_nothing_is_left_behind_whatever_was_going_on():
    actions = [never_answer(), slow_body(), endless_body(), respond(200, delay=60), respond(200)]

    def script(request):
        return actions[int(request.webhook_id)]

    async def run():
        before = asyncio.all_tasks()
        async with Receiver(script) as receiver:
            port = httpx.URL(receiver.url).port
            streams = []
            for number in range(len(actions)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nwebhook-id: %d\r\n\r\n" % number)
                streams.append((reader, writer))
            idle = await asyncio.open_connection("127.0.0.1", port)
            while len(receiver.journal) < len(actions):
                await asyncio.sleep(0.01)
        tasks = asyncio.all_tasks() - before
        for _, writer in [*streams, idle]:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return tasks

    complaints = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        return await asyncio.wait_for(run(), 10)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(watched(), debug=True) == set()
    assert complaints == []


def test_a_broken_script_fails_the_test_that_wrote_it():
    async def run():
        async with Receiver(lambda _: {}["no such key"]) as receiver:
            with pytest.raises(httpx.RemoteProtocolError):
                await post(receiver.url)

    with pytest.raises(KeyError, match="no such key"):
        asyncio.run(run())


def test_the_journal_is_on_disk_before_the_answer(tmp_path):
    path = tmp_path / "journal.jsonl"
    body = '{"greeting":"h€llo"}'.encode()
    seen = []

    async def perform(reader, writer):
        seen.extend(read_journal(path))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def run():
        async with Receiver(Action("look", perform, 200), journal_path=path) as receiver:
            await post(receiver.url, body=body)
            return receiver.journal

    journal = asyncio.run(run())
    assert seen == journal
    assert journal[0].body == body
    assert hashlib.sha256(body).hexdigest() in path.read_text()


def test_the_journal_is_appended_to(tmp_path):
    path = tmp_path / "journal.jsonl"

    async def run():
        for webhook_id in ("a", "b"):
            async with Receiver(journal_path=path) as receiver:
                await post(receiver.url, webhook_id=webhook_id)

    asyncio.run(run())
    assert [received.webhook_id for received in read_journal(path)] == ["a", "b"]


def test_a_journal_line_that_is_half_written_is_left_out(tmp_path):
    received = Received("evt_1", 1, 12.5, random.Random(7).randbytes(50), {"ce-type": "x"}, "respond", 200)
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{received.to_json()}\n{received.to_json()[:40]}")
    assert read_journal(path) == [received]


def test_it_runs_as_a_process_of_its_own_until_it_is_told_to_stop(tmp_path):
    journal = tmp_path / "journal.jsonl"
    (tmp_path / "mine.py").write_text("from resonant.testing import respond\nscript = respond(202)\n")
    command = [sys.executable, "-W", "error", "-m", "resonant.testing", "--journal", str(journal)]
    for number, script, status in [
        (signal.SIGTERM, "mine:script", 202),
        (signal.SIGINT, "resonant.testing:always_ok", 200),
    ]:
        with subprocess.Popen(
            [*command, "--script", script],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        ) as process:
            url = process.stdout.readline().strip()
            assert httpx.post(url, headers={"webhook-id": script}, trust_env=False).status_code == status
            assert read_journal(journal)[-1].webhook_id == script
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=10)
        assert (process.returncode, rest, complaints) == (0, "", "")


@pytest.mark.parametrize(
    ("event_type", "outcomes"),
    [
        ("demo.500-then-200", [500, 200, 200]),
        ("demo.503-retry-after", [503, 200, 200]),
        ("demo.429", [429, 200, 200]),
        ("demo.400", [400, 400, 400]),
        ("demo.reset", [None, None, None]),
        ("demo.silent", [None, None, None]),
        ("demo.redirect", [302, 302, 302]),
        ("demo.slow", [200, 200, 200]),
        ("com.example.order.paid", [200, 200, 200]),
    ],
)
def test_the_demo_misbehaves_in_eight_ways(event_type, outcomes):
    async def run():
        async with Receiver(eight_ways) as receiver:
            for _ in outcomes:
                with contextlib.suppress(httpx.TransportError):
                    await post(receiver.url, event_type=event_type, timeout=httpx.Timeout(5, read=0.1))
            while len(receiver.journal) < len(outcomes):
                await asyncio.sleep(0.01)
            return receiver.journal

    journal = asyncio.run(run())
    assert [received.status for received in journal] == outcomes


def test_the_demos_503_asks_for_a_second():
    async def run():
        async with Receiver(eight_ways) as receiver:
            return (await post(receiver.url, event_type="demo.503-retry-after")).headers["retry-after"]

    assert asyncio.run(run()) == "1"


def test_a_flaky_script_fails_its_share_of_first_tries_and_always_the_same_ones():
    async def failed(seed):
        async with Receiver(flaky(0.3, seed)) as receiver, httpx.AsyncClient(trust_env=False) as client:
            for number in [*range(200), *range(200)]:
                await client.post(receiver.url, headers={"webhook-id": f"evt_{number}"})
        first, second = receiver.journal[:200], receiver.journal[200:]
        assert {received.status for received in second} == {200}
        return {received.webhook_id for received in first if received.status == 500}

    once, again, otherwise = (asyncio.run(failed(seed)) for seed in (1, 1, 2))
    assert 40 <= len(once) <= 80
    assert once == again != otherwise


def test_the_fixed_clock_moves_only_when_told():
    clock = FixedClock(1_000.0)
    assert (clock(), clock()) == (1_000.0, 1_000.0)
    clock.advance(2.5)
    assert clock() == 1_002.5


def test_it_listens_on_loopback_only():
    async def run():
        async with Receiver(always_ok) as receiver:
            (listener,) = receiver._server.sockets
            return listener.getsockname()[0], listener.family

    assert asyncio.run(run()) == ("127.0.0.1", socket.AF_INET)
