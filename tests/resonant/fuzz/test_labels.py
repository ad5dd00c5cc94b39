"""Prometheus labels: any text is read back unchanged, and makes no further line."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from resonant.metrics.prometheus import registry_of, to_text
from resonant.metrics.totals import Totals
from resonant.store.counts.sketches import Labels, Sketch
from resonant.store.shared.gates import Gate
from support.metrics import Facts

fuzzed = settings.get_profile("fuzz-io")

nasty = st.text(
    st.sampled_from(
        ['"', "\\", "\n", "\r", "{", "}", ",", "=", " ", "#", "n", "a", "\t", "\x00", "\x85", "\u2028", "é"]
    )
    | st.characters(codec="utf-8"),
    max_size=8,
) | st.sampled_from(['a"} 1\nfake_total{x="', "x\\", '\\"', "\\n", "# HELP a b\n", "# EOF\n"])
NOTHING = Facts().statistics()


@fuzzed
@given(st.lists(st.tuples(nasty, nasty, nasty, nasty), min_size=1, max_size=4, unique=True))
def test_labels_come_out_as_they_went_in(labels):
    endpoints = tuple(sorted({endpoint for endpoint, *_ in labels}))
    totals = Totals(
        taken_at=1.0,
        accepted=dict.fromkeys(endpoints, 1),
        counted={
            Labels("attempt", endpoint, "", result, category, code): Sketch(7)
            for endpoint, result, category, code in labels
        },
        deliveries={(endpoint, status): 3 for endpoint, status, *_ in labels},
        dead_letters={(endpoint, category, reason): 5 for endpoint, category, reason, _ in labels},
        oldest_due_at=dict.fromkeys(endpoints, 2.0),
        oldest_dead_at={},
        last_seen_at={},
        gates={endpoint: Gate(endpoint, "paced", pace=9.0, reason=endpoint) for endpoint in endpoints},
    )
    text = to_text(registry_of(totals, NOTHING))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("resonant_") for name in families)

    def found(name, value, *words):
        samples = [each for each in families[name].samples if each.value == value]
        return {tuple(each.labels[word] for word in words) for each in samples}

    attempts = found("resonant_delivery_attempts", 7.0, "endpoint", "result", "category", "code")
    assert attempts == set(labels)
    dead_letters = found("resonant_dead_letters", 5.0, "endpoint", "category", "reason")
    assert dead_letters == set(totals.dead_letters)
    assert found("resonant_deliveries", 3.0, "endpoint", "status") == set(totals.deliveries)
    due = found("resonant_oldest_due_timestamp_seconds", 2.0, "endpoint")
    assert due == {(endpoint,) for endpoint in endpoints}
    assert found("resonant_endpoint_pace_per_second", 9.0, "endpoint") == due
    samples = sum(len(family.samples) for family in families.values())
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len(lines) == samples, "no text makes a line of its own"
    text.encode()
