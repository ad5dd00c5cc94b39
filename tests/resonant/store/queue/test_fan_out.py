"""Fan-out: events without an endpoint go to the endpoints that a naive interpreter of the subscriptions names."""

from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.store import schema
from resonant.store.shared.subscriptions import add_subscription, read_subscriptions, remove_subscriptions
from support.examples import examples
from support.routing import events, subscriptions, wanted_by
from support.sqlite import on_sqlite

few = settings(parent=settings.get_profile("fuzz-io"), max_examples=examples(60))


def replace_all(desk, new):
    """Replace all subscriptions; return those that are stored, of which some may say the same."""

    def write(connection):
        now = desk.clock()
        old = [each.id for each in read_subscriptions(connection)]
        remove_subscriptions(connection, old, who="a test", now=now)
        for each in new:
            add_subscription(connection, each, who="a test", now=now)
        return read_subscriptions(connection)

    return desk.write(write)


@on_sqlite
def test_enqueue_agrees_with_a_naive_interpreter(desk):
    @few
    @given(subscriptions, st.lists(events, min_size=1, max_size=4), subscriptions)
    def check(subscribed, given_events, later):
        stored = replace_all(desk, subscribed)
        assert len(stored) <= len(subscribed)
        wanted = [wanted_by(subscribed, event) for event in given_events]
        result = desk.run(desk.store.enqueue(given_events, allow_unrouted=True))
        assert [each.endpoints for each in result.outcomes] == wanted
        assert [each.given for each in result.unrouted] == [
            event for event, endpoints in zip(given_events, wanted, strict=True) if not endpoints
        ]
        assert result.accepted == sum(map(len, wanted))

        replace_all(desk, later)
        routed = {event.id: event for event, names in zip(given_events, wanted, strict=True) if names}
        again = desk.run(desk.store.enqueue(routed.values()))
        assert [each.endpoints for each in again.outcomes] == [names for names in wanted if names]
        assert all(each.duplicate for each in again.outcomes)
        expected.extend((each.event.id, name) for each in again.outcomes for name in each.endpoints)

    expected: list[tuple[str, str]] = []
    check()
    rows = [(row["event_id"], row["endpoint"]) for row in desk.rows(schema.deliveries)]
    assert sorted(rows) == sorted(expected)
    status = desk.status()
    assert status.balanced
    assert status.accepted == len(rows)
