"""The page about the system's own events names their types and the keys of their data."""

import re

from resonant.events import EventKey
from resonant.metrics.alerts import AlertCondition, Crossing
from resonant.store.queue.own_events import NewDeadLetter, gate_facts
from resonant.store.shared.gates import Gate
from support.pages import PROJECT

FAILURE = dict.fromkeys(("category", "code", "error_type", "error", "status_code"))


def test_the_table_has_the_keys_of_each_kind_of_event():
    text = (PROJECT / "docs/how-to/tell-a-chat.md").read_text()
    table = text.partition("| type | keys of the data |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if "`" in line]

    gate = Gate("orders")
    dead_letter = NewDeadLetter(
        1, 1, EventKey("/shop", "evt_1"), "order.paid", "orders", 0.0, "exhausted", 1, FAILURE
    )
    crossing = Crossing("raised", AlertCondition.GONE, "orders", 1.0, 0.0, "in words", 0.0, 0.0)
    assert {name: keys for name, *keys in rows} == {
        "resonant.endpoint.…": [*gate_facts(gate, gate)],
        "resonant.delivery.dead": [*dead_letter.to_report(0.0).data],
        "resonant.alert.…": [*crossing.facts],
    }
