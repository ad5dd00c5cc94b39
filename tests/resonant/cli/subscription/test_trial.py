"""``subscription test``: which endpoints would get an event, and why the others would not."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from resonant.store.shared.subscriptions import add_subscription, remove_subscriptions_of
from resonant.store.views.known_names import remember_endpoints
from support.examples import examples
from support.lines import as_line
from support.routing import ENDPOINTS, events, subscriptions

EVENT = {"type": "order.paid", "source": "/eu/shop", "id": "evt_1", "subject": "42", "data": {}}


@pytest.fixture
def subscribed(resonant, worker):
    """Endpoints with one subscription each, and their ids."""
    terms = {
        "audit": ("*",),
        "crm": ("user.*",),
        "eu": ("order.*", "--source", "/eu/*", "--filter", '{"exact": {"subject": "42"}}'),
        "us": ("order.*", "--source", "/us/*"),
    }
    worker.do(lambda store: store.write(remember_endpoints, list(terms)))
    return {name: resonant.json("subscription", "add", name, *argv)["id"] for name, argv in terms.items()}


def test_a_trial_names_the_endpoints_and_the_first_condition_that_is_false(resonant, subscribed, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT, indent=2))
    assert resonant("subscription", "test", "event.json").out.splitlines() == [
        "order.paid of /eu/shop goes to audit, eu",
        f"  audit  {subscribed['audit']}  matches",
        f"  crm  {subscribed['crm']}  no: type 'order.paid' does not match 'user.*'",
        f"  eu  {subscribed['eu']}  matches",
        f"  us  {subscribed['us']}  no: source '/eu/shop' does not match '/us/*'",
    ]
    assert resonant.json("status")["accepted"] == 0


def test_the_json_of_a_trial_has_every_subscription(resonant, subscribed, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT | {"subject": "43"}))
    found = resonant.json("subscription", "test", "event.json")
    assert found["event"] == {"id": "evt_1", "source": "/eu/shop", "type": "order.paid"}
    assert found["endpoints"] == ["audit"]
    assert [each["matches"] for each in found["subscriptions"]] == [True, False, False, False]
    why = {"matches": False, "why_not": "subject '43' is not '42'"}
    assert found["subscriptions"][2] == {"id": subscribed["eu"], "endpoint": "eu"} | why

    resonant("subscription", "add", "audit", "resonant.*")
    (tmp_path / "event.json").write_text('{"type": "resonant.endpoint.paused", "source": "/resonant"}')
    own = resonant("subscription", "test", "event.json").out
    assert own.startswith("resonant.endpoint.paused of /resonant goes to audit\n")


@pytest.mark.parametrize(
    ("event_type", "quoted"), [("order.paid", "order.paid"), ("order paid", "'order paid'")]
)
def test_a_trial_without_a_match_fails_and_explains_how_to_subscribe(resonant, tmp_path, event_type, quoted):
    (tmp_path / "event.json").write_text('{"source": "/s"}')
    assert resonant("subscription", "test", "event.json", "--type", event_type, code=1).out.splitlines() == [
        f"{event_type} of /s goes to no endpoint",
        f"`resonant subscription add ENDPOINT {quoted}` adds a subscription",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"type": "t"}', "source is missing"),
        ('{"type": "t", "source": "/s"}\n{}', "not JSON: Extra data at line 2, column 1"),
    ],
)
def test_an_invalid_event_is_refused_with_the_message_of_enqueue(resonant, tmp_path, text, said):
    (tmp_path / "event.json").write_text(text)
    assert resonant.refused("subscription", "test", "event.json") == f"event.json: {said}"


def test_a_trial_reads_standard_input(subscribed, resonant):
    done = resonant.program("subscription", "test", "-", "--json", input=json.dumps(EVENT))
    assert json.loads(done.stdout)["endpoints"] == ["audit", "eu"]


def test_a_trial_agrees_with_enqueue(resonant, worker):
    def subscribe(wanted):
        def write(connection):
            for name in ENDPOINTS:
                remove_subscriptions_of(connection, name, who="a test", now=1.0)
            for each in wanted:
                add_subscription(connection, each, who="a test", now=1.0)

        worker.do(lambda store: store.write(write))

    @settings(max_examples=examples(20), suppress_health_check=list(HealthCheck))
    @given(subscriptions, events)
    def check(subscribed, event):
        subscribe(subscribed)
        Path("event.json").write_text(as_line(event) + "\n")
        argv = ("event.json", "--json")
        answer = resonant.run("subscription", "test", *argv)
        stored = json.loads(resonant("enqueue", *argv, "--allow-unrouted").out)
        found = json.loads(answer.out)
        assert dict.fromkeys(found["endpoints"], 1) == stored["by_endpoint"]
        assert answer.code == (0 if stored["stored"] else 1)
        matching = {each["endpoint"] for each in found["subscriptions"] if each["matches"]}
        assert matching == set(found["endpoints"])

    check()
