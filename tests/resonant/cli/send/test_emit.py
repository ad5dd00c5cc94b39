"""``resonant emit`` without files reports the events that stay in the store."""

import json
import re
import time

import pytest

from resonant.gate.pausing import pause
from resonant.store.shared.drains import beat
from resonant.store.shared.gates import Gate, GateChange, change_gate

pytestmark = pytest.mark.engine
LINE = '{"type": "t", "source": "/s", "data": 1, "id": "new"}\n'
NOTHING_SENT = "0 delivered, 0 retried, 0 parked, 0 dead-lettered"


@pytest.fixture
def nosy(webhook, worker):
    """An endpoint with three due deliveries."""
    worker.accept("e1", "e2", "e3", endpoint=webhook("nosy", "http://127.0.0.1:9/", allow_private=True))
    return worker


def test_deliveries_of_a_paused_endpoint_are_named_with_the_reason_and_the_command(
    resonant, nosy, opened, url
):
    nosy.do(lambda store: pause(store, "nosy", who="ann", reason="maintenance until 18:00"))
    opened.clear()

    answer = resonant.on_prefect("emit", code=1)

    assert opened == [url], "the command and its flow share a store"
    counts, said, _, following = answer.out.strip().split("; ", 3)
    assert counts == f"{NOTHING_SENT}, 3 held"
    assert said.startswith("nosy is paused ")
    assert said.endswith(" by ann: maintenance until 18:00")
    assert following == "next: `resonant endpoint resume nosy` sends again"
    assert answer.err.endswith(
        "resonant: 3 deliveries wait: nosy is paused; `resonant endpoint resume nosy` sends again\n"
    )
    as_json = resonant.on_prefect("emit", "--endpoint", "nosy", "--json", code=1)
    assert json.loads(as_json.out)["held"] == 3


@pytest.fixture
def probing(nosy):
    """The endpoint failed three times, and its probe is due in ten minutes."""
    now = time.time()
    down = Gate(
        "nosy", "probing", reason="3 failures in a row", failing_since=now - 6_000, probe_at=now + 600
    )
    nosy.do(lambda store: store.write(change_gate, GateChange(Gate("nosy"), down)))


@pytest.mark.slow
def test_at_the_end_of_the_only_run_no_probe_is_promised(resonant, probing):
    answer = resonant.on_prefect("emit")

    said = re.search(
        r", 3 held; nosy is probing for \d+ .+; 3 held; no run is sending to it: start `resonant up`; next: (.+)",
        answer.out,
    )
    assert said[1].startswith("repair the receiver: once a probe of a run succeeds, the deliveries are sent")


def test_an_emission_of_a_file_names_the_gates_that_hold_its_deliveries(resonant, probing, tmp_path):
    (tmp_path / "e.jsonl").write_text(LINE)

    answer = resonant.on_prefect("emit", "e.jsonl", "--endpoint", "nosy")

    assert answer.out == "0 delivered, 0 retried, 0 parked, 0 dead-lettered, 1 held\n"
    said = "nosy is probing for 2 h, after 3 failures in a row; 4 held; no run is sending to it: "
    assert said in answer.err
    assert "; next: repair the receiver: " in answer.err


def test_an_emission_says_why_and_how_long_its_parked_deliveries_wait(resonant, nosy, tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_POLICIES", '{"slow": {"base": 500, "jitter": "none"}}')
    (tmp_path / "e.jsonl").write_text(LINE)
    why = r" for a retry; last failure: connect_refused; the next is due in \d min; "
    nobody = r"no drain runs: start `resonant up`, or run `resonant emit` then\n"

    answer = resonant.on_prefect("emit", "e.jsonl", "--endpoint", "nosy", "--policy", "slow")

    assert answer.out == "0 delivered, 0 retried, 1 parked, 0 dead-lettered\n"
    assert re.search(f"^1 delivery waits{why}{nobody}\\Z", answer.err, re.MULTILINE)

    nosy.do(lambda store: store.write(beat, None, owner="drain", endpoint=None, clock=time.time))
    answer = resonant.on_prefect("emit", "--policy", "slow")

    assert re.fullmatch(f"4 deliveries wait{why}a running drain sends what is due\n", answer.err)
