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


def run(plan: Plan, request, suite, folder, journal, commands=None) -> None:
    repeat = f"RESONANT_CHAOS_SEED={suite.seed}, {plan}"
    print(repeat)
    try:
        problems = _run(plan, request, suite, folder, journal, commands)
    except Exception as error:
        error.add_note(repeat)
        raise
    # Processes of pytest-xdist print no summary: a failure shows only the message.
    assert not problems, "\n".join([f"{repeat}: {len(problems)} problems", *problems[:_SHOWN]])


def _run(plan: Plan, request, suite, folder, journal, commands) -> list[str]:
    database = Database(request.getfixturevalue(f"{plan.database}_url"))
    # Its name is the beginning of the events' ids.
    place = folder / f"{plan.way[0]}{plan.number}"
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
    return problems


def test_killed_workers_lose_nothing_and_repeat_only_sends_in_flight(
    domain_round, request, suite, tmp_path, journal
):
    run(Plan.draw(suite.seed, domain_round, "domain"), request, suite, tmp_path, journal)


@pytest.fixture(scope="session")
def commands(prefect_api, journal, tmp_path_factory) -> Commands:
    """The command line and the flows, with an endpoint for the receiver."""
    made = Commands(tmp_path_factory.mktemp("home"), prefect_api)
    made.save_endpoint(ENDPOINT, journal.url, timeout=TIMEOUT_SECONDS)
    return made


@pytest.mark.engine
@pytest.mark.slow  # e2e/test_crashes.py kills commands in `make test`
def test_killed_commands_lose_nothing_and_repeat_only_sends_in_flight(
    command_round, request, suite, tmp_path, journal, commands
):
    run(Plan.draw(suite.seed, command_round, "commands"), request, suite, tmp_path, journal, commands)
