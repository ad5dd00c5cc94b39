"""OAuth tokens: one request serves all senders, renewals are in time, and a lack of tokens is not the event's fault."""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.classification import classify
from resonant.delivery.retry import GiveUp, Park, RetryPolicy
from resonant.errors import EndpointError, TokenUnavailable
from resonant.events import Event, Lease
from resonant.sinks import token_use, tokens
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.oauth import OAuth
from resonant.sinks.redaction import Redactor
from resonant.sinks.reloading import ReloadingSink
from resonant.testing import Receiver, garbage, redirect, respond
from support.dispatching import dispatching, emit, enqueue, opened, rows
from support.http_sinks import EVENT
from support.oauth import CLIENT, SECRET, OAuthServer
from support.waiting import until


@dataclass
class Site:
    """A receiver of events, the token endpoint, and an open sink."""

    server: OAuthServer
    receiver: Receiver
    endpoint: Endpoint

    def __post_init__(self):
        self.sink = ReloadingSink(self.endpoint, self.read)

    async def read(self):
        return self.endpoint

    async def change(self, **fields):
        self.endpoint = replace(self.endpoint, oauth=replace(self.endpoint.oauth, **fields))
        await self.sink.look()

    async def send(self, event=EVENT):
        """Send as an attempt does; return the receipt or the failure."""
        try:
            await self.sink.prepare()
            return await self.sink.send(event)
        except Exception as error:  # noqa: BLE001 - tests inspect it
            return error

    async def failure(self):
        """Wait until two token requests have failed, and return the failure of a send."""
        await self.send()
        await until(lambda: self.source._failures)
        failures, self.source._retry_at = self.source._failures, 0.0
        await self.send()
        await until(lambda: self.source._failures > failures)
        return await self.send()

    @property
    def source(self):
        return self.use.source

    @property
    def use(self):
        return self.sink._sinks[-1]._tokens

    @property
    def authorizations(self):
        return [request.headers.get("authorization") for request in self.receiver.journal]


@asynccontextmanager
async def site(server=None, receive=None, *, script=None, **fields):
    server = server or OAuthServer()
    async with Receiver(receive or server.receive) as receiver, Receiver(script or server) as issuer:
        oauth = OAuth(**{"token_url": issuer.url, "client_id": CLIENT, "client_secret": SECRET} | fields)
        found = Site(server, receiver, Endpoint("orders", receiver.url, allow_private=True, oauth=oauth))
        yield found
        await found.sink.aclose()


def event(name):
    return Event(id=name, type="t", source="/s", data=1)


@pytest.fixture
def impatient(monkeypatch):
    """Let sends wait only briefly for a token."""
    monkeypatch.setattr(tokens, "WAIT_SECONDS", 0.05)


async def test_many_senders_share_one_request_and_its_token():
    async with site(OAuthServer(delay=0.05), scope="a b", audience="https://api") as shop:
        receipts = await asyncio.gather(*(shop.send() for _ in range(50)))
    assert {receipt.status_code for receipt in receipts} == {200}
    assert shop.server.requests == [
        {"grant_type": "client_credentials", "scope": "a b", "audience": "https://api", "by": "basic"}
    ]
    assert set(shop.authorizations) == {f"Bearer {token}" for token in shop.server.issued}


async def test_the_client_is_authenticated_in_the_body_if_the_settings_say_so():
    async with site(authentication="body") as shop:
        assert (await shop.send()).status_code == 200
    [request] = shop.server.requests
    assert request["by"] == "body"


