"""Long operations go in short steps."""

from itertools import chain

import pytest
from sqlalchemy import func, select

from resonant.dead_letters import bodies, purge, replay, walking
from resonant.dead_letters.purge import Chosen, Retention, find_oldest, purgeable
from resonant.dead_letters.replay import ReplayRequest
from resonant.dead_letters.walking import each_range, next_size
from resonant.store import schema
from resonant.store.views.selection import Selection
from support.desk import take
from support.sqlite import on_sqlite, write_transactions


@pytest.mark.parametrize(
    ("size", "seconds", "following"),
    [(100, 0.6, 50), (100, 0.0, 200), (4_000, 0.001, 5_000), (5_000, 0.1, 2_000)],
)
def test_the_size_of_a_transaction_follows_the_duration_of_the_last_one(size, seconds, following):
    assert next_size(size, seconds) == following


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """A search reads ten rows, and a transaction changes twenty."""
    for module in (walking, purge, replay):
        monkeypatch.setattr(module, "SEARCHED", 10)
    monkeypatch.setattr(walking, "_FIRST", 20)


def test_a_search_reads_a_bounded_number_of_events_at_a_time_and_all_that_were_stored_at_its_start(desk):
    desk.bury(*(f"evt_{number:02}" for number in range(35)))
    desk.purge(Chosen(Selection(ids=tuple(f"evt_{number:02}" for number in range(11, 20)))))
    found = []

    def search(connection, keys):
        query = select(schema.events.c.id).where(keys.has(schema.events.c.key))
        return list(connection.execute(query.order_by(schema.events.c.key)).scalars())

    async def walk():
        async for ids in each_range(desk.store, search):
            found.append(ids)
            await desk.store.enqueue(desk.make(f"evt_new_{len(found)}"), "orders")

    desk.run(walk())
    assert [len(ids) for ids in found] == [10, 10, 6]
    expected = [f"evt_{number:02}" for number in range(35) if not 11 <= number < 20]
    assert [*chain(*found)] == expected


def test_a_purge_whose_rule_skips_many_dead_letters_searches_a_bounded_number_at_a_time(desk):
    desk.bury(*(f"evt_{number}" for number in range(24)))
    desk.bury("evt_other", endpoint="audit")
    rule = [*purgeable("dead_letter", finished_before=desk.clock()), schema.deliveries.c.endpoint == "audit"]
    last, found = None, []
    for _ in range(3):
        positions, last = desk.read(find_oldest, rule, limit=5, after=last)
        found.append(len(positions))
    assert (found, last) == ([0, 0, 1], None)
    assert desk.purge(Retention(1000, by_endpoint={"audit": 0})) == 1


@on_sqlite
def test_a_replay_that_skips_many_dead_letters_does_not_search_under_the_write_lock(desk):
    desk.bury(*(f"evt_{number}" for number in range(25)))
    desk.clock.advance(1)
    with write_transactions("begin") as begun:
        assert desk.run(take(desk, ReplayRequest(Selection(source="/crm")))) == []
    assert len(begun) == 2, "only the audit is written"


def test_a_replay_takes_each_of_many_dead_letters_once(desk):
    desk.bury(*(f"evt_{number}" for number in range(25)))
    desk.bury("evt_other", endpoint="audit")
    desk.clock.advance(1)
    assert desk.run(take(desk, ReplayRequest(Selection(endpoint="audit")))) == ["evt_other"]
    taken = desk.run(take(desk, ReplayRequest(Selection(endpoint="orders"), include_permanent=True)))
    assert sorted(taken) == sorted(f"evt_{number}" for number in range(25))


def test_a_retention_of_bodies_that_was_killed_is_finished_by_the_next_one(desk, monkeypatch):
    desk.enqueue(*(desk.make(f"evt_{number}", "x") for number in range(35)))
    desk.deliver(*desk.claim(35))
    remove, calls = bodies._remove, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 3:
            raise Killed
        return remove(*given)

    def retain():
        return desk.run(bodies.remove_bodies(desk.store, delivered_before=desk.clock()))

    with monkeypatch.context() as patched:
        patched.setattr(bodies, "_remove", killed)
        with pytest.raises(Killed):
            retain()
    with_body = select(func.count()).where(schema.events.c.form.is_(None))
    assert desk.read(lambda connection: connection.execute(with_body).scalar_one()) == 15
    assert desk.run(bodies.count_bodies(desk.store, delivered_before=desk.clock())) == 15
    assert (retain(), retain()) == (15, 0)
