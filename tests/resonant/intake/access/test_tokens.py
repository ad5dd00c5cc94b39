"""Who may send, and what: tokens, their scopes and rates."""

import asyncio
import hmac
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from resonant.events import Event
from resonant.intake.access import token_changes
from resonant.intake.access.tokens import Budget, Grant, OpenAccess, TokenAccess
from resonant.intake.problems import Problem
from resonant.store.shared.tokens import Token, read_tokens, valid_tokens
from resonant.testing import FixedClock

NO_TOKEN = "rsn_" + "a" * 32


def request(*authorization: str, query: str = "") -> Request:
    headers = [(b"authorization", value.encode("latin-1")) for value in authorization]
    return Request({"type": "http", "headers": headers, "query_string": query.encode()})


class Door:
    """A server's access to one store, and the commands that change its tokens."""

    def __init__(self, desk):
        self.desk = desk
        self.clock = FixedClock(1_000.0)
        self.access = TokenAccess(desk.store, clock=self.clock)

    def create(self, name="shop", **scopes):
        return self.desk.write(token_changes.create, name, who="a test", now=self.desk.clock(), **scopes)

    def revoke(self, name="shop"):
        return self.desk.write(token_changes.revoke, name, who="a test", now=self.desk.clock())

    def authorize(self, text, access=None) -> Grant:
        return self.desk.run((access or self.access).authorize(request(f"Bearer {text}")))

    def refusal(self, *authorization, query="") -> Problem:
        with pytest.raises(Problem) as caught:
            self.desk.run(self.access.authorize(request(*authorization, query=query)))
        return caught.value

    def counted_reads(self, monkeypatch):
        """Return a list that gets an entry for each query of the tokens."""
        reads = []
        read = self.desk.store.read

        async def counted(operation, *args, **kwargs):
            reads.append(operation)
            return await read(operation, *args, **kwargs)

        monkeypatch.setattr(self.desk.store, "read", counted)
        return reads


@pytest.fixture
def door(sqlite_desk):
    return Door(sqlite_desk)


def test_a_token_is_long_random_text_of_which_the_store_keeps_a_digest_only(door):
    texts = {door.create(name) for name in ("a", "b", "c")}

    assert len(texts) == 3
    assert all(len(text) == 36 and text.startswith("rsn_") and text.isalnum() is False for text in texts)
    stored = str(door.desk.read(read_tokens))
    assert not any(text.removeprefix("rsn_") in stored for text in texts)


def test_a_token_is_accepted_with_any_spelling_of_the_scheme(door):
    text = door.create()

    for scheme in ("Bearer", "bearer", "BEARER"):
        assert door.desk.run(door.access.authorize(request(f"{scheme} {text}"))).name == "shop"


AUTHORIZATIONS = [
    (),
    ("",),
    ("Bearer",),
    ("Bearer ",),
    ("Basic {}",),
    ("{}",),
    ("Bearer {}", "Bearer {}"),
    ("Bearer {} x",),
    (f"Bearer {NO_TOKEN}",),
]


@pytest.mark.parametrize("authorization", AUTHORIZATIONS)
def test_a_request_without_exactly_one_valid_token_is_401_and_its_text_is_not_repeated(door, authorization):
    text = door.create()

    problem = door.refusal(*(each.format(text) for each in authorization))

    assert problem.status == 401
    assert problem.headers["WWW-Authenticate"].startswith("Bearer")
    assert not any(each in f"{problem.detail}{problem.headers}" for each in (text, NO_TOKEN))


@pytest.mark.parametrize("query", ["access_token={}", "token={}", "{}", "a=1&key={}", "%72sn_x", "k:{}=1"])
def test_a_token_in_the_query_is_refused_even_beside_a_valid_one(door, query):
    text = door.create()

    problem = door.refusal(f"Bearer {text}", query=query.format(text))

    assert problem.status == 400
    assert text not in problem.detail
    with pytest.raises(Problem, match="in the query"):
        door.desk.run(OpenAccess().authorize(request(query=query.format(text))))


def test_a_new_token_works_at_once_even_after_requests_with_wrong_ones(door):
    door.refusal(f"Bearer {NO_TOKEN}")

    assert door.authorize(door.create()).name == "shop"