async def test_a_token_is_renewed_before_it_expires_while_sends_go_on(monkeypatch):
    monkeypatch.setattr(tokens, "_MARGIN_SHARE", 1.0)
    monkeypatch.setattr(tokens, "_MARGIN_SECONDS", 299.8)
    async with site(OAuthServer(lifetime=300.0)) as shop, asyncio.timeout(60):
        while len(shop.server.requests) < 3:
            assert (await shop.send()).status_code == 200
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("lifetime", "margin"), [(100.0, 10.0), (3600.0, 30.0)])
async def test_the_renewal_begins_a_tenth_of_the_lifetime_or_half_a_minute_before_the_end(lifetime, margin):
    async with site(OAuthServer(lifetime=lifetime)) as shop:
        await shop.send()
        assert shop.source._expires_at - shop.source._renew_at == pytest.approx(margin)
        left = shop.source._expires_at - asyncio.get_running_loop().time()
        assert lifetime - 20 < left <= lifetime


LIFETIMES = [
    (None, 300.0),
    ("60", 60.0),
    ("soon", 300.0),
    (-5, 1.0),
    (0, 1.0),
    ("nan", 300.0),
    (float("inf"), 300.0),
    ([], 300.0),
    (1e12, 86_400.0),
]


@pytest.mark.parametrize(("given", "seconds"), LIFETIMES)
async def test_a_lifetime_that_is_missing_or_senseless_gets_a_sensible_value(given, seconds):
    members = {"access_token": "t0ken", "token_type": "bearer"} | (
        {} if given is None else {"expires_in": given}
    )
    async with site(OAuthServer(answer=(200, members)), receive=respond(200)) as shop:
        await shop.send()
        left = shop.source._expires_at - asyncio.get_running_loop().time()
        assert seconds - 20 < left <= seconds


async def test_an_old_token_is_used_until_it_expires_if_its_renewal_fails():
    async with site() as shop:
        await shop.send()
        shop.server.answer = (500, {})
        shop.source._renew_at = 0.0
        await shop.send()
        await until(lambda: shop.source.problem)
        assert (await shop.send()).status_code == 200
        assert len(set(shop.authorizations)) == 1


async def test_an_endpoint_that_refuses_every_token_loses_no_event_and_gets_fewer_and_fewer_sends(
    caplog, monkeypatch
):
    monkeypatch.setattr(tokens, "_FIRST_PAUSE", 40.0)
    async with site(receive=respond(401)) as shop:
        first = await shop.send()
        assert str(first) == "the endpoint refused the OAuth token (401): requesting a new one"
        verdict = classify(first, now=0.0)
        assert (verdict.code, verdict.blame, verdict.free_wait) == ("oauth_token", "local", 1.0)
        waits = []
        for _ in range(3):
            shop.use._paused_until = 0.0  # the pause is over
            refused = await shop.send()
            assert isinstance(refused, TokenUnavailable)
            waits.append(refused.wait)
        assert 29 <= waits[0] <= 40
        assert 44 <= waits[1] <= 60
        assert 44 <= waits[2] <= 60
        received = len(shop.receiver.journal)
        assert "no OAuth token: the server " in str(await shop.send())
        assert "gives tokens that the endpoint refuses (401)" in str(shop.sink.problem())
        assert len(shop.receiver.journal) == received, "nothing is sent during the pause"
    assert len(shop.server.requests) == 4
    logged = [record.getMessage() for record in caplog.records if record.name == token_use.__name__]
    assert logged == [
        "endpoint orders refused its token (401): requesting a new one",
        "endpoint orders refused a new token, too (401): deliveries to it wait",
    ]


async def test_an_endpoint_that_refuses_the_tokens_that_another_accepts_waits_alone(monkeypatch):
    monkeypatch.setattr(tokens, "_FIRST_PAUSE", 40.0)
    async with site() as shop, Receiver(respond(401)) as closed:
        other = replace(shop, endpoint=replace(shop.endpoint, name="other", url=closed.url))
        for _ in range(5):
            assert (await shop.send()).status_code == 200
            assert isinstance(await other.send(), TokenUnavailable)
        assert "gives tokens that the endpoint refuses (401)" in str(other.sink.problem())
        assert shop.sink.problem() is None
        await other.sink.aclose()
    assert len(closed.journal) == 2, "nothing is sent during the pause"
    assert len(shop.server.requests) == 3


