"""Charts: positions agree with the data, and colours are readable on both of Prefect's backgrounds."""

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from math import nan
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pandas import DataFrame

from resonant import chart_style
from resonant.delivery.retry import RetryPolicy, backoff, draw_delay
from resonant.metrics import charts
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


def delay(after, least, median, most, *, endpoint="orders", asked=False, count=9):
    names = {"endpoint": endpoint, "after": after, "asked": asked, "count": count}
    return names | {"least": least, "median": median, "most": most}


def found(*hourly, reasons=None):
    """Return statistics with these hours and dead letters by reason."""
    hours = DataFrame(hourly, columns=list(hour(0))).astype({"success": int, "dead_letter": int})
    kinds = [("reason", "t", name, count) for name, count in (reasons or {}).items()]
    return replace(
        Facts().statistics(),
        hourly=hours.set_index("start"),
        kinds=DataFrame(kinds, columns=["kind", "event_type", "name", "count"]),
    )


def retry_delays(*delays, name="some", policy=None):
    return charts.retry_delays(
        DataFrame(delays, columns=list(delay(1, 1, 1, 1))), name, policy or RetryPolicy()
    )


@pytest.fixture(scope="module")
def every_chart():
    return draw_all()


def draw_all():
    policy = RetryPolicy()
    waits = [(n, backoff(policy, n)) for n in range(1, 9)]
    full = found(
        *(hour(n, success=n % 5 * 10, dead_letter=n % 3, p50=0.1, p95=0.5, p99=2.0) for n in range(24)),
        reasons={"exhausted": 12, "permanent": 3},
    )
    delays = [delay(n, 0.8 * wait, wait, 1.2 * wait, endpoint=e) for n, wait in waits for e in "abcd"]
    return [charts.latency(full), charts.outcomes(full), charts.dead_letters(full), retry_delays(*delays)]


def element(svg, name):
    [one] = [each for each in ET.fromstring(svg).iter() if each.get("id") == name]
    return one


def lines(svg, name):
    """Return the corners of each part of the paths with this name or prefix; y grows upwards."""
    found_ = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if re.fullmatch(rf"{name}(_\d+)?", group.get("id", "")):
            for path in group.iter(f"{SVG}path"):
                for part in re.findall(r"M [^M]+", path.get("d")):
                    numbers = [float(each) for each in re.findall(r"[-\d.]+", part)]
                    found_.append([(x, -y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)])
    return found_


def marks(svg, name):
    """Return the positions of the marks of a line; y grows upwards."""
    return [(float(each.get("x")), -float(each.get("y"))) for each in element(svg, name).iter(f"{SVG}use")]


def texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(f"{SVG}text")]


def tick(svg, label):
    """Return the position of the line with this label on an axis of values; y grows upwards."""
    [text] = [each for each in ET.fromstring(svg).iter(f"{SVG}text") if each.text == label]
    nearest = min(
        (corners[0][1] for corners in lines(svg, "values")), key=lambda y: abs(y + float(text.get("y")))
    )
    assert abs(nearest + float(text.get("y"))) < 5, f"no line is beside {label!r}"
    return nearest


def size(corners):
    """Return the width and the height of a shape."""
    return tuple(np.ptp(corners, axis=0))


def test_percentiles_are_steps_an_hour_wide_on_a_logarithmic_axis():
    svg = charts.latency(found(*(hour(n, p50=0.01 * 10**n, p95=20.0, p99=20.0) for n in range(3))))
    [[_, *steps, _]] = lines(svg, "p50")  # matplotlib repeats the ends
    assert np.ptp([end - start for (start, _), (end, _) in zip(steps[::2], steps[1::2], strict=True)]) < 0.01
    ticks = [tick(svg, label) for label in ("10 ms", "100 ms", "1 s")]
    assert [y for _, y in steps] == pytest.approx([y for y in ticks for _ in range(2)], abs=0.01)
    assert {y for _, y in lines(svg, "p95")[0]} == {y for _, y in lines(svg, "p99")[0]}


def test_an_hour_without_attempts_is_a_gap_in_the_percentiles_and_one_between_gaps_is_visible():
    some = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    svg = charts.latency(found(hour(0, **some), hour(1, **some), hour(2), hour(3, **some), hour(4)))
    two, one = lines(svg, "p50")
    assert size(two)[0] == pytest.approx(2 * size(one)[0], abs=0.01)
    assert one[0][0] - two[-1][0] == pytest.approx(size(one)[0], abs=0.01)


