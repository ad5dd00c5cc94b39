"""Chance decides much of a round, and not whether each kind of work meets each signal, on both databases."""

from itertools import product

import pytest
from chaos_plan import KINDS, PURGING, SENDING, SIGNALS, Plan

_DATABASES = ("sqlite", "postgresql")
SEEDS = pytest.mark.parametrize("seed", range(5))


def test_kinds_signals_and_databases_take_turns():
    plans = [Plan.draw(0, number, "domain") for number in range(96)]
    first = [(plan.victims[0].kind, plan.victims[0].signal, plan.database) for plan in plans]
    assert set(first[:64]) == set(product(KINDS, SIGNALS, _DATABASES))
    for start in range(0, 96, 8):
        kinds, signals, databases = zip(*first[start : start + 8], strict=True)
        assert set(kinds) == set(KINDS)
        assert set(zip(signals, databases, strict=True)) == set(product(SIGNALS, _DATABASES))
    _, signals, databases = zip(*first[:4], strict=True)
    assert (set(signals), set(databases)) == (set(SIGNALS), set(_DATABASES))


@SEEDS
def test_in_ten_rounds_of_commands_each_kind_is_killed_and_half_of_them_on_each_database(seed):
    plans = [Plan.draw(seed, number, "commands") for number in range(10)]
    killed = [(plan.victims[0].kind, plan.database) for plan in plans if plan.victims[0].signal == "SIGKILL"]
    assert {kind for kind, _ in killed} == set(KINDS)
    assert len(set(killed)) == 10
    assert [database for _, database in killed].count("sqlite") == 5
    others = [(victim.signal, plan.database) for plan in plans for victim in plan.victims[1:]]
    assert len(set(others)) == (len(SIGNALS) - 1) * len(_DATABASES)


@SEEDS
@pytest.mark.parametrize("way", ["domain", "commands"])
def test_purges_archive_all_or_none_and_one_at_most_is_stopped(seed, way):
    for number in range(96):
        plan = Plan.draw(seed, number, way)
        assert len(plan.kinds & PURGING) <= 1
        assert [victim.signal for victim in plan.victims].count("SIGSTOP") <= 1
        if way == "commands":
            assert len(plan.kinds & SENDING) <= 1
            assert len(plan.kinds) == len(plan.victims)


def test_the_same_seed_and_number_give_the_same_round():
    assert Plan.draw(5, 17, "domain") == Plan.draw(5, 17, "domain") != Plan.draw(6, 17, "domain")