async def test_the_refusals_of_an_endpoint_that_accepts_nothing_for_ten_minutes_are_judged_as_usual(
    monkeypatch,
):
    monkeypatch.setattr(tokens, "_FIRST_PAUSE", 40.0)
    async with site(receive=respond(401)) as shop:
        await shop.send()
        shop.use._refused_since -= 500
        assert isinstance(await shop.send(), TokenUnavailable)
        shop.use._refused_since -= 100
        shop.use._paused_until = 0.0  # the pause is over
        failure = await shop.send()
        assert classify(failure, now=0.0).category == "permanent"
        assert isinstance(shop.sink.problem(), TokenUnavailable), (
            "the others wait for the end of the next pause"
        )


async def test_the_ten_minutes_start_again_after_two_minutes_without_a_refusal():
    async with site(receive=respond(401)) as shop:
        await shop.send()
        shop.use._refused_since -= 3600
        shop.use._refused_at -= 120
        assert isinstance(await shop.send(), TokenUnavailable)
        assert shop.sink.problem().wait == 1.0
        assert "has not answered yet" in str(shop.sink.problem()), "a new token is requested at once"


async def test_refused_events_wait_longer_and_longer_while_others_are_accepted():
    async with site(
        receive=lambda request: respond(401 if "refused" in request.headers["ce-id"] else 200)
    ) as shop:

        async def refusal(seconds):
            """Return the failure of an event that is refused, while others are accepted, so long after the first refusal."""
            assert (await shop.send(event("other"))).status_code == 200
            shop.use._refused_since -= seconds
            return await shop.send(event(f"refused-{seconds}"))

        now = asyncio.get_running_loop().time
        began_at = now()
        waits = [(await refusal(seconds)).wait for seconds in (0.0, 0.0, 10.0, 30.0, 500.0)]
        took = now() - began_at
        for wait, least in zip(waits, (1.0, 1.0, 10.0, 40.0, 60.0), strict=True):
            assert least <= wait <= least + took
        for _ in range(2):
            assert classify(await refusal(60.0), now=0.0).category == "permanent"
        assert (await shop.send(event("other"))).status_code == 200
    assert len(shop.server.requests) == 2, "the token is valid, so it is not renewed for each refusal"


async def test_any_number_of_refused_events_becomes_dead_letters_while_others_are_delivered(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(token_use, "_LATEST_SECONDS", 0.5)
    async with (
        opened(f"sqlite:///{tmp_path / 'r.db'}") as store,
        site(receive=lambda request: respond(401 if request.headers["ce-id"] in refused else 200)) as shop,
        dispatching(store, None, open_destination=lambda _name: opening(shop)) as dispatcher,
        asyncio.timeout(60),
    ):
        refused = await enqueue(store, 20)
        await enqueue(store, 20)
        await emit(dispatcher)
        status = await store.status()
        assert (status.delivered, status.dead_letter) == (20, 20)
    ended = rows(tmp_path, "SELECT code, category FROM resonant_attempts WHERE decision = 'give_up'")
    assert set(ended) == {("http_401", "permanent")}
    assert len(ended) == 20


async def test_two_revocations_of_tokens_in_a_minute_lose_no_event():
    async with site() as shop:
        for _ in range(2):
            assert (await shop.send(event("first"))).status_code == 200
            shop.server.issued.clear()
            refused = await asyncio.gather(*(shop.send(event(f"e{each}")) for each in range(20)))
            assert Counter(type(each) for each in refused) == {TokenUnavailable: 20}
            shop.use._paused_until = 0.0
        sent = [await shop.send(event(f"e{each}")) for each in range(20)]
        assert {each.status_code for each in sent} == {200}


BIG = (200, b'{"access_token": "' + b"x" * 65536 + b'"}')


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (
            {"secret": "another"},
            "answered 401: invalid_client: wrong ***: check the client id and the client secret",
        ),
        ({"answer": (400, {"error": "invalid_scope"})}, "answered 400: invalid_scope"),
        ({"answer": (503, b"<html>")}, "answered 503"),
        ({"answer": (200, {})}, "answered without an access_token of printable ASCII"),
        ({"answer": (200, [1])}, "answered without an access_token of printable ASCII"),
        (
            {"answer": (200, {"access_token": "a\r\nb"})},
            "answered without an access_token of printable ASCII",
        ),
        (
            {"answer": (200, {"access_token": "t0ken", "token_type": "mac"})},
            "answered with a token of type 'mac', not bearer",
        ),
        ({"answer": BIG}, "answered with 64 KiB or more"),
        ({"script": redirect("/other")}, "answered 302: redirects are not followed"),
        ({"script": garbage()}, "BadStatusLine"),
    ],
)
async def test_a_problem_of_the_token_endpoint_is_one_line_without_secrets(
    impatient, caplog, server, problem
):
    server = dict(server)
    script = server.pop("script", None)
    async with site(OAuthServer(**server), script=script) as shop:
        failure = await shop.failure()
        assert isinstance(failure, TokenUnavailable)
        assert shop.source._failures > 1
        said = shop.sink.describe(failure)
        assert problem in said
        assert shop.endpoint.oauth.token_url in said
        assert str(shop.sink.problem()) == str(failure)
        assert not [record for record in caplog.records if SECRET in record.getMessage()]
    assert shop.receiver.journal == []
    [logged] = [record for record in caplog.records if record.name == tokens.__name__]
    assert logged.getMessage() == f"endpoint orders: {failure}"
    assert "\n" not in said
    assert SECRET not in said


