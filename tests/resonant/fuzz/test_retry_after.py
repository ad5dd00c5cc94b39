"""The Retry-After header: valid values are read exactly, others are ignored, and none causes an error."""

import email.utils
import logging
import math
import random
import re
import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resonant.delivery.retry_after import parse_retry_after
from support.examples import WAYS

fuzzed = settings.get_profile("fuzz")
MOST_SECONDS = 24 * 3600

clocks = st.floats(0, 10_000_000_000)
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)).map(  # noqa: DTZ001 - made UTC here
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
FORMS = {
    "IMF-fixdate": lambda moment: email.utils.format_datetime(moment, usegmt=True),
    "RFC 850": lambda moment: moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
    "asctime": lambda moment: time.asctime(moment.timetuple()),
}
PIECES = [
    "Mon",
    "Tuesday",
    "Feb",
    "29",
    "30",
    "31",
    "00",
    "60",
    "24",
    "GMT",
    "UTC",
    "+0000",
    ":",
    "-",
    ",",
    "  ",
    "s",
    "1994",
    "94",
    "0000",
    "9999",
    "10000",
    "\u0663",
    "\xb2",
    "1e5",
    "\ud800",
    "",
]
PIECES += map(chr, range(256))


@pytest.fixture(autouse=True)
def no_log():
    """Each invalid value is logged, which would take most of a long run."""
    logger = logging.getLogger("resonant.delivery.retry_after")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def damaged(text, rng):
    """Replace some characters of a text, at up to three places."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice(PIECES) + text[place + rng.randint(0, 4) :]
    return text


digits = st.integers(0, 10**30).map(str) | st.from_regex("[0-9]{1,30}", fullmatch=True)
spaces = st.text(" \t", max_size=3)


@fuzzed
@given(digits, spaces, spaces, clocks)
@example("9" * 5_000, "", "", 0.0)
def test_digits_are_seconds(text, before, after, now):
    expected = MOST_SECONDS if len(text) > 100 else min(int(text), MOST_SECONDS)
    assert parse_retry_after(before + text + after, now) == expected


@fuzzed
@given(st.sampled_from(["IMF-fixdate", "asctime"]), moments, clocks)
def test_a_date_with_its_whole_year_is_the_time_until_then(form, moment, now):
    text = FORMS[form](moment)
    if moment.year < 1000:  # strftime and asctime write fewer digits than the grammar demands
        return
    expected = min(max(moment.timestamp() - now, 0.0), MOST_SECONDS)
    assert parse_retry_after(text, now) == expected


@fuzzed
@given(moments, clocks)
def test_two_digits_of_a_year_are_the_latest_that_is_less_than_fifty_years_ahead(moment, now):
    found = parse_retry_after(FORMS["RFC 850"](moment), now)
    if found is None:  # the 29th of February, in a century in which it is none
        assert (moment.month, moment.day) == (2, 29)
        return
    year = datetime.fromtimestamp(now, UTC).year
    candidates = []
    for candidate in range(year - 60, year + 52):
        if candidate % 100 == moment.year % 100:
            try:
                candidates.append(moment.replace(year=candidate).timestamp() - now)
            except ValueError:
                continue
    fifty = 50 * 365.2425 * 86_400
    # To the day: the grammar compares days, not seconds.
    allowed = {max(ahead, 0.0) for ahead in candidates if ahead <= fifty + 86_400}
    assert any(math.isclose(found, min(each, MOST_SECONDS), abs_tol=1e-3) for each in allowed)


dates = st.builds(lambda form, moment: form(moment), st.sampled_from(list(FORMS.values())), moments)


@fuzzed
@given(dates | digits | st.just("5"), st.integers(0, 2**32), clocks)
def test_a_damaged_value_is_ignored_or_read_by_a_lenient_reader_too(text, seed, now):
    rng = random.Random(seed)
    for _ in range(WAYS):
        check_strange(damaged(text, rng), now)


@fuzzed
@given(st.text(max_size=60), clocks)
@example("Tue, 31 Feb 2023 22:14:50 GMT", 0.0)
@example("Fri, 31 Dec 9999 23:59:60 GMT", 0.0)
@example("Sat Jan  1 00:00:00 0000", 0.0)
def test_any_other_text_is_ignored(text, now):
    check_strange(text, now)


def check_strange(text, now):
    found = parse_retry_after(text, now)
    if found is None:
        return
    assert 0 <= found <= MOST_SECONDS
    stripped = text.strip(" \t")
    assert stripped.isascii()
    assert re.fullmatch("[0-9]+", stripped) or any(_is_read(stripped, form) for form in _LENIENT)


_LENIENT = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def _is_read(text, form):
    try:
        time.strptime(text, form)
    except ValueError:
        return False
    return True
