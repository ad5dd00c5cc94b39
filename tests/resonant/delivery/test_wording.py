"""The description of a failure."""

import pytest

from resonant.delivery.wording import outcome, shortened, why
from resonant.events import Attempt

ANSWERED = "UnexpectedStatus: the endpoint answered 422"


@pytest.mark.parametrize(
    ("code", "error", "answer", "said"),
    [
        ("http_422", ANSWERED, '{"error":"no amount"}', 'http 422: {"error":"no amount"}'),
        ("http_422", ANSWERED, None, "http 422: no text in the answer"),
        ("http_422", "UnexpectedStatus: the endpoint answered <n>", "", "http 422: no text in the answer"),
        (
            "connect_refused",
            "ConnectError: all attempts failed",
            None,
            "connect refused: all attempts failed",
        ),
        ("connect_refused", "ConnectError", None, "connect refused: ConnectError"),
        ("odd", "order: o-1: is unknown", None, "odd: o-1: is unknown"),
        (None, None, None, "cancelled"),
        ("", "", "", "cancelled"),
    ],
)
def test_the_answer_takes_precedence_over_the_error(code, error, answer, said):
    assert why(reason="cancelled", code=code, error=error, answer=answer) == said


def test_html_tags_are_removed():
    page = "<html><head><title>503 Unavailable</title></head> <body bgcolor='red'><h1>Back  soon"
    assert shortened(page) == "503 Unavailable Back soon"
    assert shortened("<b") == "<b"
    assert shortened("1 < 2") == "1 < 2"


def test_a_long_answer_is_cut():
    assert shortened("x" * 120) == "x" * 120
    assert shortened("x" * 121) == "x" * 120 + "…"


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (Attempt(1, 1, 0.0, 0.012, "delivered", status_code=200), "delivered in 12 ms, answered 200"),
        (Attempt(1, 1, 0.0, 0.012, "delivered"), "delivered in 12 ms"),
        (
            Attempt(
                1, 1, 0.0, 0.012, "failed", 422, "permanent", "http_422", error=ANSWERED, excerpt="no amount"
            ),
            "failed in 12 ms: permanent, http 422: no amount",
        ),
    ],
)
def test_the_outcome_of_a_failed_attempt_ends_with_the_answer(attempt, said):
    assert outcome(attempt) == said
