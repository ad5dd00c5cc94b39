import asyncio
import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import warnings
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from resonant.delivery.retry_after import parse_retry_after
from resonant.testing import (
    FAULTS,
    FLAWS,
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
    named_fault,
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
    retry_after,
    retry_after_date,
    slow_body,
    slow_headers,
    surplus_body,
    truncated_body,
)
from resonant.testing.__main__ import main
from resonant.testing.dates import http_date
from support.waiting import until


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
    except ConnectionError:
        return received, "reset"
    else:
        return received, "closed"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


RAW = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def raw_exchange(action):
    async with Receiver(action) as receiver:
        return await talk(receiver.url, RAW)


async def test_a_script_decides_by_what_it_sees_of_the_request():
    seen = []

    def script(request):
        seen.append(request)
        return respond(201, {"x-answer": "yes"}, b"done")

    async with Receiver(script) as receiver:
        response = await post(f"{receiver.url}/hooks?a=1", webhook_id="evt_9", body=b'{"n":1}')
    (request,) = seen
    assert (response.status_code, response.headers["x-answer"], response.content) == (201, "yes", b"done")
    assert (request.method, request.path, request.webhook_id) == ("POST", "/hooks?a=1", "evt_9")
    assert (request.body, request.event_type, request.headers["ce-type"]) == (
        b'{"n":1}',
        "demo.ok",
        "demo.ok",
    )


async def test_tries_are_counted_for_each_webhook_id():
    def script(request):
        return respond(500) if request.try_number < 3 else respond(200)

    async with Receiver(script) as receiver:
        ids = ["a", "b", "a", "a", "b"]
        statuses, journal = (
            [(await post(receiver.url, webhook_id=i)).status_code for i in ids],
            receiver.journal,
        )
    assert statuses == [500, 500, 500, 200, 500]
    assert [(r.webhook_id, r.try_number) for r in journal] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("a", 3),
        ("b", 2),
    ]
    assert [r.status for r in journal] == statuses


async def test_connections_are_kept_alive_unless_the_client_says_otherwise():
    async with Receiver() as receiver:
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(3):
                await client.post(receiver.url)
            kept = receiver.accepted
            for _ in range(2):
                await client.post(receiver.url, headers={"connection": "close"})
        assert (kept, receiver.accepted) == (1, 2)


async def test_repeated_headers_are_joined():
    request = b"POST / HTTP/1.1\r\nX-A: 1\r\nx-a: 2\r\nconnection: close\r\n\r\n"

    async with Receiver() as receiver:
        await talk(receiver.url, request)
        assert receiver.journal[0].headers["x-a"] == "1, 2"


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\nwebhook-id: evt_c\r\n\r\n"


async def test_a_chunked_body_is_one_body_and_the_next_request_follows_it():
    chunks = b'7;name="value"\r\n{"n":1}\r\nA \r\n0123456789\r\n0\r\nx-trailer: yes\r\nx-more: yes\r\n\r\n'
    last = RAW.replace(b"host: x", b"connection: close")

    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, CHUNKED + chunks + last)
        journal = receiver.journal
    assert [each.body for each in journal] == [b'{"n":1}0123456789', b"{}"]
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_what_a_client_streams_without_a_length_arrives_whole():
    parts = [random.Random(7).randbytes(size) for size in (1, 70_000, 300_000)]

    async def stream():
        for part in parts:
            yield part

    async with Receiver() as receiver:
        status, [received] = (await post(receiver.url, body=stream())).status_code, receiver.journal
    assert status == 200
    assert received.headers["transfer-encoding"] == "chunked"
    assert received.body == b"".join(parts)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"nonsense\r\n\r\n", b"request line"),
        (b"\r\n\r\n", b"request line"),
        (b"POST / and more HTTP/1.1\r\n\r\n", b"request line"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"request line"),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", b"header"),
        (b"POST / HTTP/1.1\r\ncontent-length : 2\r\n\r\n{}", b"header"),
        (b"POST / HTTP/1.1\r\ncontent-length: two\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length:\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: %b\r\n\r\n" % (b"9" * 5000), b"content-length"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"transfer-encoding"),
        (CHUNKED.replace(b"webhook-id: evt_c", b"content-length: 5") + b"0\r\n\r\n", b"content-length"),
        (CHUNKED + b"two\r\n{}\r\n0\r\n\r\n", b"chunk size"),
        (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", b"chunk size"),
        (CHUNKED + b"\r\n", b"chunk size"),
        (CHUNKED + b"%b\r\n" % (b"f" * 5000), b"chunk size"),
        (CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n", b"as long as it says"),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_a_malformed_request_is_the_clients_fault_and_not_the_scripts(request_, said):
    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, request_)
        assert (await post(receiver.url)).status_code == 200
        journal = receiver.journal
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n")
    assert said in received.partition(b"\r\n\r\n")[2]
    assert [each.webhook_id for each in journal] == ["evt_1"]


@pytest.mark.parametrize("endless", [b"POST / HTTP/1.1\r\nx-a: ", CHUNKED, CHUNKED + b"0\r\nx-trailer: "])
async def test_what_is_too_large_to_be_a_head_is_the_clients_fault_too(endless):
    """Whether the answer arrives is another matter: there is more that nobody reads."""

    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, endless + b"1" * 1_000_000)
        journal = receiver.journal
    assert received.startswith(b"HTTP/1.1 400 ") or received == b""
    assert journal == []


