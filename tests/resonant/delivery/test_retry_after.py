"""How the ``Retry-After`` header is read."""

from datetime import UTC, datetime

import pytest

from resonant.delivery.retry_after import parse_retry_after

NOW = datetime(2019, 6, 3, 11, 0, 0, tzinfo=UTC).timestamp()


# The first five are urllib3's (test/test_retry.py).
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1000", 1000),
        ("\t42 ", 42),
        ("Mon, 03 Jun 2019 11:30:12 GMT", 1812),
        ("Monday, 03-Jun-19 11:30:12 GMT", 1812),
        ("Mon Jun  3 11:30:12 2019", 1812),
        ("Tue Jun  4 11:00:00 2019", 86_400),
        ("86400", 86_400),
        (" Mon, 03 Jun 2019 11:30:12 GMT\t", 1812),
        ("Mon, 03 Jun 2019 11:00:60 GMT", 60),  # a leap second
        ("Mon, 03 Jun 2019 10:59:59 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("007", 7),
        (None, None),
    ],
)
def test_retry_after_is_read_by_the_grammar(value, seconds, caplog):
    assert parse_retry_after(value, NOW) == seconds
    assert not caplog.records


@pytest.mark.parametrize(
    "value",
    [
        "86401",
        "1000000000",
        "9" * 5000,
        "Tue, 04 Jun 2019 11:00:01 GMT",
        "Wed, 01 Jan 2099 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
)
def test_more_than_24_hours_are_implausible_and_count_as_24_hours(value, caplog):
    assert parse_retry_after(value, NOW) == 24 * 3600
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "counts as 24 hours" in record.getMessage()
    assert len(record.getMessage()) < 160


@pytest.mark.parametrize(
    "value",
    [
        "-1", "+1", "1.0", "1e3", "0x10", "1_000", "\uff11\uff12", "1 2", "", " ", "soon", "\n5", "5s", "nan", "inf", "120, 120",
        "2019-06-03T11:30:12Z", "Mon, 03 Jun 2019 11:30:12 UTC", "Mon, 03 Jun 2019 11:30:12 +0000",
        "Mon, 03 Jun 2019 11:30:12", "Mon, 3 Jun 2019 11:30:12 GMT", "mon, 03 jun 2019 11:30:12 gmt",
        "Mon, 31 Feb 2019 11:30:12 GMT", "Mon, 00 Jun 2019 11:30:12 GMT", "Mon, 03 Jun 2019 24:00:00 GMT",
        "Mon, 03 Jun 2019 11:60:00 GMT", "Mon, 03 Jun 2019 11:30:61 GMT", "Mon, 03 Jun 0000 11:30:12 GMT",
        "Mon, 03-Jun-19 11:30:12 GMT", "Monday, 03-Jun-2019 11:30:12 GMT", "Mon Jun 03 11:30:12 2019 GMT",
    ],
)  # fmt: skip
def test_an_invalid_header_is_logged_and_ignored(value, caplog):
    assert parse_retry_after(value, NOW) is None
    assert [record.name for record in caplog.records] == ["resonant.delivery.retry_after"]


def test_the_log_shows_no_more_than_80_characters_on_one_line(caplog):
    parse_retry_after("\n" * 300, NOW)
    parse_retry_after("x" * 300, NOW)
    for record in caplog.records:
        assert len(record.getMessage().partition(": ")[2]) <= 80
        assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("value", "now", "seconds"),
    [
        ("Sunday, 02-Jun-69 11:00:00 GMT", NOW, 24 * 3600),
        ("Tuesday, 04-Jun-69 11:00:00 GMT", NOW, 0),  # more than 50 years ahead
        ("Saturday, 01-Jan-00 00:00:00 GMT", NOW, 0),
        ("Saturday, 29-Feb-20 00:00:00 GMT", NOW, 24 * 3600),
        ("Friday, 01-Jan-00 00:01:00 GMT", datetime(2099, 12, 31, 23, 59, tzinfo=UTC).timestamp(), 120),
    ],
)
def test_a_year_of_two_digits_is_never_more_than_fifty_years_ahead(value, now, seconds):
    assert parse_retry_after(value, now) == seconds
