"""``audit``: who replayed, cancelled, purged, paused and resumed."""

import re

from resonant.events import rfc3339
from resonant.store.audit import add_to_audit, begin_audit, read_audit


def test_the_audit_lists_each_action_and_its_user_the_newest_first(resonant, dead):
    resonant("replay", "--all", "--dry-run")
    assert resonant.json("audit") == []
    answer = resonant("audit")
    assert (answer.out, answer.err) == ("", "no operator has changed anything\n")
    dead.accept("evt_waiting")
    resonant("cancel", "evt_waiting")
    resonant("purge", "--older-than", "30")
    resonant("purge", "--endpoint", "billing", "--code", "http_400", "--archive", "bad.jsonl", "--yes")

    filtered, purged, cancelled = resonant.json("audit")

    assert list(purged) == ["at", "who", "action", "selection", "count", "ended_at"]
    assert (purged["action"], purged["count"]) == ("purge", 1)
    assert purged["selection"]["dead_letters"] == 30
    assert (filtered["action"], filtered["count"]) == ("purge", 1)
    chosen = {"endpoint": "billing", "code": "http_400", "dead_letters": 0.0, "archive": "bad.jsonl"}
    assert filtered["selection"] == chosen
    assert (cancelled["action"], cancelled["selection"]) == ("cancel", {"ids": ["evt_waiting"]})
    assert purged["who"] == cancelled["who"]
    assert purged["who"].endswith("the command line")
    assert cancelled["at"] <= cancelled["ended_at"] <= purged["at"] <= purged["ended_at"]
    stored = dead.do(lambda store: store.read(read_audit))[-1]
    assert (cancelled["at"], cancelled["ended_at"]) == (rfc3339(stored.at), rfc3339(stored.ended_at))


def test_the_audit_shows_fifty_entries_by_default(resonant, worker):
    def begin(connection):
        for number in range(53):
            selection = {"ids": [f"evt_{number}"]}
            audit_id = begin_audit(connection, at=1.0, who="me", action="cancel", selection=selection)
            add_to_audit(connection, audit_id, number)

    worker.do(lambda store: store.write(begin))

    newest, *_ = entries = resonant.json("audit")
    assert len(entries) == 50
    assert len(resonant.json("audit", "--limit", "0")) == 53
    assert resonant.json("audit", "--limit", "2") == entries[:2]
    # As if their processes had been killed.
    assert (newest["selection"], newest["count"], newest["ended_at"]) == ({"ids": ["evt_52"]}, 52, None)
    assert "not ended" in resonant("audit").out


def test_an_entry_is_a_line_of_a_table_and_a_card_with_the_whole_selection(resonant, worker):
    worker.accept("evt_1")
    selection = ("--endpoint", "billing", "--type", "com.example.a-rather-long-name.order.*", "--since", "2h")
    resonant("cancel", *selection)
    resonant("purge", "--older-than", "0.5", "--archive", "purged.jsonl")
    resonant("cancel", "evt_1")
    resonant("endpoint", "pause", "billing")

    header, without_count, *_, line = resonant("audit").out.splitlines()
    screen = resonant.on_a_terminal("audit")

    assert header.split() == ["AT", "WHO", "ACTION", "COUNT", "TOOK", "SELECTION"]
    assert re.search(r"  pause   -      \d", without_count)
    at = re.escape(resonant.json("audit")[-1]["at"])
    assert re.match(rf'{at}  .+ on the command line  cancel  0 +[\d.]+ s  {{"event_type": "com', line)
    assert max(map(len, screen.splitlines())) <= 80
    paused, by_id, purged, cancelled = (" ".join(entry.split()) for entry in screen.strip().split("\n\n"))
    assert re.match(r"[\d-]+ [\d:]+Z purge, 0 deliveries, took [\d.]+ s by \S+ on the command line ", purged)
    assert re.search(r"Z pause, took .* on the command line endpoint billing$", paused)
    assert re.search(r"Z cancel, 1 delivery, took .* on the command line ids evt_1$", by_id)
    assert purged.endswith(" dead letters older than 0.5 days, archive purged.jsonl")
    assert " cancel, 0 deliveries, took " in cancelled
    assert "event type com.example.a-rather-long-name.order.*, endpoint billing, since 20" in cancelled