def test_a_revoked_token_works_for_at_most_a_second(door):
    text = door.create()
    door.authorize(text)
    door.revoke()
    door.clock.advance(1.1)

    unknown, revoked = door.refusal(f"Bearer {NO_TOKEN}"), door.refusal(f"Bearer {text}")

    assert vars(revoked) == vars(unknown)


def test_a_second_valid_token_of_a_name_is_refused_and_one_after_the_revocation_is_another(door):
    first = door.create()
    assert door.create() is None
    assert door.revoke()
    second = door.create()

    assert door.authorize(second).name == "shop"
    assert door.refusal(f"Bearer {first}").status == 401
    assert not door.revoke("crm")


def test_requests_with_a_known_token_read_the_tokens_once_a_second(door, monkeypatch):
    text = door.create()
    reads = door.counted_reads(monkeypatch)

    for _ in range(30):
        door.authorize(text)
        door.clock.advance(0.1)

    assert reads == [valid_tokens] * 3


def test_a_flood_of_wrong_tokens_reads_the_tokens_ten_times_a_second(door, monkeypatch):
    text = door.create()
    access = TokenAccess(door.desk.store)
    reads = door.counted_reads(monkeypatch)

    async def flood():
        wrong = [access.authorize(request(f"Bearer rsn_{number}")) for number in range(500)]
        good = access.authorize(request(f"Bearer {text}"))
        return await asyncio.gather(*wrong, good, return_exceptions=True)

    answers = door.desk.run(flood())

    assert [each.status for each in answers[:-1]] == [401] * 500
    assert answers[-1].name == "shop"
    assert len(reads) <= 2


def test_every_token_is_looked_up_by_its_digest_and_compared_in_constant_time(door, monkeypatch):
    """A test of durations would be flaky: this one checks that known beginnings take the same path as unknown ones."""
    text = door.create()
    door.authorize(text)
    looked_up, compared = [], []

    class Watched(dict):
        def get(self, key):
            looked_up.append(key)
            return super().get(key)

    tokens = Watched(door.desk.read(valid_tokens))
    monkeypatch.setattr(door.access._tokens, "_since", lambda _: asyncio.sleep(0, tokens))
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))

    door.authorize(text)
    for wrong in (text[:-1] + "!", text[:20], text[:-1] + "!" * 99, NO_TOKEN):
        assert door.refusal(f"Bearer {wrong}").status == 401

    [known] = tokens
    assert compared == [(known, known)]
    assert [len(each) for each in looked_up] == [64] * 5
    assert len(set(looked_up)) == 5


def test_the_last_use_is_recorded_in_the_background_once_a_minute(door):
    text = door.create()
    began = door.desk.clock()

    async def use_and_wait():
        await door.access.authorize(request(f"Bearer {text}"))
        writes = len(door.access._notes)
        await asyncio.gather(*door.access._notes)
        return writes

    writes = []
    for _ in range(4):
        writes.append(door.desk.run(use_and_wait()))
        door.desk.clock.advance(30)

    assert writes == [1, 0, 1, 0]
    [token] = door.desk.read(read_tokens)
    assert token.last_used_at == began + 60


def test_a_token_without_scopes_may_send_everything_and_read_nothing(door):
    grant = door.authorize(door.create())

    assert grant.refusal(Event(type="t", source="/s", data=1), 0) is None
    assert [grant.endpoint(asked) for asked in (None, "billing")] == [None, "billing"]
    with pytest.raises(Problem, match="--read") as caught:
        grant.require_read()
    assert caught.value.status == 403
    assert "insufficient_scope" in caught.value.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("scopes", "pointer"),
    [
        ({"source": "/shop/*"}, None),
        ({"source": "/shop"}, "/source"),
        ({"type": "order.*", "source": "/*"}, None),
        ({"type": "order.?"}, "/type"),
        ({"type": "ORDER.*"}, "/type"),
        ({"source": "/crm", "type": "x"}, "/source"),
    ],
)
def test_a_token_may_only_send_events_of_its_source_and_type(door, scopes, pointer):
    grant = door.authorize(door.create(**scopes))
    refusal = grant.refusal(Event(type="order.paid", source="/shop/eu", data=1), 7)

    assert (refusal and (refusal.index, refusal.pointer, refusal.code)) == (
        pointer and (7, pointer, "forbidden")
    )


