"""``metrics`` on a terminal of 80 columns."""

from __future__ import annotations


def test_the_table_of_event_types_shows_each_number_whole_and_folds_types(resonant, worker):
    worker.accept("evt_1", "evt_2")
    worker.attempt(duration=0.5)
    worker.accept("evt_3", event_type="com.example.customer.address.changed", endpoint="crm")
    worker.attempt(endpoint="crm", duration=12.5)
    lines = resonant.on_a_terminal("metrics").splitlines()
    rows = [" ".join(line.split()) for line in lines]

    assert max(map(len, lines)) <= 80
    assert "event type delivered dead unfinished attempts failed p95 ms" in rows
    assert "order.paid 2 0 0 2 0 500.0" in rows
    assert any(row.endswith(" 1 0 0 1 0 12,500.0") for row in rows)
    folded = next(number for number, row in enumerate(rows) if row.startswith("com.example."))
    assert rows[folded].split()[0] + rows[folded + 1] == "com.example.customer.address.changed"
