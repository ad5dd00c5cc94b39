"""Attacks on a real server, directly and through nginx: each request is one event at most."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import patient
from support.nginx import nginx
from support.raw_http import event, intake_counts, post, talk
from support.serving import add_endpoints, create_token, run_command, serving
from support.smuggling import AMBIGUOUS, CHUNKS, HEADS, LENGTHS, OUTER, SMUGGLED
from support.waiting import PATIENCE_SECONDS, wait_until

EVENTS = "/events?endpoint=orders"
KIND = {"Content-Type": "application/cloudevents+json"}


def started(folder, *options):
    store_url = f"sqlite:///{folder}/resonant.db"
    add_endpoints(store_url, "orders")
    return serving(store_url, folder, *options)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that needs no token, so that only the parsing of a request protects it."""
    with started(tmp_path_factory.mktemp("open"), "--no-auth") as server:
        yield server


@pytest.fixture(scope="module")
def front(server, tmp_path_factory):
    """nginx in front of it."""
    with nginx(tmp_path_factory.mktemp("nginx"), server.port) as front:
        yield front


def counted_since(server, before) -> Counter[str]:
    """Return what it has counted meanwhile, without the first request for the counts."""
    return intake_counts(server.port) - before - Counter({"requests": 1, "200": 1})


def talk_to_each(port, attacks, **options):
    """Make each attack on a connection of its own; return the status of each answer, by the name of the attack."""
    with ThreadPoolExecutor(20) as clients:
        answers = clients.map(lambda request: talk(port, request, **options), attacks.values())
        return dict(zip(attacks, answers, strict=True))


@pytest.mark.parametrize(
    "attacks", [AMBIGUOUS, CHUNKS, LENGTHS, HEADS], ids=["ambiguous", "chunks", "lengths", "heads"]
)
def test_a_request_within_a_request_is_not_read_as_one(server, attacks):
    before = intake_counts(server.port)

    answers = talk_to_each(server.port, attacks)

    since = counted_since(server, before)
    assert {name: each for name, each in answers.items() if len(each) != 1} == {}
    assert since["requests"] == len(attacks)
    assert since["stored"] + since["duplicate"] == sum(each == [202] for each in answers.values()) <= 1


@pytest.mark.program
def test_nginx_and_the_server_agree_on_where_each_request_ends(server, front):
    attacks = AMBIGUOUS | CHUNKS | LENGTHS | HEADS
    before = intake_counts(server.port)

    answers = talk_to_each(front.port, attacks, tls=front.tls)

    def forwarded() -> Counter[str]:
        lines = (line.split() for line in front.log.read_text().splitlines())
        return Counter(upstream for _, upstream, *_ in lines if upstream != "-")

    since = counted_since(server, before)
    wait_until(lambda: forwarded().total() == since["requests"])
    assert since["stored"] + since["duplicate"] == forwarded()["202"]
    assert since["requests"] <= sum(map(len, answers.values()))
    assert (
        front.client().post(EVENTS, content=event("after"), headers=KIND).json()["events"][0]["id"] == "after"
    )


@pytest.mark.program
def test_through_nginx_no_spelling_of_the_path_leads_to_the_metrics(front):
    paths = (
        b"/metrics",
        b"//metrics",
        b"/metrics/",
        b"/%6detrics",
        b"/x/../metrics",
        b"/metrics?x",
        b"/events/../metrics",
        b"/METRICS",
        b"/metrics%0a",
        b"/metrics%0A?x",
        b"/metrics%0d",
        b"/metrics%00",
    )
    for path in paths:
        request = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path
        # nginx itself refuses a NUL.
        assert talk(front.port, request, tls=front.tls) == [400 if b"%00" in path else 404], path


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (b"/events?endpoint=orders", (b"Origin: https://evil.example.com",), 403),
        (b"/events?endpoint=nobody", (), 422),
        (b"/events?token=rsn_x", (), 400),
        (b"/events?endpoint=orders", (b"Content-Encoding: gzip",), 415),
        (b"/nothing", (), 404),
        (b"/readyz", (), 405),
        (b"/events?endpoint=orders", (b"Expect: 100-continue", b"Content-Encoding: x"), 415),
    ],
)
def test_the_body_of_a_refused_request_is_not_read_as_the_next_one(server, target, headers, status):
    before = intake_counts(server.port)

    assert talk(server.port, post(SMUGGLED, *headers, target=target)) == [status]

    assert counted_since(server, before) == {"requests": 1, str(status): 1}


@pytest.mark.parametrize(
    ("length", "answers"),
    [(len(OUTER) + 10, []), (len(OUTER) - 5, [400]), (10**9, [413]), (0, [400])],
)
def test_a_body_with_a_wrong_length_is_not_stored(server, length, answers):
    before = intake_counts(server.port)

    assert (
        talk(server.port, post(OUTER + b" ", length=length), first=PATIENCE_SECONDS if answers else 0.3)
        == answers
    )

    assert counted_since(server, before)["stored"] == 0