async def test_what_is_no_tls_after_the_handshake_is_the_clients_fault_too(tmp_path):
    authority = Authority()
    trust = ssl.create_default_context(cafile=authority.write_to(tmp_path / "ca.pem"))
    complaints = []

    def break_the_rules(port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            os.write(encrypted.fileno(), b"this is no record of TLS")
            with contextlib.suppress(OSError):
                encrypted.recv(1)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with Receiver(tls=authority.context()) as receiver:
        await asyncio.to_thread(break_the_rules, httpx.URL(receiver.url).port)
    assert complaints == []


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
async def test_each_fault_is_what_its_name_says(action, received, end):
    assert await raw_exchange(action) == (received, end)


async def test_a_half_closed_connection_still_takes_what_is_sent():
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
            await until(lambda: not receiver._connections)

    await asyncio.wait_for(run(), 5)


async def test_a_surplus_follows_what_was_promised_on_a_connection_that_stays():
    async with Receiver(surplus_body(201)) as receiver:
        received, end = await talk(receiver.url, RAW.replace(b"host: x", b"connection: close"))
    promised, surplus = received[: received.index(b"ok") + 2], received[received.index(b"ok") + 2 :]
    assert promised.startswith(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n")
    assert surplus == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert end == "closed"


@pytest.mark.parametrize(
    ("action", "size"), [(huge_header(300_000), 300_000), (many_headers(20_000), 200_000)]
)
async def test_heads_can_be_as_large_as_one_likes(action, size):
    async with Receiver(action) as receiver:
        received, _ = await talk(receiver.url, RAW.replace(b"host: x", b"connection: close"))
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
async def test_heads_without_end_go_on_until_the_client_hangs_up(action, beginning):
    async def run():
        async with Receiver(action) as receiver:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
            writer.write(RAW)
            received = await reader.readexactly(len(beginning))
            writer.transport.abort()
            await until(lambda: not receiver._connections)
            return received

    assert await asyncio.wait_for(run(), 5) == beginning


async def test_a_connection_can_meet_its_fate_before_it_is_read():
    fates = {1: reset_before_response(), 2: garbage()}
    async with Receiver(connection=fates.get) as receiver:
        outcomes = []
        for _ in range(3):
            with contextlib.suppress(httpx.TransportError):
                outcomes.append((await post(receiver.url)).status_code)
        assert (outcomes, receiver.accepted, len(receiver.journal)) == ([200], 3, 1)


async def test_what_is_never_read_fills_the_kernel_and_no_more():
    async with Receiver(connection=never_read()) as receiver:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
        writer.write(RAW + b"x" * 50_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.3)
        writer.transport.abort()
        assert receiver.journal == []


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
async def test_each_flaw_of_a_certificate_is_what_its_name_says(tmp_path, flaw, said):
    authority = Authority()
    trust = ssl.create_default_context(cafile=authority.write_to(tmp_path / "ca.pem"))

    async def run(certificate):
        async with (
            Receiver(tls=authority.context(certificate)) as receiver,
            httpx.AsyncClient(verify=trust, trust_env=False) as client,
        ):
            return (await client.post(receiver.url)).status_code

    assert await run(None) == 200
    with pytest.raises(httpx.ConnectError, match=said):
        await run(flaw)


def test_without_its_package_an_authority_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'resonant[testing]'")):
        Authority()
    assert refusal(capsys, "--tls", "valid") == (
        1,
        "certificates need the package trustme: pip install 'resonant[testing]'",
    )
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("trustme") for each in project["optional-dependencies"]["testing"])


@contextmanager
def receiver_process(folder, *options):
    """Run a receiver as a process of its own, in a folder where its modules are found, and give its URL."""
    command = [sys.executable, "-m", "resonant.testing", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("certificate", ["valid", *(flaw.replace("_", "-") for flaw in FLAWS)])
def test_the_process_speaks_tls_with_the_certificate_that_it_is_told(tmp_path, certificate):
    with receiver_process(tmp_path, "--tls", certificate, "--ca-file", "ca.pem") as url:
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        if certificate == "valid":
            assert httpx.post(url, verify=trust, trust_env=False).status_code == 200
        else:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.post(url, verify=trust, trust_env=False)


def test_the_process_takes_a_script_for_its_connections(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from resonant.testing import garbage\n"
        "first_is_garbage = {1: garbage()}.get\n"
        "all_are_garbage = garbage()\n"
    )
    with receiver_process(tmp_path, "--connection", "mine:first_is_garbage") as url:
        with pytest.raises(httpx.TransportError):
            httpx.post(url, trust_env=False)
        assert httpx.post(url, trust_env=False).status_code == 200
    with receiver_process(tmp_path, "--connection", "mine:all_are_garbage") as url:
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                httpx.post(url, trust_env=False)


def refusal(capsys, *options):
    """Start a process's main with options that it cannot do; return its exit code, and the line that says why."""
    with pytest.raises(SystemExit) as end:
        main([*options])
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch("python -m resonant[.]testing: [^\n]+\n", said.err)
    return end.value.code, said.err.strip().partition(": ")[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--script", "nowhere:script"], "No module named 'nowhere'"),
        (["--script", "resonant.testing:nothing"], "has no attribute 'nothing'"),
        (["--script", "not a name"], "invalid format: 'not a name'"),
        (
            ["--script", "resonant.testing:FAULTS"],
            "resonant.testing:FAULTS is neither a script nor an action",
        ),
        (["--connection", "nowhere:script"], "No module named 'nowhere'"),
        (["--port", "many"], "many is no number from 0 to 65535"),
        (["--port", "65536"], "65536 is no number from 0 to 65535"),
        (["--tls", "good"], "invalid choice: 'good'"),
        (["--ca-file", "ca.pem"], "--ca-file needs --tls"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be_meant_is_refused_in_one_line(capsys, options, said):
    code, line = refusal(capsys, *options)
    assert code == 2
    assert said in line


def test_a_port_in_use_is_one_line_and_leaves_nothing_open(capsys, tmp_path):
    with nobody_listening() as url, warnings.catch_warnings():
        warnings.simplefilter("error")
        port = str(httpx.URL(url).port)
        code, line = refusal(capsys, "--port", port, "--journal", str(tmp_path / "journal.jsonl"))
    assert code == 1
    assert port in line
    assert "address already in use" in line


@pytest.mark.parametrize("option", ["--journal", "--ca-file"])
def test_a_file_that_cannot_be_written_is_one_line(capsys, tmp_path, option):
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "no" / "file", "No such file or directory")):
        code, line = refusal(capsys, option, str(path), "--tls", "valid")
        assert (code, line) == (1, f"{path}: {said}")


def test_hell_runs_as_a_process_too(tmp_path):
    journal = tmp_path / "journal.jsonl"
    with receiver_process(
        tmp_path, "--script", "resonant.testing:named_fault", "--journal", str(journal)
    ) as url:
        headers = {"webhook-id": "evt_1", "ce-type": "demo.reset-mid-body"}
        with pytest.raises(httpx.TransportError):
            httpx.post(url, headers=headers, trust_env=False)
    [received] = read_journal(journal)
    assert (received.webhook_id, received.action, received.status) == ("evt_1", "reset_mid_body", 200)
    assert {action.name for action in FAULTS.values()} > {"gzip_bomb", "slow_headers", "half_close"}


async def test_redirects_name_a_location():
    async with Receiver(redirect("http://127.0.0.1:1/", status=308)) as receiver:
        response, received = await post(receiver.url), receiver.journal[0]
    assert (response.status_code, response.headers["location"]) == (308, "http://127.0.0.1:1/")
    assert (received.action, received.status) == ("redirect", 308)


@pytest.mark.parametrize(
    ("form", "early", "late"),
    [
        ("imf-fixdate", "Sun, 06 Nov 1994 08:49:37 GMT", "Thu, 29 Feb 2024 23:59:59 GMT"),
        ("rfc-850", "Sunday, 06-Nov-94 08:49:37 GMT", "Thursday, 29-Feb-24 23:59:59 GMT"),
        ("asctime", "Sun Nov  6 08:49:37 1994", "Thu Feb 29 23:59:59 2024"),
    ],
)
def test_a_date_has_the_form_that_it_is_asked_for(form, early, late):
    assert (http_date(form, 784_111_777), http_date(form, 1_709_251_199)) == (early, late)


@pytest.mark.parametrize(
    ("way", "value", "seconds"),
    [
        ("seconds", "[0-9]+", 5),
        ("imf-fixdate", "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT", 5),
        ("rfc-850", "[A-Z][a-z]+day, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT", 5),
        ("asctime", "[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} [0-9]{4}", 5),
        ("past", ".* GMT", 0),
        ("negative", "-[0-9]+", None),
        ("fractional", r"[0-9]+\.[0-9]+", None),
        ("huge", "[0-9]{30}", 2**31),
        ("nonsense", "[a-z]+", None),
    ],
)
async def test_hell_asks_for_a_wait_in_every_form_and_in_none(way, value, seconds):
    async with Receiver(named_fault) as receiver:
        before = time.time()
        response = await post(receiver.url, event_type=f"demo.retry-after-{way}")
        received = receiver.journal[0]
    asked = response.headers["retry-after"]
    assert (response.status_code, received.status, received.action) == (429, 429, "retry_after")
    assert re.fullmatch(value, asked)
    wait = parse_retry_after(asked, before)
    assert wait == seconds or (seconds == 5 and 5 <= wait < 5 + 1 + time.time() - before)


async def test_a_wait_of_ones_own_is_asked_for_with_the_status_that_one_likes():
    for action in (retry_after("7", 503), retry_after_date("rfc-850", 7, 503)):
        received, _ = await raw_exchange(Action("close", closing(action.perform)))
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in received


def closing(perform):
    async def then_close(reader, writer):
        await perform(reader, writer)
        writer.close()

    return then_close


async def test_an_answer_can_be_late():
    async with Receiver(respond(200, delay=30)) as receiver:
        with pytest.raises(httpx.ReadTimeout):
            await post(receiver.url, timeout=httpx.Timeout(5, read=0.2))


async def test_never_answering_lasts_until_the_client_hangs_up():
    async def run():
        async with Receiver(never_answer()) as receiver:
            with pytest.raises(httpx.ReadTimeout):
                await post(receiver.url, timeout=httpx.Timeout(5, read=0.2))
            await until(lambda: not receiver._connections)
            return receiver.journal[0]

    received = await asyncio.wait_for(run(), 5)
    assert (received.action, received.status) == ("never_answer", None)


@pytest.mark.parametrize(
    "action", [slow_body(bytes_per_second=50), endless_body()], ids=lambda action: action.name
)
async def test_bodies_without_end_go_on_until_the_client_hangs_up(action):
    async def run():
        async with Receiver(action) as receiver:
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("POST", receiver.url) as response,
            ):
                body = response.aiter_raw(1)
                head = b"".join([await anext(body) for _ in range(5)])
                await body.aclose()
            await until(lambda: not receiver._connections)
            return response.status_code, head

    status, head = await asyncio.wait_for(run(), 10)
    assert status == 200
    assert len(head) == 5


async def test_an_action_of_ones_own_writes_to_the_stream():
    async def perform(reader, writer):
        writer.write(b"HTTP/1.1 299 Mine\r\ncontent-length: 0\r\n\r\n")

    async with Receiver(Action("mine", perform, 299)) as receiver:
        assert (await post(receiver.url)).status_code, receiver.journal[0].action == (299, "mine")


async def test_it_speaks_tls_where_given_a_context():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    async with (
        Receiver(tls=context) as receiver,
        httpx.AsyncClient(verify=trust, trust_env=False) as client,
    ):
        url, status = receiver.url, (await client.post(receiver.url)).status_code
    assert url.startswith("https://127.0.0.1:")
    assert status == 200


async def test_a_port_can_be_taken_again_at_once():
    async with Receiver() as receiver:
        await post(receiver.url)
    async with Receiver(port=httpx.URL(receiver.url).port) as again:
        assert (receiver.url == again.url, (await post(again.url)).status_code) == (True, 200)


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
            await until(lambda: len(receiver.journal) == len(actions))
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


async def test_a_broken_script_fails_the_test_that_wrote_it():
    async def run():
        async with Receiver(lambda _: {}["no such key"]) as receiver:
            with pytest.raises(httpx.RemoteProtocolError):
                await post(receiver.url)

    with pytest.raises(KeyError, match="no such key"):
        await run()


async def test_the_journal_is_on_disk_before_the_answer(tmp_path):
    path = tmp_path / "journal.jsonl"
    body = '{"greeting":"h€llo"}'.encode()
    seen = []

    async def perform(reader, writer):
        seen.extend(read_journal(path))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with Receiver(Action("look", perform, 200), journal_path=path) as receiver:
        await post(receiver.url, body=body)
        journal = receiver.journal
    assert seen == journal
    assert journal[0].body == body
    assert hashlib.sha256(body).hexdigest() in path.read_text()


async def test_the_journal_is_appended_to(tmp_path):
    path = tmp_path / "journal.jsonl"

    for webhook_id in ("a", "b"):
        async with Receiver(journal_path=path) as receiver:
            await post(receiver.url, webhook_id=webhook_id)
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
async def test_the_demo_misbehaves_in_eight_ways(event_type, outcomes):
    async with Receiver(eight_ways) as receiver:
        for _ in outcomes:
            with contextlib.suppress(httpx.TransportError):
                await post(receiver.url, event_type=event_type, timeout=httpx.Timeout(5, read=0.1))
        await until(lambda: len(receiver.journal) == len(outcomes))
        journal = receiver.journal
    assert [received.status for received in journal] == outcomes


async def test_the_demos_503_asks_for_a_second():
    async with Receiver(eight_ways) as receiver:
        assert (await post(receiver.url, event_type="demo.503-retry-after")).headers["retry-after"] == "1"


async def test_a_flaky_script_fails_its_share_of_first_tries_and_always_the_same_ones():
    async def failed(seed):
        async with Receiver(flaky(0.3, seed)) as receiver, httpx.AsyncClient(trust_env=False) as client:
            for number in [*range(200), *range(200)]:
                await client.post(receiver.url, headers={"webhook-id": f"evt_{number}"})
        first, second = receiver.journal[:200], receiver.journal[200:]
        assert {received.status for received in second} == {200}
        return {received.webhook_id for received in first if received.status == 500}

    once, again, otherwise = [await failed(seed) for seed in (1, 1, 2)]
    assert 40 <= len(once) <= 80
    assert once == again != otherwise


def test_the_fixed_clock_moves_only_when_told():
    clock = FixedClock(1_000.0)
    assert (clock(), clock()) == (1_000.0, 1_000.0)
    clock.advance(2.5)
    assert clock() == 1_002.5


async def test_it_listens_on_loopback_only():
    async with Receiver(always_ok) as receiver:
        (listener,) = receiver._server.sockets
        assert (listener.getsockname()[0], listener.family) == ("127.0.0.1", socket.AF_INET)