async def test_a_token_endpoint_that_is_down_or_does_not_answer_is_a_problem_too(impatient, monkeypatch):
    async with site(token_url="http://127.0.0.1:1") as shop:
        assert "no answer from the server http://127.0.0.1:1: " in str(await shop.failure())
    monkeypatch.setattr(tokens, "REQUEST_SECONDS", 0.01)
    async with site(OAuthServer(delay=1.0)) as shop:
        assert "did not answer within 0.01 s" in str(await shop.failure())


async def test_the_address_guard_holds_for_the_token_endpoint(impatient):
    async with site() as shop:
        port = shop.endpoint.oauth.token_url.rpartition(":")[2]
        oauth = replace(shop.endpoint.oauth, token_url=f"http://localhost:{port}")
        shop.sink = ReloadingSink(Endpoint("orders", "https://example.com", oauth=oauth), shop.read)
        assert "private or special address" in str(await shop.failure())
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1 is a private"):
            replace(shop.endpoint, url="https://example.com", allow_private=False)
    assert shop.server.requests == []


async def test_a_changed_client_secret_is_used_from_the_next_send_on(impatient):
    async with site(OAuthServer(secret="new s3cret")) as shop:
        assert isinstance(await shop.send(), TokenUnavailable)
        await shop.change(client_secret="new s3cret")
        await until(lambda: is_delivered(shop))


async def test_nothing_is_sent_without_a_token_if_the_settings_change_between_the_wait_and_the_send():
    async with site() as shop:
        await shop.sink.prepare()
        await shop.change(scope="another")
        with pytest.raises(TokenUnavailable, match="has not answered yet"):
            await shop.sink.send(EVENT)
        assert shop.receiver.journal == []
        assert (await shop.send()).status_code == 200


async def is_delivered(shop):
    return not isinstance(await shop.send(), Exception)


async def test_no_answer_and_no_error_keeps_a_token():
    def echo(request):
        return respond(500, body=f"you sent {request.headers['authorization'].split()[1]}".encode())

    async with site(receive=echo) as shop:
        failure = await shop.send()
        [token] = shop.server.issued
        assert failure.excerpt == "you sent ***"
        assert shop.sink.describe(ValueError(token)) == "ValueError: ***"