@pytest.mark.parametrize(
    "value", ["a%0D%0AX-Evil:%201", "a%0Ab", "a%00", "a%1B[2J", "a%E2%80%A8b", "%FF", "%C0%8A"]
)
@pytest.mark.parametrize("name", ["ce-subject", "ce-type", "ce-source", "ce-id", "ce-x"])
def test_an_attribute_cannot_bring_line_breaks_or_bytes_into_headers_or_the_log(server, name, value):
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "evil",
        "ce-type": "t",
        "ce-source": "/raw",
        "Content-Type": "text/plain",
    }

    answer = patient.post(f"{server.url}{EVENTS}", headers=headers | {name: value}, content=b"x")

    # A line separator is allowed in CloudEvents, and encoded wherever it is sent or shown.
    assert answer.status_code == 422 or (value == "a%E2%80%A8b" and answer.status_code in (202, 409))
    assert "x-evil" not in answer.headers
    assert not set(answer.text.removesuffix("\n")) & set("\r\n\0\x1b\u2028")


BOMBS = {
    "arrays": b"[" * 900_000,
    "objects": b'{"a":' * 150_000,
    "data": b'{"type": "t", "source": "/raw", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "integer": b'{"type": "t", "source": "/raw", "data": ' + b"9" * 100_000 + b"}",
    "exponent": b'{"type": "t", "source": "/raw", "data": 1e999999999}',
    "fraction": b'{"type": "t", "source": "/raw", "data": 0.' + b"0" * 900_000 + b"1}",
    "names": b'{"type": "t", "source": "/raw", ' + b", ".join(b'"n%d": 1' % n for n in range(50_000)) + b"}",
    "spaces": b" " * 1_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json", "application/cloudevents-batch+json", "application/jsonl"]
)
def test_deep_huge_and_endless_json_is_answered_soon(server, name, kind):
    content = BOMBS[name] if kind != "application/cloudevents-batch+json" else b"[%b]" % BOMBS[name]

    answer = patient.post(f"{server.url}{EVENTS}", headers={"Content-Type": kind}, content=content)

    assert answer.status_code in (202, 400, 413, 422)
    assert (answer.status_code == 202) <= (name in ("fraction", "spaces"))
    assert len(answer.content) < 2_000


@pytest.mark.parametrize(
    "path",
    [b"/../../etc/passwd", b"/events/../../etc/passwd", b"/events/..%2f..%2fetc/passwd", b"/docs/../../etc/passwd",
     b"/docs/..%2f..%2fetc%2fpasswd", b"/%2e%2e/%2e%2e/etc/passwd", b"//etc/passwd", b"/events/%2Fraw/..", b"/events/%00/x",
     b"/events%0A", b"/openapi.json%0A", b"/docs%0A", b"/metrics%0A", b"/healthz%0A", b"/readyz%0A"],
)  # fmt: skip
def test_no_path_leads_to_a_file_and_no_line_feed_to_a_resource(server, path):
    request = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path

    assert talk(server.port, request) == [404]


def test_a_request_writes_no_line_of_its_choice_to_the_log(server):
    injected = "\n2026-01-01 00:00:00,000 ERROR all is lost\x1b[2J"
    for target in ("/events?endpoint=", "/events?x=", "/events/%2Fraw/", "/"):
        patient.post(f"{server.url}{target}", params={"endpoint": injected} if "=" in target else None)
    talk(server.port, b"GET /\x1b[2J\n2026-01-01 ERROR all is lost HTTP/1.1\r\nHost: \x1b\r\n\r\n")
    talk(server.port, post(OUTER, b"X: \x1b[2J", target=b"/events?endpoint=%0aERROR%20all%20is%20lost%1b[2J"))

    log = server.log.read_text()
    assert "all is lost" not in log
    assert "\x1b" not in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    """A server that needs a token."""
    with started(tmp_path_factory.mktemp("tokens")) as server:
        yield server


def send(server, token=None, event_id="e", path=EVENTS):
    headers = KIND | ({"Authorization": f"Bearer {token}"} if token else {})
    return patient.post(f"{server.url}{path}", headers=headers, content=event(event_id))


def test_a_running_server_accepts_a_new_token_at_once_and_soon_refuses_a_revoked_one(with_tokens):
    assert send(with_tokens).status_code == 401
    token = create_token(with_tokens.store_url, with_tokens.folder, "shop")
    assert send(with_tokens, token).status_code == 202

    run_command(with_tokens.store_url, with_tokens.folder, "token", "revoke", "shop")
    wait_until(lambda: send(with_tokens, token).status_code == 401)


def test_the_text_of_a_token_is_in_no_answer_log_or_file(with_tokens):
    token = create_token(with_tokens.store_url, with_tokens.folder, "crm", "--type", "x")
    answers = [
        send(with_tokens, token),
        send(with_tokens, token + "x"),
        send(with_tokens, token, path=f"/events?token={token}"),
        send(with_tokens, path=f"/events?endpoint={token}"),
        send(with_tokens, token, path=f"/{token}"),
    ]

    assert [each.status_code for each in answers] == [403, 401, 400, 400, 404]
    secret = token.removeprefix("rsn_")
    assert not any(secret in f"{each.text}{each.headers}" for each in answers[:4])
    wait_until(lambda: "crm" in json.dumps(tokens_used(with_tokens)))
    files = [path for path in with_tokens.folder.rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert [path.name for path in files if secret.encode() in path.read_bytes()] == []


def tokens_used(server):
    found = json.loads(run_command(server.store_url, server.folder, "token", "list", "--json"))
    return [each["name"] for each in found if each["last_used_at"]]
