"""``metrics`` and ``prometheus``."""

import re
import stat

import pytest

from support.prometheus_text import samples

SPREAD = ["min", "avg", "p50", "p95", "p99", "max"]


def test_the_document_has_the_keys_of_the_contract_and_counts_events_once(resonant, busy):
    document = resonant.json("metrics")
    hourly = document.pop("hourly")
    by_event_type = document["by_event_type"]
    latency = document.pop("latency_ms")
    assert list(latency) == SPREAD
    assert list(latency.values()) == pytest.approx([100.0, 250.0, 250.0, 385.0, 397.0, 400.0], rel=0.01)
    assert (latency["min"], latency["avg"], latency["max"]) == (100.0, 250.0, 400.0)
    for name in ("end_to_end_ms", "first_attempt_ms"):
        assert list(document.pop(name)) == SPREAD
    counts = {"total": 3, "success": 2, "failed": 1, "dead_letter": 1}
    assert document == {
        "events": counts | {"success_rate": pytest.approx(2 / 3)},
        "error_categories": {"permanent": 1, "transient": 1},
        "error_types": {"UnexpectedStatus": 2},
        "retries": {"total": 1, "avg": pytest.approx(1 / 3), "max": 1},
        "by_event_type": by_event_type,
    }
    assert by_event_type == {
        "order.paid": {
            "events": document["events"],
            "attempts": {"total": 4, "failed": 2},
            "error_categories": document["error_categories"],
            "latency_ms": latency,
            "retries": document["retries"],
        }
    }
    assert {" ".join(hour) for hour in hourly} == {
        "hour success dead_letter attempts failed_attempts latency_ms"
    }
    assert sum(hour["attempts"] for hour in hourly) == 4
    assert list(hourly[-1]["latency_ms"]) == SPREAD


@pytest.mark.parametrize(("window", "events"), [("24h", 3), ("7d", 4), ("2000-01-01T00:00:00Z", 4)])
def test_the_window_is_an_age_or_a_time_or_a_setting(resonant, busy, monkeypatch, window, events):
    assert resonant.json("metrics", "--window", window)["events"]["total"] == events
    monkeypatch.setenv("RESONANT_METRICS_WINDOW_HOURS", "96")
    assert resonant.json("metrics")["events"]["total"] == 4


def test_each_event_type_is_shown_the_most_frequent_first(resonant, busy):
    busy.accept("evt_4", event_type="a.rare|one", endpoint="crm")
    busy.attempt(endpoint="crm", duration=0.5)
    by_type = resonant.json("metrics")["by_event_type"]
    totals = [(name, figures["events"]["total"]) for name, figures in by_type.items()]
    assert totals == [("order.paid", 3), ("a.rare|one", 1)]
    lines = resonant("metrics").out.partition("By event type")[2].splitlines()
    first, second = (" ".join(line.split()) for line in lines[2:4])
    figures, p95 = first.rsplit(" ", 1)
    assert figures == "order.paid 2 1 0 4 2"
    assert float(p95) == pytest.approx(385.0, rel=0.01)
    assert second == "a.rare|one 1 0 0 1 0 500.0"


def test_metrics_of_an_empty_store_are_null_and_no_error(resonant):
    document = resonant.json("metrics")
    assert document["events"] == {
        "total": 0,
        "success": 0,
        "failed": 0,
        "dead_letter": 0,
        "success_rate": None,
    }
    assert document["latency_ms"] == dict.fromkeys(SPREAD)
    assert document["retries"] == {"total": 0, "avg": None, "max": None}
    assert (document["hourly"], document["by_event_type"]) == ([], {})
    assert resonant("metrics").out.startswith("nothing happened since ")


def test_a_person_reads_the_meaning_of_each_rate_first(resonant, busy):
    text = resonant("metrics").out
    first, *rest = text.splitlines()
    assert text.isascii(), "only terminals show bars"
    assert "66.67 % of 3 ended events were delivered, 0 are unfinished" in first
    assert "50.00 % of 4 attempts failed" in first
    rows = [" ".join(line.split()) for line in rest]
    assert "crm 0 1 1 0 0.00 %" in rows
    assert "billing 3 1 33.33 % 1 0.50 1" in rows
    assert any(row.startswith("(all) 100.0 250.0 ") and row.endswith(" 400.0") for row in rows)
    assert any("first attempt" in row for row in rows)
    assert "category permanent 1" in rows


def shown(resonant, columns=120, charset="utf-8") -> list[str]:
    """Return the lines of the metrics on a terminal, without white space for alignment."""
    screen = resonant.on_a_terminal("metrics", columns=columns, charset=charset)
    return [" ".join(line.split()) for line in screen.splitlines()]


def test_on_a_terminal_counts_have_bars_of_one_scale_in_a_table(resonant, worker):
    worker.accept(*(f"evt_{n}" for n in range(8)))
    worker.attempt()
    worker.bury("evt_8", endpoint="crm", reason="permanent", category="permanent")
    lines = shown(resonant)
    [hour] = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:00Z 8 ", line)]
    assert re.search(r"8 (█+) 1 (█▌) 9 1", hour)[1] == "█" * 12
    assert "category permanent 1 ████████████" in lines
    assert "(all) 8 1 1 0 88.89 %" in lines


@pytest.mark.parametrize("where", [{"columns": 80}, {"charset": "ascii"}, {"charset": "latin-1"}], ids=str)
def test_there_are_no_bars_where_a_terminal_has_no_room_or_no_such_characters(resonant, busy, where):
    hours = "\n".join(shown(resonant, **where)).partition("By hour, in UTC")[2]
    assert hours
    assert not {"█", "▌", "?", "\ufffd"} & set(hours)


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


def test_prometheus_text_is_on_stdout(resonant, busy):
    found = samples(resonant("prometheus").out)
    assert found["resonant_events_accepted_total", "billing"] == 3
    assert found["resonant_delivery_outcomes_total", "crm", "dead_letter"] == 1
    p50 = found["resonant_delivery_latency_percentile_seconds", "billing", "p50"]
    assert p50 == pytest.approx(0.2, rel=0.01)


def test_a_file_replaces_an_existing_one_and_others_may_read_it(resonant, busy, tmp_path):
    path = tmp_path / "metrics.prom"
    path.write_text("half a fi")
    path.chmod(0o600)
    said = resonant("prometheus", "--output", "metrics.prom").out
    found = samples(path.read_text())
    assert said == f"wrote {len(found)} samples to metrics.prom\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert found["resonant_events_accepted_total", "crm"] == 1


def test_an_unavailable_store_leaves_the_last_file(resonant, busy, tmp_path, monkeypatch):
    resonant("prometheus", "-o", "metrics.prom")
    before = (tmp_path / "metrics.prom").read_text()
    monkeypatch.setenv("RESONANT_DATABASE_URL", "sqlite:////proc/no/such.db")
    resonant("prometheus", "-o", "metrics.prom", code=1)
    assert (tmp_path / "metrics.prom").read_text() == before
    assert not list(tmp_path.glob(".metrics*"))


def test_json_has_the_same_samples(resonant, busy):
    rows = resonant.json("prometheus")
    found = {
        (row["name"], *(label for _, label in sorted(row["labels"].items()))): row["value"] for row in rows
    }
    text = samples(resonant("prometheus").out)
    assert found.pop(("resonant_last_export_timestamp_seconds",)) > 0
    del text["resonant_last_export_timestamp_seconds",]
    assert found == text