def test_no_error_keeps_a_client_secret_or_the_query_of_a_token_url():
    oauth = OAuth("https://auth.example.com/token?v=2&key=qu3ry%2F1", CLIENT, SECRET)
    assert SECRET not in repr(oauth)
    assert "qu3ry" not in repr(oauth)
    redactor = Redactor.of(Endpoint("orders", "https://example.com", oauth=oauth))
    assert redactor.line(f"{SECRET} {oauth.basic}") == "*** ***"
    assert (
        redactor.line(f"POST {oauth.token_url} or qu3ry/1")
        == "POST https://auth.example.com/token?*** or ***"
    )


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": "https://u:pass@example.com"}, "it has OAuth settings, and also an Authorization header"),
        ({"headers": {"authorization": "x"}}, "it has OAuth settings, and also an Authorization header"),
        ({"token_url": "auth.example.com"}, "its OAuth token URL must begin with http:// or https://"),
        ({"token_url": "https://u:p@auth.example.com"}, "its OAuth token URL must have no user"),
        ({"token_url": "https://10.0.0.1"}, "10.0.0.1 is a private"),
    ],
)
def test_unusable_oauth_settings_are_refused(fields, problem):
    oauth = OAuth(fields.pop("token_url", "https://auth.example.com"), CLIENT, SECRET)
    with pytest.raises(EndpointError, match=problem):
        Endpoint("orders", **{"url": "https://example.com"} | fields, oauth=oauth)


@pytest.mark.parametrize("missing", ["token_url", "client_id", "client_secret"])
def test_oauth_settings_that_are_incomplete_are_refused(missing):
    given = {"token_url": "https://auth.example.com", "client_id": CLIENT, "client_secret": SECRET}
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        OAuth(**given | {missing: ""})


# --- attempts -------------------------------------------------------------------------------------------------------


def destination(shop):
    sink = shop.sink
    return Destination(
        "orders",
        sink,
        sink.describe,
        sink.aclose,
        timeout=15.0,
        prepare=sink.prepare,
        problem=sink.problem,
    )


@pytest.mark.parametrize(("age", "decision"), [(0.0, Park), (3600.0, GiveUp)])
async def test_an_attempt_without_a_token_is_local_and_not_counted_until_the_round_ends(age, decision):
    async with site(OAuthServer(answer=(500, {}))) as shop:
        runner = AttemptRunner(clock=lambda: 5000.0, rng=random.Random(1))
        policy = RetryPolicy(max_attempts=1, max_age=3600.0)
        lease = Lease(0, 0, "x", EVENT, "orders", round_started_at=5000.0 - age, accepted_at=0.0)
        runner = replace(runner, policy=lambda _: policy)
        outcome = await runner.attempt(lease, destination(shop))
    assert isinstance(outcome.decision, decision)
    attempt = outcome.attempt
    assert (attempt.code, attempt.blame, attempt.category) == ("oauth_token", "local", "transient")
    if decision is Park:
        assert not outcome.decision.charged
        assert attempt.early


async def test_nothing_is_lost_with_short_tokens_and_an_unreliable_token_endpoint(
    tmp_path,
):
    luck = random.Random(3)
    server = OAuthServer(lifetime=2.0, fails=lambda _number: luck.random() < 1 / 3)
    ids = []
    async with (
        opened(f"sqlite:///{tmp_path / 'r.db'}") as store,
        site(server) as shop,
        dispatching(store, None, open_destination=lambda _name: opening(shop)) as dispatcher,
        asyncio.timeout(60),
    ):
        began = asyncio.get_running_loop().time()
        status = await store.status()
        while len(server.issued) < 3 or status.delivered < len(ids):
            if len(server.issued) < 3:
                ids += await enqueue(store, 10)
            await emit(dispatcher)
            await asyncio.sleep(0.02)
            status = await store.status()
        took = asyncio.get_running_loop().time() - began
    assert (status.delivered, status.dead_letter) == (len(ids), 0)
    accepted = Counter(each.webhook_id for each in shop.receiver.journal if each.status == 200)
    assert set(accepted.values()) == {1}
    assert len(server.requests) < 3 * took + 3, "no more than a few for each lifetime"


async def opening(shop):
    return destination(shop)
