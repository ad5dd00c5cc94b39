"""Statistics as tables: what a person finds in them."""

from __future__ import annotations

from resonant.metrics.percentiles import Spread
from resonant.metrics.report import MOST_TYPES, tables
from resonant.metrics.statistics import Attempts, Events, Figures, Statistics


def figures(success=0, dead_letter=0, unfinished=0, *, attempts=0, failed=0, p95=None):
    return Figures(
        events=Events(success + dead_letter + unfinished, success, dead_letter, 0, unfinished),
        attempts=Attempts(attempts, failed),
        latency=Spread(p95=p95, max=p95),
    )


def by_event_type(**by_type):
    found = tables(Statistics(0.0, 1.0, figures(), {}, by_type, (), ()))
    return next((table.rows for table in found if table.title.startswith("By event type")), ())


def test_each_event_type_is_a_row_those_of_the_most_events_first():
    assert by_event_type(
        paid=figures(1), sent=figures(3, 1, 1, attempts=1_250, failed=5, p95=0.25), lost=figures(0, 1)
    ) == (
        ("sent", "3", "1", "1", "1,250", "5", "250.0"),
        ("lost", "0", "1", "0", "0", "0", "-"),
        ("paid", "1", "0", "0", "0", "0", "-"),
    )


def test_many_event_types_are_cut_to_one_row_of_the_others():
    some = {f"t{number:03}": figures(10, p95=1.0) for number in range(MOST_TYPES)}
    rows = by_event_type(**some, x=figures(1, 2, 1, attempts=4, failed=3), y=figures(2, attempts=2, p95=9.0))
    assert len(rows) == MOST_TYPES + 1
    assert rows[-1] == ("2 others", "3", "2", "1", "6", "3", "-")
    assert by_event_type(**some, x=figures(1))[-1][0] == "1 other"
    assert by_event_type(**some)[-1][0] == f"t{MOST_TYPES - 1:03}"


def test_where_nothing_happened_there_is_no_such_table():
    assert by_event_type() == ()