INSIDE = ["/shop/eu", "/shop/a..b/.well-known", "/shop/eu?path=/../x#/..", "/shop/a;..x/b", "/shop/100%25/eu"]
OUTSIDE = [
    "/shop/../crm",
    "/shop/..",
    "/shop/./eu",
    "/shop/%2e%2e/crm",
    "/shop/.%2E/crm",
    "/shop/..%2Fcrm",
    "/shop/..\\crm",
    "/shop/%252e%252e/crm",
    "/shop/%25252e%25252e%25252fcrm",
    "/shop/..;x/crm",
]
OUTSIDE += [
    "/shop/%2e%2e%3bx=1/crm",
    "/shop/..%00/crm",
    "/shop/..%3fx",
    "/shop/..%2523x",
    "/shop/..%3fx?%2e%2e",
]


@pytest.mark.parametrize("source", INSIDE + OUTSIDE)
def test_a_source_with_dot_segments_is_outside_every_scope(door, source):
    is_covered = source in INSIDE
    grant = door.authorize(door.create(source="/shop/*", can_read=True))
    event = Event(type="t", source=source, data=1)
    refusal = grant.refusal(event, 0)
    assert (refusal is None) == is_covered
    assert refusal is None or (refusal.code, ". and .." in refusal.detail) == ("forbidden", True)
    assert grant.may_see(SimpleNamespace(source=source, event_type="t", endpoint="billing")) == is_covered

    everything = door.authorize(door.create("all", type="*"))
    assert everything.refusal(event, 0) is None


def test_a_token_for_an_endpoint_sends_to_it_alone(door):
    grant = door.authorize(door.create(endpoint="billing"))

    assert [grant.endpoint(asked) for asked in (None, "billing")] == ["billing", "billing"]
    with pytest.raises(Problem, match="only send to the endpoint billing") as caught:
        grant.endpoint("crm")
    assert caught.value.status == 403


def test_a_token_with_read_may_read_and_without_tokens_everything_is_allowed(door):
    door.authorize(door.create(can_read=True)).require_read()
    grant = door.desk.run(OpenAccess().authorize(request("Bearer x")))

    grant.require_read()
    grant.charge(10_000)
    assert grant.refusal(Event(type="t", source="/s", data=1), 0) is None
    assert grant.endpoint("billing") == "billing"


def test_above_its_rate_a_token_gets_429_until_the_next_event_is_due(door):
    text = door.create(rate=2.0)
    door.authorize(text)
    door.authorize(text)
    problem = door.refusal(f"Bearer {text}")
    assert (problem.status, problem.headers) == (429, {"Retry-After": "1"})

    door.clock.advance(0.5)
    door.authorize(text)
    assert door.refusal(f"Bearer {text}").status == 429


def test_the_bytes_of_a_token_have_a_rate_of_their_own(door):
    access = TokenAccess(door.desk.store, bytes_rate=1_000.0, clock=door.clock)
    shop, crm = door.create("shop"), door.create("crm")
    door.authorize(shop, access).charge_bytes(3_000)
    with pytest.raises(Problem, match=r"1,000 bytes per second: try again in 3 s") as caught:
        door.authorize(shop, access).charge_bytes(1)
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "3"})
    door.authorize(crm, access).charge_bytes(1)
    door.clock.advance(3)
    door.authorize(shop, access).charge_bytes(1)
    door.authorize(shop).charge_bytes(10**9)  # an access without a limit


def test_a_batch_above_the_rate_delays_later_requests():
    clock = FixedClock(0.0)
    grant = Grant(Token("shop", "d"), Budget(10.0, clock))
    grant.budget.take()
    grant.charge(100)

    with pytest.raises(Problem) as caught:
        grant.budget.take()
    assert caught.value.headers == {"Retry-After": "10"}
    clock.advance(10.0)
    grant.budget.take()


def test_a_slow_rate_allows_its_first_event_and_an_idle_hour_saves_up_one_second():
    clock = FixedClock(0.0)
    slow, fast = Budget(0.1, clock), Budget(5.0, clock)
    slow.take()
    with pytest.raises(Problem, match="try again in 10 s"):
        slow.take()

    clock.advance(3_600)
    for _ in range(5):
        fast.take()
    with pytest.raises(Problem):
        fast.take()
