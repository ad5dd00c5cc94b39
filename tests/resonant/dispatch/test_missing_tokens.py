"""An endpoint without a token gets no attempt, no task run and no claim, until it has one."""

import asyncio

import pytest

from resonant.dispatch.held import say_problems
from resonant.dispatch.limits import Limits
from resonant.errors import TokenUnavailable
from resonant.sinks.base import CallableSink
from resonant.store.views import endpoint_problems
from support.dispatching import START, at_work, deliveries, rows, scene, sink_target
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane", "quick_look")

REASON = "no OAuth token: the server https://auth.example.com answered 503"


@pytest.fixture(autouse=True)
def quick_open(monkeypatch):
    """Let looks wait only briefly for endpoints."""
    monkeypatch.setattr("resonant.dispatch.endpoints._OPEN_SECONDS", 0.01)


class Tokens:
    """The tokens of an endpoint; the server that gives them may be down. If ``lasts`` is 1, the first send uses up a token."""

    def __init__(self, *, wait=0.02, is_down=True, lasts=None):
        self.wait, self.is_down, self.lasts = wait, is_down, lasts
        self.is_missing, self.requests, self.sent = True, 0, 0

    def problem(self):
        return TokenUnavailable(REASON, self.wait) if self.is_missing else None

    async def prepare(self):
        if self.is_missing:
            self.requests += 1
            if self.is_down:
                raise self.problem()
            self.is_missing = False

    async def send(self, _event):
        if self.is_missing:
            raise self.problem()
        self.sent += 1
        await asyncio.sleep(0.01)
        if self.sent == self.lasts:
            self.is_missing = self.is_down = True

    @property
    def target(self):
        return sink_target("orders", CallableSink(self.send), prepare=self.prepare, problem=self.problem)


def problems(path):
    return rows(path, "SELECT endpoint, reason, since FROM resonant_endpoint_problems")


async def test_nothing_is_claimed_until_there_is_a_token_and_then_everything_is_delivered(tmp_path):
    tokens = Tokens()
    async with scene(tmp_path, orders=tokens.target, limits=Limits(run_for=60), due=20) as worker:
        claims = worker.count_claims()
        async with worker.running():
            await until(lambda: tokens.requests >= 10)
            assert not claims
            assert set(deliveries(tmp_path, "status, attempts, lease_token")) == {("pending", 0, 0)}
            assert problems(tmp_path) == [("orders", REASON, START)]
            tokens.is_down = False
            await until(lambda: worker.counts.delivered == 20)
            assert problems(tmp_path) == []
    assert worker.counts.attempts == tokens.sent == 20


@pytest.mark.parametrize("lasts", [1, 2, 5, 11])
async def test_claimed_deliveries_are_given_back_without_an_attempt_if_the_token_is_lost(tmp_path, lasts):
    tokens = Tokens(is_down=False, lasts=lasts)
    limits = Limits(run_for=60, endpoint_concurrency=1)
    async with at_work(tmp_path, orders=tokens.target, limits=limits, due=20) as (worker, _):
        await until(lambda: tokens.requests >= 5)
        await until(lambda: set(deliveries(tmp_path, "lease_owner")) == {(None,)})
        assert worker.counts.attempts == tokens.sent == lasts
        assert lasts > 1 or len(worker.outcomes) <= 1
        assert len(worker.chunks) <= 1 + lasts, "no chunk begins without a token; one may wait for a slot"
        tokens.is_down = False
        await until(lambda: worker.counts.delivered == 20)
    assert worker.counts.attempts == tokens.sent == 20


async def test_a_run_ends_if_the_next_request_for_a_token_is_due_much_later(tmp_path):
    tokens = Tokens(wait=40.0)
    async with scene(tmp_path, orders=tokens.target, due=20) as worker:
        assert (await worker.run()).delivered == 0
        assert worker.dispatcher.problems == {"orders": REASON}
        await worker.run()
        assert tokens.requests == 1, "another run of the same process does not ask earlier"
    assert problems(tmp_path) == [("orders", REASON, START)]
    tokens.is_down = False
    async with scene(tmp_path, orders=tokens.target) as later:
        assert (await later.run()).delivered == 20
    assert tokens.requests == 2
    assert problems(tmp_path) == []


async def test_the_problems_of_endpoints_with_the_same_tokens_end_in_one_transaction(tmp_path, monkeypatch):
    cleared, clear = [], endpoint_problems.clear_problems
    monkeypatch.setattr(
        endpoint_problems, "clear_problems", lambda *args: [cleared.append(args[1]), clear(*args)]
    )
    tokens = Tokens(wait=40.0)
    sinks, due = dict.fromkeys(("orders", "shop"), tokens.target), {"orders": 1, "shop": 1}
    async with scene(tmp_path, sinks=sinks, due=due) as worker:
        await worker.run()
        assert [each[0] for each in problems(tmp_path)] == ["orders", "shop"]
        tokens.is_missing = False  # another endpoint with the same settings has got one
        assert (await worker.run()).delivered == 2
        assert worker.dispatcher.problems == {}
    assert [sorted(names) for names in cleared] == [["orders", "shop"]]


async def test_a_paused_endpoint_asks_for_no_token(tmp_path):
    tokens = Tokens()
    async with scene(tmp_path, orders=tokens.target, due=1, gate={"state": "paused"}) as worker:
        for _ in range(2):
            await worker.run()
    assert tokens.requests == 0


def test_a_run_names_at_most_five_endpoints_that_wait():
    lines = say_problems({f"shop-{number}": REASON for number in range(7)})
    assert lines[0] == f"deliveries to shop-0 wait: {REASON}"
    assert lines[5:] == ["2 more endpoints wait: `resonant status`"]
