"""A flood of the same trouble is a line every ten seconds."""

import logging

from resonant.intake.serving.quiet_log import WithoutRepeats


def record(text, *arguments, error=None):
    return logging.LogRecord("resonant", logging.WARNING, "", 0, text, arguments, error)


def test_logs_the_same_warning_once_in_ten_seconds():
    now = [0.0]
    fresh = WithoutRepeats(lambda: now[0])
    assert fresh.filter(record("answered 503: %s", "the store is locked"))
    now[0] = 9.9
    assert not fresh.filter(record("answered 503: %s", "the store is locked, too"))
    assert fresh.filter(record("not ready"))
    now[0] = 10.0
    assert fresh.filter(record("answered 503: %s", "the store is locked"))


def test_logs_each_kind_of_error():
    fresh = WithoutRepeats()
    errors = [(type(each), each, None) for each in (ZeroDivisionError(), KeyError(), KeyError())]
    assert [fresh.filter(record("a request failed", error=each)) for each in errors] == [True, True, False]
