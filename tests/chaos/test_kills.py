"""Processes at work on one store are killed, interrupted or stopped at random moments: nothing is lost, and only
sends in flight are repeated."""

import time

import pytest
from chaos_commands import Commands
from chaos_facts import Database
from chaos_plan import Plan
from chaos_round import Round
from chaos_worker import ENDPOINT, TIMEOUT_SECONDS

_SHOWN = 20


@pytest.fixture
def run(request, suite, tmp_path, journal):
    def run_round(plan: Plan, commands: Commands | None = None) -> None:
        print(f"RESONANT_CHAOS_SEED={suite.seed}, {plan}")
        database = Database(request.getfixturevalue(f"{plan.database}_url"))
        # Its name is the beginning of the events' ids.
        place = tmp_path / f"{plan.way[0]}{plan.number}"
        place.mkdir()
        journal.mark()
        start = time.monotonic()
        round_ = Round(plan, place, database, journal, commands)
        accounts = round_.run()
        seconds = round(time.monotonic() - start, 1)
        problems = list(dict.fromkeys(round_.problems))
        suite.rounds.append(
            accounts.as_dict() | {"looks": round_.looks, "seconds": seconds, "problems": problems[:_SHOWN]}
        )
        print(accounts.as_dict())
        assert not problems, "\n".join([f"{len(problems)} problems", *problems[:_SHOWN]])

    return run_round


def test_killed_workers_lose_nothing_and_repeat_only_sends_in_flight(domain_round, suite, run):
    run(Plan.draw(suite.seed, domain_round, "domain"))


@pytest.fixture(scope="session")
def commands(prefect_api, journal, tmp_path_factory) -> Commands:
    """The command line and the flows, with an endpoint for the receiver."""
    made = Commands(tmp_path_factory.mktemp("home"), prefect_api)
    made.save_endpoint(ENDPOINT, journal.url, timeout=TIMEOUT_SECONDS)
    return made


@pytest.mark.engine
@pytest.mark.slow
def test_killed_commands_lose_nothing_and_repeat_only_sends_in_flight(command_round, suite, run, commands):
    run(Plan.draw(suite.seed, command_round, "commands"), commands)
