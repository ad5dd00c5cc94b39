"""``resonant advise``, on a real Prefect server."""

import pytest

from resonant.delivery.retry import Park

pytestmark = pytest.mark.engine

NAME = "cli-advised"
THROTTLED = {"code": "throttled", "status_code": 429, "retry_after": 30.0}


@pytest.fixture
def endpoint(webhook):
    """An endpoint with a timeout of 15 s and no rate."""
    return webhook(NAME)


@pytest.fixture
def throttling(worker):
    """A history: in each of five seconds the endpoint accepts 40 requests, and answers 429 to 10."""
    with worker.at_work():
        number = 0
        for _ in range(5):
            worker.accept(*(f"evt_{number + each}" for each in range(40)), endpoint=NAME)
            worker.attempt(endpoint=NAME, duration=0.2)
            worker.accept(*(f"evt_{number + 40 + each}" for each in range(10)), endpoint=NAME)
            worker.attempt(Park(1e6, worker.clock() + 1e6), endpoint=NAME, duration=0.2, **THROTTLED)
            number += 50
            worker.clock.advance(2)


def test_advice_has_a_table_the_reasons_and_the_command_that_applies_it(
    resonant, endpoint, throttling, monkeypatch
):
    said = resonant.on_prefect("advise", NAME).out

    assert said.startswith(f"{NAME}: 250 attempts in ")
    assert "20.0% failed, 0 outages, Retry-After of 30 s\n" in said
    lines = {line.split()[0]: line.split() for line in said.splitlines()[1:]}
    assert lines["SETTING"] == ["SETTING", "NOW", "ADVICE", "GIVEN", "UP", "ATTEMPTS", "DRAIN"]
    assert lines["policy"][:3] == ["policy", "default", "keep"]
    assert lines["rate"][:3] == ["rate", "none", "38/s"]
    assert lines["timeout"][:5] == ["timeout", "15", "s", "3", "s"]
    assert "rate: it answered 429 to 50 attempts while it accepted 40 per second; simulated: " in said
    assert said.endswith(f"to apply: resonant endpoint update {NAME} --rate 38 --timeout 3\n")

    for name, value in (("FORCE_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    on_terminal = resonant.on_prefect("advise", NAME).out.splitlines()
    assert [line for line in on_terminal if line.startswith("  ")], "long lines are wrapped and indented"
    assert max(map(len, on_terminal)) <= 80


def test_advice_as_json_has_the_history_and_the_predictions(resonant, endpoint, throttling):
    found = resonant.json_on_prefect("advise", NAME)

    assert (found["endpoint"], found["delivered"], found["failed"]) == (NAME, 200, 50)
    assert (found["throttled"], found["retry_after"], found["capacity"]) == (50, 30.0, 40.0)
    policy, rate, timeout = found["proposals"]
    assert [each["setting"] for each in (policy, rate, timeout)] == ["policy", "rate", "timeout"]
    assert [each["is_change"] for each in (policy, rate, timeout)] == [False, True, True]
    assert rate["after"]["attempts"] < rate["before"]["attempts"]
    assert found["command"] == f"resonant endpoint update {NAME} --rate 38 --timeout 3"


def test_a_short_history_gives_a_reason_instead_of_advice(resonant, endpoint, worker):
    nothing = resonant.on_prefect("advise", NAME).out
    assert nothing.startswith(f"{NAME}: no attempts recorded\nadvice needs 100 attempts")
    worker.accept("evt_1", endpoint=NAME)
    worker.attempt(endpoint=NAME)
    assert resonant.on_prefect("advise", NAME).out.startswith(f"{NAME}: 1 attempt in ")
    found = resonant.json_on_prefect("advise", NAME)
    assert (found["proposals"], found["command"]) == ([], None)
    refused = resonant.on_prefect("advise", "cli-advized", code=2)
    assert "no endpoint is named 'cli-advized'" in refused.err
    assert NAME in refused.err
