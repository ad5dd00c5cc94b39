import pytest

from resonant.cli.options import Misuse, moment

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), ("2w", 1_209_600), ("0d", 0)],
)
def test_an_age_is_so_long_ago(text, seconds_ago):
    assert moment("--since", text, now=NOW) == NOW - seconds_ago


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20+00:00",
        "2023-11-15T00:13:20+02:00",
        "2023-11-14T16:43:20-05:30",
        "2023-11-14T22:13:20.000Z",
    ],
)
def test_a_time_counts_in_the_zone_that_it_names(text):
    assert moment("--since", text, now=0.0) == NOW


@pytest.mark.parametrize(
    "text", ["", "soon", "-2h", "1.5h", "2 h", "٣h", "²h", "2y", "2023-11-14", "h", "9" * 400 + "d"]
)
def test_what_is_neither_is_refused_with_the_ways_to_say_it(text):
    with pytest.raises(Misuse, match="--since"):
        moment("--since", text, now=NOW)


def test_nothing_given_is_no_time():
    assert moment("--since", None, now=NOW) is None
