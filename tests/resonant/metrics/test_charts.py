"""Charts: positions agree with the data, and colours are readable on both of Prefect's backgrounds."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from math import nan

import matplotlib as mpl
import pytest
from pandas import DataFrame

from resonant import chart_style
from resonant.delivery.retry import RetryPolicy, backoff, draw_delay
from resonant.metrics import charts
from resonant.metrics.statistics import Delays
from resonant.store.counts.counters import DelayOf
from support.metrics import Facts

HOUR = 3600
START = 472_222 * HOUR
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
# The backgrounds of a markdown artifact in Prefect 3.9, and white for other places.
LIGHT_BACKGROUNDS = ("#eaeaeb", "#ffffff")
DARK_BACKGROUND = "#26272b"


def hour(n, *, success=0, dead_letter=0, p50=nan, p95=nan, p99=nan):
    names = {"success": success, "dead_letter": dead_letter, "latency_p50": p50}
    return {"start": START + n * HOUR} | names | {"latency_p95": p95, "latency_p99": p99}


def found(*hourly, reasons=None, delays=()):
    """Return statistics with these hours and dead letters by reason."""
    hours = DataFrame(hourly, columns=list(hour(0))).astype({"success": int, "dead_letter": int})
    kinds = [("reason", "t", name, count) for name, count in (reasons or {}).items()]
    return replace(
        Facts().statistics(),
        hourly=hours.set_index("start"),
        kinds=DataFrame(kinds, columns=["kind", "event_type", "name", "count"]),
        delays=tuple(delays),
    )


def delay(after, *, low, median, high, endpoint="orders", asked=False, count=9):
    return Delays(endpoint, DelayOf(after, asked, None), count, low, median, high)


def element(svg, name):
    [one] = [each for each in ET.fromstring(svg).iter() if each.get("id") == name]
    return one


def points(svg, name):
    """Return the corners of each part of the path with this name; y grows upwards."""
    path = next(element(svg, name).iter(f"{SVG}path")).get("d")
    parts = re.findall(r"M [^M]+", path)
    numbers = [re.findall(r"[-\d.]+", part) for part in parts]
    return [[(float(x), -float(y)) for x, y in zip(n[::2], n[1::2], strict=True)] for n in numbers]


def marks(svg, name):
    """Where the marks of a line are; y grows upwards."""
    return [(float(each.get("x")), -float(each.get("y"))) for each in element(svg, name).iter(f"{SVG}use")]


def texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(f"{SVG}text")]


def tick(svg, label):
    """Where the tick with this label is on an axis of values; y grows upwards."""
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if re.fullmatch(r"ytick_\d+", group.get("id", "")) and label in texts(ET.tostring(group)):
            line = next(group.iter(f"{SVG}path")).get("d")
            return -float(re.findall(r"[-\d.]+", line)[1])
    raise AssertionError(f"no axis has a tick {label!r}")


def every_chart():
    policy = RetryPolicy()
    full = found(
        *(hour(n, success=n % 5 * 10, dead_letter=n % 3, p50=0.1, p95=0.5, p99=2.0) for n in range(24)),
        reasons={"exhausted": 12, "permanent": 3},
        delays=[
            delay(
                n,
                low=0.8 * backoff(policy, n),
                median=backoff(policy, n),
                high=1.2 * backoff(policy, n),
                endpoint=e,
            )
            for n in range(1, 9)
            for e in ("a", "b", "c", "d")
        ],
    )
    return drawn(full, policy)


def drawn(statistics, policy):
    return [
        charts.latency(statistics),
        charts.outcomes(statistics),
        charts.dead_letters(statistics),
        charts.retry_delays(statistics.delays, "default", policy),
    ]


def test_percentiles_stand_on_a_logarithmic_axis_an_hour_apart():
    svg = charts.latency(found(*(hour(n, p50=0.01 * 10**n, p95=5.0, p99=20.0) for n in range(3))))
    [line] = points(svg, "p50")
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.01)
    assert [y for _, y in line] == pytest.approx([tick(svg, t) for t in ("10 ms", "100 ms", "1 s")], abs=0.01)
    assert len({y for _, y in points(svg, "p95")[0]}) == 1
    assert points(svg, "p99")[0][0][1] > points(svg, "p95")[0][0][1]


def test_a_quiet_hour_is_a_gap_in_the_percentiles():
    some = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    svg = charts.latency(found(hour(0, **some), hour(1, **some), hour(2), hour(3, **some), hour(4, **some)))
    first, second = points(svg, "p50")
    assert (len(first), len(second)) == (2, 2)
    assert second[0][0] - first[1][0] == pytest.approx(2 * (first[1][0] - first[0][0]), abs=0.01)


def test_an_hour_between_two_quiet_ones_shows_as_a_mark_also_in_a_long_window():
    hours = [hour(n, p50=0.1, p95=0.2, p99=0.3) if n == 50 or n > 60 else hour(n) for n in range(200)]
    assert len(marks(charts.latency(found(*hours)), "p50")) == 1


def test_one_hour_is_one_mark_for_each_percentile():
    svg = charts.latency(found(hour(0, p50=0.1, p95=2.0, p99=2.0)))
    [[(_, low)], [(_, middle)], [(_, high)]] = [marks(svg, name) for name in ("p50", "p95", "p99")]
    assert low < middle == high
    assert low == pytest.approx(tick(svg, "100 ms"), abs=0.01)


def test_bars_are_as_high_as_the_counts_and_a_quiet_hour_has_none():
    svg = charts.outcomes(
        found(hour(0, success=120, dead_letter=4), hour(1), hour(2, success=30, dead_letter=1))
    )
    tall, short = points(svg, "delivered")
    assert height(tall) == pytest.approx(4 * height(short), abs=0.01)
    assert middle_of(short) - middle_of(tall) == pytest.approx(2 * width(tall) / 0.84, abs=0.05)
    dead_letters = points(svg, "dead-letters")
    assert height(dead_letters[0]) == pytest.approx(4 * height(dead_letters[1]), abs=0.01)
    assert middle_of(dead_letters[1]) == pytest.approx(middle_of(short))
    assert tick(svg, "120") == pytest.approx(top(tall), abs=0.01)


def test_no_dead_letter_is_an_empty_scale_and_no_error():
    svg = charts.outcomes(found(hour(0, success=3)))
    assert height(points(svg, "dead-letters")[0]) == 0
    assert height(points(svg, "delivered")[0]) > 0


def test_reasons_are_bars_with_their_counts():
    svg = charts.dead_letters(found(reasons={"exhausted": 1_200, "permanent": 300}))
    [most], [fewer] = points(svg, "reason-exhausted"), points(svg, "reason-permanent")
    assert width(most) == pytest.approx(4 * width(fewer), abs=0.01)
    assert top(most) > top(fewer)
    assert {"exhausted", "permanent", "1,200", "300"} <= set(texts(svg))


def test_delays_stand_on_the_curve_of_their_policy():
    policy = RetryPolicy(base=1.0, factor=10.0, cap=600.0, max_attempts=5)
    delays = [
        delay(n, low=0.9 * wait, median=wait, high=1.1 * wait) for n, wait in ((1, 1), (2, 10), (3, 100))
    ]
    svg = charts.retry_delays(delays, "tens", policy)
    [curve] = points(svg, "curve")
    assert [y for _, y in curve[:2]] == pytest.approx([tick(svg, "1 s"), tick(svg, "10 s")], abs=0.01)
    assert [y for _, y in curve[:3]] == pytest.approx([y for _, y in marks(svg, "delays-0")], abs=0.01)
    assert [x for x, _ in curve[:3]] == pytest.approx([x for x, _ in marks(svg, "delays-0")], abs=0.01)
    assert curve[3][1] == pytest.approx(tick(svg, "10 min"), abs=0.01)  # capped; a step beyond the data


@pytest.mark.parametrize("jitter", ["proportional", "full", "equal", "decorrelated", "none"])
def test_the_band_is_the_range_of_the_policys_delays(jitter):
    policy = RetryPolicy(base=2.0, factor=3.0, cap=50.0, jitter=jitter, max_attempts=7)
    rng = random.Random(7)
    draws = {n: [] for n in range(1, 6)}
    for _ in range(3_000):
        last = None
        for n, values in draws.items():
            last = draw_delay(policy, n, rng, last_delay=last)
            values.append(last)
    delays = [
        delay(n, low=min(values), median=sorted(values)[1_500], high=max(values))
        for n, values in draws.items()
    ]
    svg = charts.retry_delays(delays, "some", policy)
    band = points(svg, "band")[0]
    lower, upper = [y for _, y in band[:12:2]], [y for _, y in band[22:11:-2]]
    assert len(lower) == len(upper) == 6
    for low, high, (_, ends) in zip(lower, upper, sorted(ranges(svg)), strict=False):
        assert low - 0.01 <= ends[0] <= ends[1] <= high + 0.01
        assert ends[1] > high - 2  # and the band is no wider than it needs to be


def test_delays_that_the_endpoint_requested_are_drawn_separately():
    svg = charts.retry_delays(
        [delay(1, low=1, median=1, high=1), delay(1, low=30, median=33, high=36, asked=True)],
        "x",
        RetryPolicy(),
    )
    [(x, y)], [(asked_x, asked_y)] = marks(svg, "delays-0"), marks(svg, "delays-1")
    assert (x < asked_x, y < asked_y) == (True, True)
    assert {"orders", "orders, Retry-After"} <= set(texts(svg))


def test_of_many_endpoints_those_with_the_most_retries_are_drawn():
    delays = [delay(1, low=1, median=1, high=1, endpoint=f"e{n}", count=n) for n in range(1, 30)]
    svg = charts.retry_delays(delays, "x", RetryPolicy())
    assert [text for text in texts(svg) if re.fullmatch(r"e\d+", text)] == ["e29", "e28", "e27", "e26"]


def test_where_there_is_nothing_it_says_so():
    said = [texts(svg) for svg in drawn(found(), RetryPolicy())]
    assert said == [
        ["Duration of an attempt", "no attempt was answered in this window"],
        ["Events that ended, by hour", "no event ended in this window"],
        ["Dead letters, by reason", "no event was given up in this window"],
        ["Delays before a retry, policy “default”", "nothing was retried in this window"],
    ]


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
def test_no_time_is_too_short_or_too_long(seconds):
    same = {"p50": seconds, "p95": seconds, "p99": seconds}
    [(_, y)] = marks(charts.latency(found(hour(0, **same))), "p99")
    assert math.isfinite(y)
    delays = [delay(1, low=seconds, median=seconds, high=seconds)]
    for policy in (RetryPolicy(base=0.0), RetryPolicy(max_attempts=1), RetryPolicy(base=1e8, cap=1e9)):
        ET.fromstring(charts.retry_delays(delays, "x", policy))


def test_attempts_beyond_the_last_that_is_drawn_are_left_out():
    svg = charts.retry_delays([delay(900, low=1, median=1, high=1)], "x", RetryPolicy(max_attempts=1_000))
    assert marks(svg, "delays-0") == []


def test_the_same_statistics_are_the_same_bytes_and_not_the_day_they_were_drawn_on():
    assert every_chart() == every_chart()
    for svg in every_chart():
        assert "<metadata" not in svg
        assert not re.search(r"20\d\d-\d\d-\d\dT", svg)


def test_each_chart_is_small_and_so_is_one_of_weeks():
    hours = [
        hour(n, success=1_000 + n, dead_letter=n, p50=0.1, p95=n + 1.0, p99=n + 2.0) for n in range(3_000)
    ]
    many = drawn(found(*hours), RetryPolicy())
    assert max(len(svg) for svg in [*every_chart(), *many]) < 80_000
    assert len(points(many[1], "delivered")) == charts.MOST_HOURS


def test_a_name_is_cut_and_escaped_in_the_svg():
    name = "<script>$x^2$ & \x1b\x00]]>" + "n" * 100
    svg = charts.retry_delays([delay(1, low=1, median=1, high=1, endpoint=name)], name, RetryPolicy())
    [label] = [text for text in texts(svg) if text.startswith("<script>")]
    assert len(label) == 28
    assert label.startswith("<script>$x^2$ & ��]]>n")


def test_nothing_in_a_chart_leads_elsewhere():
    for svg in every_chart():
        root = ET.fromstring(svg)
        assert all(each.get(f"{XLINK}href", "#").startswith("#") for each in root.iter())
        assert not {"script", "image", "foreignObject", "a"} & {
            each.tag.removeprefix(SVG) for each in root.iter()
        }
        assert "@import" not in svg


@pytest.mark.parametrize("ink", [ink for ink in chart_style.INKS if ink is not chart_style.RULE])
def test_every_colour_can_be_read_on_the_backgrounds_of_its_theme(ink):
    assert min(contrast(ink.light, background) for background in LIGHT_BACKGROUNDS) >= 4.5
    assert contrast(ink.dark, DARK_BACKGROUND) >= 4.5


def test_no_colour_is_used_that_has_no_counterpart_in_the_dark():
    known = {ink.light for ink in chart_style.INKS}
    for svg in every_chart():
        drawing = svg.partition("</style>")[2]
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) <= known
        for text in ET.fromstring(svg).iter(f"{SVG}text"):
            assert re.search(r"fill: #[0-9a-f]{6}", text.get("style"))
        for ink in chart_style.INKS:
            assert f'{ink.light}"]{{fill:{ink.dark}!important}}' in svg


def test_the_background_is_transparent():
    for svg in every_chart():
        assert "fill: none" in next(element(svg, "patch_1").iter(f"{SVG}path")).get("style")


def test_neither_the_users_own_style_nor_a_backend_matters_and_both_are_left_alone():
    before = every_chart()
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert every_chart() == before
        assert mpl.rcParams["axes.facecolor"] == "red"
    code = "import resonant.metrics.charts, sys; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def ranges(svg):
    """Each range of delays, by where it stands: its two ends, y grows upwards."""
    found_ = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if group.get("id", "").startswith("LineCollection"):
            for path in group.iter(f"{SVG}path"):
                numbers = [float(each) for each in re.findall(r"[-\d.]+", path.get("d"))]
                found_.append((numbers[0], sorted((-numbers[1], -numbers[3]))))
    return found_


def height(corners):
    return max(y for _, y in corners) - min(y for _, y in corners)


def width(corners):
    return max(x for x, _ in corners) - min(x for x, _ in corners)


def middle_of(corners):
    return min(x for x, _ in corners) + width(corners) / 2


def top(corners):
    return max(y for _, y in corners)


def contrast(one, other):
    """The contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_formula_of_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    greys = [f"#{n:02x}{n:02x}{n:02x}" for n in range(256)]
    assert all(a <= b for a, b in pairwise(contrast(grey, "#000000") for grey in greys))
    # Why the charts follow the theme, instead of being grey.
    assert max(min(contrast(g, DARK_BACKGROUND), contrast(g, "#eaeaeb")) for g in greys) < 4.5
