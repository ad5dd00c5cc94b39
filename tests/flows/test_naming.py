"""Flow runs are named after their work, unless a user has named them."""

import pytest

from flows.emit import emit_events
from flows.naming import named


@pytest.fixture
def run(monkeypatch):
    """Pretend to be in a flow run with this name and these parameters."""

    def begin(name, **parameters):
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", name)
        monkeypatch.setattr("flows.naming.flow_run.parameters", parameters, raising=False)

    return begin


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"endpoint": "shop", "ids": ["a"]}, "replay shop"),
        ({"endpoint": None, "ids": ["a", "b"]}, "replay a, b"),
        ({"endpoint": None, "ids": None}, "replay all"),
        ({"endpoint": "x" * 500, "ids": None}, "replay " + "x" * 193),
        ({"endpoint": "shop", "dry_run": True}, "dry run: replay shop"),
    ],
)
def test_a_run_is_named_after_the_first_parameter_with_a_value(run, parameters, expected):
    run("fuzzy-otter", **parameters)
    assert named("replay", "endpoint", "ids", otherwise="all")() == expected


@pytest.mark.parametrize(("successors", "expected"), [(2, "drain"), (0, "emit to every endpoint")])
def test_a_drain_is_named_as_such_and_not_as_a_single_emission(run, successors, expected):
    run("fuzzy-otter", endpoint=None, successors=successors)
    assert emit_events.flow_run_name() == expected


@pytest.mark.parametrize(
    "generated",
    [
        "fuzzy-otter",
        "tau685-thanatos-a",
        "alpha2-canis-majoris",
        "omega-vega",
        "Awesome-Puggle",
        "Sleek-Sea Ox",
    ],
)
def test_a_name_that_prefect_or_its_forms_generated_is_replaced(run, generated):
    run(generated, endpoint="shop")
    assert named("replay", "endpoint")() == "replay shop"


@pytest.mark.parametrize("given", ["after the outage", "replay-by-hand", "Black-Friday", "sigmund-again-2"])
def test_the_name_that_a_user_gave_is_kept(run, given):
    run(given, endpoint="shop")
    assert named("replay", "endpoint")() == given