def test_bars_are_as_high_as_the_counts():
    svg = charts.outcomes(
        found(hour(0, success=120, dead_letter=4), hour(1), hour(2, success=30, dead_letter=1))
    )
    for name in ("success", "dead_letter"):
        [corners] = lines(svg, name)
        bottom, *heights = sorted({round(y, 2) for _, y in corners})
        assert heights[1] - bottom == pytest.approx(4 * (heights[0] - bottom), abs=0.05)
    assert max(y for _, y in lines(svg, "success")[0]) == pytest.approx(tick(svg, "120"), abs=0.01)
    svg = charts.outcomes(found(hour(0, success=3)))
    assert [size(lines(svg, name)[0])[1] > 0 for name in ("success", "dead_letter")] == [True, False]


def test_reasons_are_bars_with_their_counts():
    svg = charts.dead_letters(found(reasons={"exhausted": 1_200, "permanent": 300}))
    [most], [fewer] = lines(svg, "reason-exhausted"), lines(svg, "reason-permanent")
    assert size(most)[0] == pytest.approx(4 * size(fewer)[0], abs=0.01)
    assert most[0][1] > fewer[0][1]
    assert {"exhausted", "permanent", "1,200", "300"} <= set(texts(svg))


def test_delays_are_drawn_against_the_curve_of_their_policy():
    policy = RetryPolicy(base=1.0, factor=10.0, cap=600.0, max_attempts=5)
    delays = [delay(n, 0.9 * wait, wait, 1.1 * wait) for n, wait in ((1, 1), (2, 10), (3, 100))]
    svg = retry_delays(*delays, policy=policy)
    curve, *_ = lines(svg, "curve")
    assert [y for _, y in curve[:2]] == pytest.approx([tick(svg, "1 s"), tick(svg, "10 s")], abs=0.01)
    assert np.array(curve[:3]) == pytest.approx(np.array(marks(svg, "delays-0")), abs=0.01)
    assert curve[3][1] == pytest.approx(tick(svg, "10 min"), abs=0.01)  # capped; a step beyond the data


@pytest.mark.parametrize("jitter", ["proportional", "full", "equal", "decorrelated", "none"])
def test_the_band_is_the_range_of_the_delays_of_the_policy(jitter):
    policy = RetryPolicy(base=2.0, factor=3.0, cap=50.0, jitter=jitter, max_attempts=7)
    rng = random.Random(7)
    draws = {n: [] for n in range(1, 6)}
    for _ in range(3_000):
        last = None
        for n, values in draws.items():
            last = draw_delay(policy, n, rng, last_delay=last)
            values.append(last)
    delays = [delay(n, min(each), np.median(each), max(each)) for n, each in draws.items()]
    svg = retry_delays(*delays, policy=policy)
    [band] = lines(svg, "band")
    highs, lows = [y for _, y in band[1:13:2]], [y for _, y in band[26:14:-2]]
    for low, high, line in zip(lows, highs, sorted(lines(svg, "range-0")), strict=False):
        least, most = sorted(y for _, y in line)
        assert low - 0.01 <= least <= most <= high + 0.01
        assert most > high - 2, "the band is no wider than it needs to be"


def test_delays_that_the_endpoint_requested_are_drawn_separately():
    svg = retry_delays(delay(1, 1, 1, 1), delay(1, 30, 33, 36, asked=True))
    [(x, y)], [(asked_x, asked_y)] = marks(svg, "delays-0"), marks(svg, "delays-1")
    assert (x < asked_x, y < asked_y) == (True, True)
    assert {"orders", "orders, Retry-After"} <= set(texts(svg))


def test_of_many_endpoints_those_with_the_most_retries_are_drawn():
    svg = retry_delays(*(delay(1, 1, 1, 1, endpoint=f"e{n}", count=n) for n in range(1, 30)))
    assert [text for text in texts(svg) if re.fullmatch(r"e\d+", text)] == ["e29", "e28", "e27", "e26"]


