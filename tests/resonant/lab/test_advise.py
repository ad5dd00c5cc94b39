"""The advice for an endpoint's history."""

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.lab.advise import FEWEST_ATTEMPTS, Current, advise
from resonant.lab.history import Answered, History, PastOutage

NOW = 1_800_000_000.0
POLICIES = {"default": RetryPolicy(), "classic": RetryPolicy.classic(), "once": RetryPolicy(max_attempts=1)}
CURRENT = Current("default", timeout=15.0, rate=None, policies=POLICIES)


def answered(number=0, *, duration=0.02, status=200, category=None, code=None, retry_after=None):
    is_delivered = status == 200
    if not is_delivered and code is None:
        category, code = "transient", f"http_{status}"
    at = NOW - 1_000 + number
    return Answered(at, duration, is_delivered, category, code, status, retry_after)


def history(attempts=None, *, outages=()):
    attempts = [answered(number) for number in range(200)] if attempts is None else attempts
    delivered = sum(each.is_delivered for each in attempts)
    return History(
        "billing",
        NOW - 86_400,
        NOW,
        delivered,
        len(attempts) - delivered,
        tuple(outages),
        tuple(attempts),
    )


def advice(found, current=CURRENT):
    return {each.setting: each for each in advise(found, current)}


def test_advice_needs_enough_attempts_and_a_delivery():
    few = [answered() for _ in range(FEWEST_ATTEMPTS - 1)]
    assert advise(history(few), CURRENT) == []
    assert advise(history([answered(status=503) for _ in range(200)]), CURRENT) == []


def test_a_quick_endpoint_that_never_failed_keeps_its_policy_and_its_rate():
    found = advice(history())
    assert not found["policy"].is_change
    assert not found["rate"].is_change
    assert found["policy"].reason == "no outage is on record"
    assert found["rate"].reason == "0 of the last 200 attempts were answered with 429"


def test_a_policy_that_gives_up_in_an_outage_like_the_longest_is_replaced():
    outage = PastOutage(NOW - 9_000, NOW - 5_400, "503")
    flaky = [answered(number, status=503 if number % 3 == 0 else 200) for number in range(300)]
    current = Current("once", 15.0, None, POLICIES)
    policy = advice(history(flaky, outages=[outage]), current)["policy"]
    assert (policy.now, policy.then) == ("once", "default")
    assert policy.reason == "the only outage lasted 1 h"
    assert policy.before.given_up > 0
    assert policy.after.given_up == 0
    assert policy.before.events == policy.after.events


def test_a_policy_that_gives_up_nothing_stays_even_if_another_would_send_less():
    outage = PastOutage(NOW - 9_000, NOW - 5_400, "refuse")
    policy = advice(history(outages=[outage]))["policy"]
    assert not policy.is_change
    assert policy.before.given_up == 0


@pytest.mark.parametrize(
    ("slowest", "proposed"),
    [
        (0.02, "3 s"),
        *[
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((0.9, "3 s"), (3.0, "10 s"), (5.0, "15 s"))
        ],
        (14.5, "15 s"),
    ],
)
def test_a_timeout_is_lowered_to_three_times_the_slowest_answer(slowest, proposed):
    found = history([answered(number) for number in range(199)] + [answered(199, duration=slowest)])
    timeout = advice(found)["timeout"]
    assert (timeout.now, timeout.then) == ("15 s", proposed)
    assert timeout.is_change == (timeout.before is not None) == (proposed != "15 s")


def test_a_timeout_that_cuts_answers_off_is_raised():
    slow = [answered(number, duration=14.0) for number in range(150)]
    cut = [
        answered(number, duration=15.0, status=None, category="transient", code="timeout")
        for number in range(50)
    ]
    timeout = advice(history(slow + cut))["timeout"]
    assert (timeout.now, timeout.then) == ("15 s", "30 s")
    assert timeout.reason.endswith("the slowest 14 s, and 50 attempts timed out")


def limited(seconds=60, accepts=10, refuses=5):
    return [
        answered(
            second, status=200 if number < accepts else 429, retry_after=1.0 if number >= accepts else None
        )
        for second in range(seconds)
        for number in range(accepts + refuses)
    ]


def test_the_rate_is_that_accepted_in_seconds_with_429_answers_unless_it_is_lower():
    rate = advice(history(limited()))["rate"]
    assert (rate.now, rate.then) == ("none", "9.5/s")
    assert rate.reason == "it answered 429 to 300 attempts while it accepted 10 per second"
    assert rate.after.attempts < rate.before.attempts
    assert rate.after.attempts <= 1.02

    kept = advice(history(limited()), Current("default", 15.0, 9.0, POLICIES))["rate"]
    assert (kept.is_change, kept.now) == (False, "9/s")


def test_a_few_429_answers_propose_no_rate():
    few = limited(seconds=3) + [answered(number) for number in range(100, 300)]
    rate = advice(history(few))["rate"]
    assert not rate.is_change
    assert rate.reason == "15 of the last 245 attempts were answered with 429"


def test_the_share_that_fails_at_random_leaves_out_outages_refusals_and_429():
    outage = PastOutage(NOW - 1_000, NOW - 901, "503")
    attempts = [answered(number, status=503) for number in range(100)]
    attempts += [answered(number, status=503 if number % 4 == 0 else 200) for number in range(100, 200)]
    attempts += [answered(200, status=429), answered(201, status=400, category="permanent", code="http_400")]
    assert history(attempts, outages=[outage]).share_failed == 0.25


def test_a_list_of_delays_that_outlasts_the_longest_outage_is_proposed():
    outage = PastOutage(NOW - 9_000, NOW - 5_400, "503")
    lists = {"short": RetryPolicy(delays=(1, 60)), "long": RetryPolicy(delays=(60, 3600, 7200))}
    policy = advice(history(outages=[outage]), Current("short", 15.0, None, lists))["policy"]
    assert (policy.now, policy.then) == ("short", "long")
    assert policy.before.given_up > 0 == policy.after.given_up
