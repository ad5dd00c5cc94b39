"""``POST /events``: what is stored, and what is answered."""

import asyncio
import json
import random
import threading

import pytest

from resonant.errors import StoreUnavailable
from resonant.intake.access.tokens import Budget, Grant, OpenAccess
from resonant.intake.limits import IntakeLimits
from resonant.intake.requests import posting as posting_module
from resonant.intake.requests.parsing_turns import ParsingTurns
from resonant.intake.requests.reading import read_events
from resonant.store import enqueue
from resonant.store.shared.tokens import Token
from resonant.testing import FixedClock
from support.lines import line, parsed
from support.posting import BATCH, LINES, STRUCTURED, posting
from support.waiting import until

EVENTS = "/events?endpoint=orders"


def batch(*lines):
    return f"[{','.join(lines)}]"


def event(event_id, *, duplicate=False, endpoints=("orders",)):
    return {"id": event_id, "source": "/shop", "duplicate": duplicate, "endpoints": [*endpoints]}


def problem(answer, status):
    """Return the document of a problem, which has this status."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert document["title"]
    assert "\n" not in document["detail"]
    return document


# --- one event ------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_when_the_answer_is_202(client):
    answer = client.post(line("[1, 2]", id="1"))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"events": [event("1")]}
    [stored] = client.stored()
    assert (stored.id, stored.type, stored.body) == ("1", "com.example.paid", b"[1,2]")


def test_an_event_without_an_id_gets_one(client):
    [given] = client.post(line()).json()["events"]
    assert [each.id for each in client.stored()] == [given["id"]]


def test_in_binary_mode_the_headers_are_the_attributes(client):
    answer = client.post(
        "Grüße".encode(),
        "text/plain; charset=utf-8",
        ce_id="1",
        ce_type="a",
        ce_source="/shop",
        ce_zone="eu%20west",
    )
    assert answer.json() == {"events": [event("1")]}
    [stored] = client.stored()
    assert (stored.form, stored.body, stored.extensions) == ("text", "Grüße".encode(), {"zone": "eu west"})


@pytest.mark.parametrize(
    "source", ["/resonant", "/resonant/", "/resonant?", "/./resonant", "//resonant", "/shop"]
)
def test_an_event_that_looks_like_one_of_resonants_own_is_refused(client, source):
    answers = [
        client.post(line(type="resonant.delivery.dead", source=source)),
        client.post(b"1", "application/json", ce_type="%72esonant.delivery.dead", ce_source=source),
    ]
    for answer in answers:
        [error] = problem(answer, 422)["errors"]
        assert (error["pointer"], error["code"]) == ("/type", "invalid_value")
    assert client.stored() == []


@pytest.mark.parametrize(
    ("text", "status", "code", "pointer"),
    [
        ("{", 400, "not_json", ""),
        ('{"type": "a"}', 422, "missing", "/source"),
        (line(id="a\tb"), 422, "invalid_value", "/id"),
        (line(data_base64="x"), 422, "both_data", "/data_base64"),
        (line('"xxxxxxxxx"'), 413, "too_large", "/data"),
        (line("[" * 50_000), 413, "too_large", ""),
        (line("1e999"), 422, "invalid_value", ""),
    ],
)
def test_an_event_that_is_not_valid_is_refused_with_the_place_and_the_reason(
    sqlite_desk, text, status, code, pointer
):
    with posting(sqlite_desk, limits=IntakeLimits(event_bytes=10)) as client:
        document = problem(client.post(text), status)
        [error] = document["errors"]
        assert (error["index"], error["code"], error["pointer"]) == (0, code, pointer)
        assert document["detail"] == error["detail"]
        assert client.stored() == []


def test_the_idempotency_key_makes_a_retry_a_duplicate(client):
    for duplicate in (False, True):
        answer = client.post(line(), idempotency_key="order-7")
        assert answer.json() == {"events": [event("order-7", duplicate=duplicate)]}


# --- several events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "join"), [(BATCH, lambda lines: batch(*lines)), (LINES, "\n\n".join)], ids=["batch", "lines"]
)
def test_several_events_are_answered_in_the_order_in_which_they_were_sent(client, kind, join):
    ids = [str(number) for number in range(50)]
    random.Random(1).shuffle(ids)
    answer = client.post(join([line(id=each) for each in ids]), kind)
    assert answer.json() == {"events": [event(each) for each in ids]}
    assert {each.id for each in client.stored()} == set(ids)


def test_an_event_twice_in_a_batch_is_stored_once(client):
    answer = client.post(batch(line(id="1"), line(id="1")), BATCH)
    assert answer.json() == {"events": [event("1"), event("1", duplicate=True)]}


def test_an_empty_batch_stores_nothing(client):
    assert client.post("[]", BATCH).json() == {"events": []}


def test_a_batch_is_stored_whole_or_not_at_all(client):
    client.post(line(id="old"))
    for bad, status, code in (
        (line("2", id="old"), 409, "conflict"),
        (line(id="a\tb"), 422, "invalid_value"),
    ):
        document = problem(client.post(batch(line(id="new"), bad, line(id="newer")), BATCH), status)
        assert [(each["index"], each["code"]) for each in document["errors"]] == [(1, code)]
        assert document["detail"].startswith("1 of 3 events refused, nothing is stored: event 1: ")
    assert [each.id for each in client.stored()] == ["old"]


@pytest.mark.parametrize(
    "preference",
    [
        "respond-async, Handling = Lenient; a=b",
        'handling="lenient"',
        "handling=lenient, handling=strict",
        "handling\t=\tlenient",
    ],
)
def test_lenient_handling_stores_the_good_events_and_lists_the_others(client, preference):
    client.post(line(id="old"))
    content = batch(line(id="a\tb"), line(id="1"), line("2", id="old"), line(id="2"))
    answer = client.post(content, BATCH, prefer=preference)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "handling=lenient"
    document = answer.json()
    assert document["events"] == [event("1"), event("2")]
    assert [(each["index"], each["code"]) for each in document["errors"]] == [
        (0, "invalid_value"),
        (2, "conflict"),
    ]
    assert {each.id for each in client.stored()} == {"old", "1", "2"}


def test_lenient_handling_fails_if_every_event_is_bad(client):
    document = problem(client.post(batch(line(id="a\tb")), BATCH, prefer="handling=lenient"), 422)
    assert len(document["errors"]) == 1


OTHER_PREFERENCES = [
    "handling=strict",
    "handling=strict, handling=lenient",
    "handling=lenientx",
    "xhandling=lenient",
    "lenient",
    "",
]


@pytest.mark.parametrize("preference", OTHER_PREFERENCES)
def test_other_preferences_change_nothing(client, preference):
    answer = client.post(batch(line(id="a\tb"), line(id="1")), BATCH, prefer=preference)
    problem(answer, 422)
    assert "preference-applied" not in answer.headers


def test_a_large_batch_is_read_in_a_thread_with_the_same_result(client):
    text = json.dumps("x" * 1_000)
    answer = client.post(batch(*(line(text, id=str(number)) for number in range(100))), BATCH)
    assert [each["id"] for each in answer.json()["events"]] == [str(number) for number in range(100)]


class Several(OpenAccess):
    """Each request says in a header which token it has; 70,000 bytes per second."""

    def __init__(self):
        self.budgets = {}
        self.clock = FixedClock(0.0)

    async def authorize(self, request):
        name = request.headers["token"]
        budget = self.budgets.setdefault(name, Budget(70_000, self.clock))
        return Grant(Token(name, ""), None, budget if name == "limited" else None)


def test_one_tokens_large_bodies_delay_those_of_another_by_one_only(sqlite_desk, monkeypatch):
    parsed, may_parse = [], threading.Semaphore(0)

    def parse(mode, headers, *arguments):
        parsed.append(headers["token"])
        assert may_parse.acquire(timeout=60)
        return read_events(mode, headers, *arguments)

    monkeypatch.setattr(posting_module, "read_events", parse)
    large = json.dumps("x" * 40_000)

    async def post(client, number, token):
        headers = {"content-type": STRUCTURED, "token": token}
        return await client.http.post(EVENTS, content=line(large, id=str(number)), headers=headers)

    async def post_all(client):
        first = [asyncio.create_task(post(client, number, "flood")) for number in range(6)]
        await until(lambda: parsed == ["flood"])
        other = asyncio.create_task(post(client, 6, "other"))
        await until(lambda: len(turns[0]._waiting) == 2)
        may_parse.release(7)
        return await asyncio.gather(other, *first)

    turns = []  # for events, and for batches
    monkeypatch.setattr(posting_module, "ParsingTurns", lambda: turns.append(ParsingTurns()) or turns[-1])

    with posting(sqlite_desk, access=Several()) as client:
        answers = client.desk.run(post_all(client))
    assert [each.status_code for each in answers] == [202] * 7
    assert parsed.index("other") <= 2
    assert parsed.count("flood") == 6


def test_a_large_event_does_not_wait_until_a_larger_batch_is_parsed(client, monkeypatch):
    parsing, may_parse = threading.Event(), threading.Event()

    def parse(mode, *arguments):
        if mode == "batch":
            parsing.set()
            assert may_parse.wait(timeout=60)
        return read_events(mode, *arguments)

    monkeypatch.setattr(posting_module, "read_events", parse)
    text = json.dumps("x" * 400_000)
    several = batch(*(line(text, id=str(number)) for number in range(3)))

    async def post_both():
        headers = {"content-type": BATCH}
        first = asyncio.create_task(client.http.post(EVENTS, content=several, headers=headers))
        await until(parsing.is_set)
        event = await client.http.post(
            EVENTS, content=line(text, id="e"), headers={"content-type": STRUCTURED}
        )
        assert not first.done()
        may_parse.set()
        return event.status_code, (await first).status_code

    assert client.desk.run(post_both()) == (202, 202)


def test_bodies_above_a_tokens_bytes_are_429_before_they_are_read(sqlite_desk):
    access = Several()

    async def chunks(size):
        yield b" " * size

    with posting(sqlite_desk, access=access) as client:
        large = f"[{line(json.dumps('x' * 100_000), id='1')}]"
        assert client.post(large, BATCH, token="limited").status_code == 202
        for content in (large, large.encode()):
            answer = client.post(content, BATCH, token="limited")
            assert (problem(answer, 429)["title"], answer.headers["retry-after"]) == (
                "Too Many Requests",
                "1",
            )
        assert client.post(chunks(2_000), BATCH, token="limited").status_code == 429
        assert client.post(line(id="2"), token="limited").status_code == 429, "a small body counts, too"
        assert client.post(large, BATCH, token="other").status_code == 202
        access.clock.advance(1)
        assert client.post(large, BATCH, token="limited").status_code == 202


# --- what is refused before it is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "https%3A%2F%2Fuser%3Apassword%40host", "Orders"])
def test_an_invalid_endpoint_name_is_not_repeated(client, name):
    assert "password" not in problem(client.post(line(), query=f"?endpoint={name}"), 422)["detail"]


def test_an_endpoint_that_was_just_added_is_known(client):
    from resonant.store.views.known_names import remember_endpoints

    problem(client.post(line(), query="?endpoint=new"), 422)
    client.desk.write(remember_endpoints, ["new"])
    assert client.post(line(), query="?endpoint=new").status_code == 202


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?endpont=orders", "no query parameter is named 'endpont': did you mean endpoint?"),
        ("?endpoint=orders&x", "no query parameter is named 'x'; known: endpoint"),
        (
            "?endpoint=orders&endpoint=billing",
            "endpoint is given twice: give one, or none and let the subscriptions decide",
        ),
    ],
)
def test_a_query_with_a_mistake_is_refused(client, query, words):
    assert problem(client.post(line(), query=query), 400)["detail"] == words


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_a_compressed_body_is_refused(client, encoding):
    answer = client.post(line(), content_encoding=encoding)
    problem(answer, 415)
    assert answer.headers["accept-encoding"] == "identity"
    twice = [("content-type", STRUCTURED), ("content-encoding", "identity"), ("content-encoding", encoding)]
    problem(client.send("POST", EVENTS, content=line(), headers=twice), 415)
    assert client.post(line(), content_encoding="identity").status_code == 202


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_that_is_too_large_is_refused_with_the_limit(sqlite_desk, is_declared):
    async def chunks():
        for _ in range(10):
            yield b" " * 100

    with posting(sqlite_desk, limits=IntakeLimits(batch_bytes=999)) as client:
        document = problem(client.post(b" " * 1_000 if is_declared else chunks(), BATCH), 413)
        assert document["limit"] == 999
        assert "999 bytes" in document["detail"]


def test_an_event_that_the_server_could_never_hold_is_too_large(sqlite_desk):
    with posting(sqlite_desk, limits=IntakeLimits(event_bytes=10_000, held_bytes=999)) as client:
        assert problem(client.post(line(json.dumps("x" * 999))), 413)["limit"] == 999


# --- who may send ---------------------------------------------------------------------------------------------------


class Restricted(OpenAccess):
    async def authorize(self, request):
        return Grant(Token("shop", "", source="/shop", type="order.*"))


def test_an_event_that_the_token_may_not_send_is_refused(sqlite_desk):
    with posting(sqlite_desk, access=Restricted()) as client:
        [error] = problem(client.post(line(type="refund")), 403)["errors"]
        assert (error["code"], error["pointer"]) == ("forbidden", "/type")
        good, bad = line(type="order.paid", id="1"), line(type="order.paid", source="/other")
        [error] = problem(client.post(batch(good, bad), BATCH), 403)["errors"]
        assert (error["index"], error["pointer"]) == (1, "/source")
        answer = client.post(batch(bad, good), BATCH, prefer="handling=lenient").json()
        assert [each["id"] for each in answer["events"]] == ["1"]
        assert [each["index"] for each in answer["errors"]] == [0]


def test_a_token_learns_no_names_of_endpoints_from_a_refusal(sqlite_desk):
    with posting(sqlite_desk, access=Restricted()) as client:
        detail = problem(client.post(line(type="order.paid"), query="?endpoint=ordesr"), 422)["detail"]
    assert detail.startswith("no endpoint is named 'ordesr'; ")
    assert "orders" not in detail


# --- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "kind"), [(line(), STRUCTURED), (batch(line()), BATCH)])
def test_while_the_store_is_unavailable_the_answer_asks_for_a_repeat(client, monkeypatch, content, kind):
    async def away(*_args, **_options):
        raise StoreUnavailable("postgresql://user@db.internal/shop: no database server answers")

    monkeypatch.setattr(client.desk.store.database, "write", away)
    answer = client.post(content, kind)
    document = problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert "db.internal" not in json.dumps(document)


def test_events_are_counted_by_outcome(client):
    client.post(line(id="1"))
    client.post(line(id="1"))
    client.post(line("2", id="1"))
    client.post(batch(line(id="2"), line(id="a\tb")), BATCH, prefer="handling=lenient")
    assert client.meters.events == {"stored": 2, "duplicate": 1, "unrouted": 0, "refused": 2}


def test_concurrent_requests_are_answered_each_with_its_own_event(desk):
    async def send(http, number):
        content = line(str(number % 7), id=str(number // 2))
        return await http.post(EVENTS, content=content, headers={"content-type": STRUCTURED})

    async def send_all(http):
        return await asyncio.gather(*(send(http, number) for number in range(300)))

    with posting(desk) as client:
        answers = desk.run(send_all(client.http))
    for number, answer in enumerate(answers):
        if answer.status_code == 202:
            assert answer.json()["events"][0]["id"] == str(number // 2)
        else:
            assert answer.status_code == 409
            assert f"id '{number // 2}'" in answer.json()["detail"]
    assert sum(answer.status_code == 202 for answer in answers) >= 150
    assert desk.status().accepted == 150


def test_a_client_that_repeats_a_locked_event_in_a_batch_does_not_hold_up_others(open_desk, postgresql_url):
    """Another producer has stored it, and does not commit. ``test_group_commit.py`` has single events."""
    desk = open_desk(postgresql_url)
    held = line(id="held")
    with posting(desk) as client:

        async def post(content, kind):
            answer = await client.http.post(EVENTS, content=content, headers={"content-type": kind})
            return answer.status_code, [each["duplicate"] for each in answer.json().get("events", [])]

        async def post_beside_it():
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(enqueue, parsed(held), "orders", now=0.0)
                repeats, posted = [], []
                for start in range(0, 60, 6):
                    content = batch(line(id="beside"), held)
                    repeats += [asyncio.create_task(post(content, BATCH)) for _ in range(2)]
                    numbers = range(start, start + 6)
                    posted += await asyncio.gather(
                        *(post(line(id=str(each)), STRUCTURED) for each in numbers)
                    )
                assert posted == [(202, [False])] * 60
                assert not any(each.done() for each in repeats)
            return await asyncio.gather(*repeats)

        first, *later = sorted(desk.run(post_beside_it()))  # one of them has stored the other event
        assert first == (202, [False, True])
        assert later == [(202, [True, True])] * 19
