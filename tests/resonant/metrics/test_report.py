"""The table of event types of the statistics."""

from __future__ import annotations

from resonant.metrics.report import MOST_TYPES, tables
from support.metrics import Facts


def by_event_type(facts):
    """Return the rows of the table; none without the table."""
    found = tables(facts.statistics())
    return next((table.rows for table in found if table.title.startswith("By event type")), ())


def test_event_types_are_sorted_by_their_events():
    facts = Facts().delivered(event_type="paid").dead("expired", event_type="lost")
    facts.delivered(event_type="sent").delivered(event_type="sent")
    for number in range(1_250):
        (facts.failed if number < 5 else facts.attempt)(0.25, event_type="sent")
    facts.attempt(event_type="lost")
    assert by_event_type(facts) == (
        ("sent", "2", "0", "0", "1,250", "5", "250.0"),
        ("lost", "0", "1", "0", "1", "0", "100.0"),
        ("paid", "1", "0", "0", "0", "0", "-"),
    )


def test_many_event_types_are_cut_to_one_row_of_the_others():
    facts = Facts()
    for number in range(MOST_TYPES):
        for _ in range(3):
            facts.delivered(event_type=f"t{number:03}")
    assert by_event_type(facts)[-1][0] == f"t{MOST_TYPES - 1:03}"
    facts.delivered(event_type="x").dead("expired", event_type="x").attempt(event_type="x")
    assert by_event_type(facts)[-1] == ("1 other", "1", "1", "0", "1", "0", "-")
    facts.delivered(event_type="y").failed(event_type="y")
    rows = by_event_type(facts)
    assert len(rows) == MOST_TYPES + 1
    assert rows[-1] == ("2 others", "2", "1", "0", "2", "1", "-")


def test_without_events_there_is_no_table():
    assert by_event_type(Facts()) == ()
