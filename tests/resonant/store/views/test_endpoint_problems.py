"""The endpoints that could not be opened, as ``status`` reads them."""

from resonant.events import Event
from resonant.store.views import endpoint_problems
from resonant.store.views.endpoint_problems import EndpointProblem
from resonant.store.views.known_names import known_endpoints


def accept(desk, *names: str) -> None:
    for name in names:
        desk.enqueue(Event(type="t", source="/s", data=1), endpoint=name)


def test_a_problem_keeps_its_first_time_and_its_last_reason_until_it_is_cleared(desk):
    accept(desk, "shp")
    desk.write(endpoint_problems.note_problems, {"shp": "no such endpoint"}, now=10.0)
    desk.write(endpoint_problems.note_problems, {"shp": "not well-formed"}, now=20.0)

    assert desk.read(endpoint_problems.problems) == [EndpointProblem("shp", "not well-formed", 10.0)]
    assert desk.status().endpoint_problems == (EndpointProblem("shp", "not well-formed", 10.0),)
    assert desk.status(endpoint="billing").endpoint_problems == ()

    desk.write(endpoint_problems.clear_problems, ["shp"])
    assert desk.status().endpoint_problems == ()


def test_an_endpoint_without_waiting_deliveries_is_not_a_problem(desk):
    desk.write(endpoint_problems.note_problems, {"never-used": "no such endpoint"}, now=10.0)
    accept(desk, "never-used")
    assert desk.read(endpoint_problems.problems) == []


def test_the_store_knows_the_names_that_deliveries_were_accepted_for(desk):
    accept(desk, "billing", "shop", "billing")
    assert desk.read(known_endpoints) == {"billing", "shop"}
