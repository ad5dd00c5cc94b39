"""The router: it agrees with a naive interpreter, says why not, and is fast."""

import time

import pytest
from hypothesis import given, settings

from resonant.events import Event
from resonant.routing import Router, new_subscription
from support import routing as generated

fuzzed = settings.get_profile("fuzz")


@fuzzed
@given(generated.subscriptions, generated.events)
def test_the_router_agrees_with_a_naive_interpreter(subscriptions, event):
    router = Router(subscriptions)
    wanted = generated.wanted_by(subscriptions, event)
    assert router.endpoints(event) == wanted
    explained = router.explain(event)
    assert [subscription for subscription, _ in explained] == subscriptions
    assert {subscription.endpoint for subscription, why_not in explained if why_not is None} == set(wanted)


def test_two_subscriptions_of_one_endpoint_name_it_once():
    router = Router([new_subscription("shop", {"types": [glob]}) for glob in ("order.*", "*.paid")])
    assert router.endpoints(Event(type="order.paid", source="/s")) == ("shop",)


@pytest.mark.parametrize(
    ("types", "why_not"),
    [
        (["resonant.*"], None),
        (["order.*", "resonant.endpoint.paused"], None),
        ([], "a glob that begins with 'resonant.'"),
        (["*"], "a glob that begins with 'resonant.'"),
        (["*.paused", "resonant.alert.*"], "'resonant.alert.*'"),
    ],
)
def test_own_events_match_only_globs_that_name_them(types, why_not):
    event = Event(type="resonant.endpoint.paused", source="/resonant")
    router = Router([new_subscription("chat", {"types": types})])
    assert router.endpoints(event) == (("chat",) if why_not is None else ())
    assert router.may_want(event.type) == (why_not is None)
    [(_, found)] = router.explain(event)
    assert found == (why_not and f"type 'resonant.endpoint.paused' does not match {why_not}")


def test_filters_do_not_see_the_data():
    router = Router([new_subscription("shop", {"filters": {"exact": {"subject": "a"}}})])
    assert router.endpoints(Event(type="t", source="/s", data={"subject": "a"})) == ()


@pytest.mark.parametrize(
    ("terms", "why_not"),
    [
        ({"types": ["order.paid"]}, None),
        ({"types": ["order"]}, "type 'order.paid' does not match 'order'"),
        ({"types": ["a", "b.*"]}, "type 'order.paid' does not match 'a' or 'b.*'"),
        ({"types": ["a"], "source": "b"}, "type 'order.paid' does not match 'a'"),
        ({"source": "/crm*"}, "source '/shop' does not match '/crm*'"),
        ({"filters": {"exact": {"subject": "x"}}}, "subject '42' is not 'x'"),
        ({"filters": {"prefix": {"subject": "x"}}}, "subject '42' does not start with 'x'"),
        ({"filters": {"suffix": {"subject": "x"}}}, "subject '42' does not end with 'x'"),
        ({"filters": {"exact": {"tenant": "x"}}}, "the event has no tenant"),
        ({"filters": {"exact": {"type": "order.paid", "subject": "x"}}}, "subject '42' is not 'x'"),
        ({"filters": [{"all": [{"exact": {"vip": "true"}}, {"exact": {"n": "1"}}]}]}, "n '12' is not '1'"),
        (
            {"filters": {"any": [{"exact": {"n": "1"}}, {"exact": {"n": "2"}}]}},
            'no filter of any is true: [{"exact":{"n":"1"}},{"exact":{"n":"2"}}]',
        ),
        (
            {"filters": {"not": {"exact": {"subject": "42"}}}},
            'the filter of not is true: {"exact":{"subject":"42"}}',
        ),
    ],
)
def test_the_first_condition_that_is_false_is_named(terms, why_not):
    event = Event(type="order.paid", source="/shop", subject="42", extensions={"vip": True, "n": 12})
    [(_, found)] = Router([new_subscription("shop", terms)]).explain(event)
    assert found == why_not


def test_two_thousand_events_and_a_hundred_subscriptions_take_little_time():
    filters = [{"not": {"prefix": {"subject": "3"}}}]
    subscriptions = [
        new_subscription(
            f"e{index}",
            {"types": ["order.*"], "filters": [{"exact": {"tenant": str(index % 5)}}, *filters]},
        )
        for index in range(100)
    ]
    events = [
        Event(type="order.paid", source="/s", subject=str(n % 7), extensions={"tenant": str(n % 5)})
        for n in range(2_000)
    ]
    router, began_at = Router(subscriptions), time.process_time()
    for event in events:
        router.endpoints(event)
    assert time.process_time() - began_at < 0.5, "it takes 0.04 s of a processor"