def test_the_legend_has_room_for_long_names():
    names = [str(n) * 28 for n in range(4)]
    svg = retry_delays(
        *(delay(1, 1, 1, 1, endpoint=name, asked=asked) for name in names for asked in (False, True))
    )
    [legend] = [each for each in ET.fromstring(svg).iter() if each.get("id") == "legend_1"]
    left = {float(each.get("x")) for each in legend.iter(f"{SVG}text")}
    assert max(left) + 6 * len(f"{names[0]}, Retry-After") < float(
        ET.fromstring(svg).get("width").removesuffix("pt")
    )


def test_without_data_there_is_no_chart():
    nothing = found()
    assert charts.latency(nothing) is charts.outcomes(nothing) is charts.dead_letters(nothing) is None
    assert retry_delays() is None


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
def test_any_duration_can_be_drawn(seconds):
    [corners] = lines(charts.latency(found(hour(0, p50=seconds, p95=seconds, p99=seconds))), "p99")
    assert np.isfinite(corners).all()
    for policy in (RetryPolicy(base=0.0), RetryPolicy(max_attempts=1), RetryPolicy(base=1e8, cap=1e9)):
        ET.fromstring(retry_delays(delay(1, seconds, seconds, seconds), policy=policy))


def test_attempts_beyond_the_last_that_is_drawn_are_left_out():
    svg = retry_delays(delay(1, 1, 1, 1), delay(900, 1, 1, 1), policy=RetryPolicy(max_attempts=1_000))
    assert len(marks(svg, "delays-0")) == 1


def test_a_long_window_is_cut_and_its_charts_are_small(every_chart):
    hours = [
        hour(n, success=1_000 + n, dead_letter=n, p50=0.1, p95=n + 1.0, p99=n + 2.0) for n in range(3_000)
    ]
    many = [charts.latency(found(*hours)), charts.outcomes(found(*hours))]
    assert max(len(svg) for svg in [*every_chart, *many]) < 80_000
    first = datetime.fromtimestamp(START + (3_000 - charts.MOST_HOURS) * HOUR, UTC)
    assert all(any(text.startswith(f"{first:%d %B %Y %H:%M} to ") for text in texts(svg)) for svg in many)


def test_a_name_is_cut_and_escaped_in_the_svg():
    name = "<script>$x^2$ & \x1b\x00]]>" + "n" * 100
    svg = retry_delays(delay(1, 1, 1, 1, endpoint=name), name=name)
    [label] = [text for text in texts(svg) if text.startswith("<script>")]
    assert len(label) == 28
    assert label.startswith("<script>$x^2$ & ��]]>n")


def test_a_chart_has_no_links_scripts_times_and_background(every_chart):
    for svg in every_chart:
        elements = list(ET.fromstring(svg).iter())
        assert all(each.get(f"{XLINK}href", "#").startswith("#") for each in elements)
        tags = {each.tag.removeprefix(SVG) for each in elements}
        assert not tags & {"script", "image", "foreignObject", "a", "metadata"}
        assert "@import" not in svg
        assert not re.search(r"20\d\d-\d\d-\d\dT", svg)
        assert "fill: none" in next(element(svg, "patch_1").iter(f"{SVG}path")).get("style")


def contrast(one, other):
    """Return the contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def test_every_colour_is_readable_on_the_backgrounds_of_its_theme():
    for ink in set(chart_style.INKS) - {chart_style.RULE}:
        assert min(contrast(ink.light, background) for background in LIGHT_BACKGROUNDS) >= 4.5
        assert contrast(ink.dark, DARK_BACKGROUND) >= 4.5


def test_every_used_colour_has_a_counterpart_in_the_dark(every_chart):
    known = {ink.light for ink in chart_style.INKS}
    for svg in every_chart:
        drawing = svg.partition("</style>")[2]
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) <= known
        for text in ET.fromstring(svg).iter(f"{SVG}text"):
            assert re.search(r"fill: #[0-9a-f]{6}", text.get("style"))
        for ink in chart_style.INKS:
            assert f'{ink.light}"]{{fill:{ink.dark}!important}}' in svg


def test_charts_do_not_depend_on_the_style_and_backend_of_the_user(every_chart):
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert draw_all() == every_chart
        assert mpl.rcParams["axes.facecolor"] == "red"
    for module in (charts, chart_style):
        source = Path(module.__file__).read_text()
        assert not re.search("import.*pyplot", source), "it would choose the user's backend"
