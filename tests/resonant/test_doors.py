"""The outcome for an event does not depend on the door: library, command, HTTP, task, block or flow.

Where an outcome is decided, its own tests have its cases: ``store/queue``, ``events`` and ``test_input_lines.py``.
"""

import asyncio
import json
import logging
import os
import shutil
from dataclasses import dataclass, field

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.emit import emit_events
from resonant import Event
from resonant.dead_letters.erase import Erasure, erase
from resonant.errors import ResonantError
from resonant.intake.limits import IntakeLimits
from resonant.prefect import emit
from resonant.store.views.known_names import remember_endpoints
from support.commands import run_in_process
from support.file_endpoint import FileEndpoint
from support.posting import posting
from support.subscriptions import subscribe

ENDPOINT = "file-endpoint/doors"
EVENT = {"id": "evt_1", "type": "order.paid", "source": "/shop", "data": "first"}
MOST_BYTES = 100


@dataclass(frozen=True)
class Outcome:
    """What is given to each door, and what it must say.

    Attributes:
        says: words of each door; a door that is not here has no such outcome.
        refusal: words of every door; empty if the event is not refused.
        accepted: the number of deliveries that the store has accepted in the end.
        before: whether the event is stored before, and erased.
        given: members of the event that differ.
        endpoint: the endpoint that is named.
    """

    says: dict[str, str]
    refusal: str = ""
    accepted: int = 1
    before: tuple[str, ...] = ()
    given: dict[str, str] = field(default_factory=dict)
    endpoint: str | None = ENDPOINT


STORED = {
    "library": "accepted=1",
    "command": f"stored 1 event for {ENDPOINT}",
    "http": '202 {"events": [{"id": "evt_1", "source": "/shop", "duplicate": false',
    "task": f"stored event evt_1 for {ENDPOINT}",
    "block": "evt_1",
    "flow": "1 delivered",
}
REPEATED = {
    "library": "accepted=0, known=1",
    "command": f"stored 0 events for {ENDPOINT}, 1 already known",
    "http": '202 {"events": [{"id": "evt_1", "source": "/shop", "duplicate": true',
    "task": f"event evt_1 was already stored for {ENDPOINT}",
    "block": "evt_1",
    "flow": "1 delivered",
}
# A task and a block say no more of an erased event than of a repeat.
ERASED = REPEATED | {
    "library": "erased=1",
    "command": f"stored 0 events for {ENDPOINT}, 1 erased before",
    "http": '"erased": true',
    "flow": "1 not stored again, since they were erased",
}
DROPPED = STORED | {
    "library": "dropped_traces=1",
    "command": "; invalid traces dropped: 1",
    "flow": "invalid traces dropped: 1",
}


def refused(status, *doors):
    return {"http": f"{status} "} | dict.fromkeys(doors, "")


OUTCOMES = {
    "stored": Outcome(STORED),
    "repeat": Outcome(REPEATED, before=("stored",)),
    "conflict": Outcome(
        refused(409, "library", "command", "task", "block")
        | {"flow": "`resonant detail evt_1 --source /shop` shows it"},
        "id 'evt_1' of source '/shop' already exists with different content",
        before=("stored",),
        given={"data": "other"},
    ),
    # A block is an endpoint. The library takes any name: a program that stores events has no list of the endpoints.
    "unrouted": Outcome(
        refused(422, "library", "command", "task", "flow"),
        "no subscription wants type 'order.paid' of source '/shop' (id 'evt_1')",
        accepted=0,
        endpoint=None,
    ),
    "unknown endpoint": Outcome(
        refused(422, "command", "task", "flow"),
        "no endpoint is named 'file-endpoint/dors': did you mean file-endpoint/doors",
        accepted=0,
        endpoint="file-endpoint/dors",
    ),
    "erased": Outcome(ERASED, before=("stored", "erased")),
    "trace dropped": Outcome(DROPPED, given={"traceparent": "00-invalid"}),
    "too large": Outcome(
        refused(413, "library", "command", "task", "block", "flow"),
        f"data is {MOST_BYTES + 2} bytes, the limit is {MOST_BYTES}",
        accepted=0,
        given={"data": "x" * MOST_BYTES},
    ),
}


class Doors:
    """Each method gives an event to a door, and returns what it says; a refusal is a ``ResonantError``."""

    def __init__(self, desk, folder):
        self.desk = desk
        self.folder = folder
        self.endpoint = FileEndpoint(path=folder / "out", timeout=1)

    def library(self, given, endpoint):
        attributes = {name: value for name, value in given.items() if name != "traceparent"}
        trace = dict(given.items() - attributes.items())
        event = Event(**attributes, extensions=trace, max_bytes=MOST_BYTES)
        return str(self.desk.run(self.desk.store.enqueue([event], endpoint)))

    def command(self, given, endpoint):
        (self.folder / "events.jsonl").write_text(json.dumps(given))
        options = () if endpoint is None else ("--endpoint", endpoint)
        done = run_in_process(("enqueue", "events.jsonl", *options), os.environ, self.folder)
        return answer(done.stdout + done.stderr, is_refusal=done.returncode != 0)

    def http(self, given, endpoint):
        query = "" if endpoint is None else f"?endpoint={endpoint}"
        with posting(self.desk, limits=IntakeLimits(event_bytes=MOST_BYTES)) as client:
            answered = client.post(json.dumps(given), query=query)
        return answer(f"{answered.status_code} {answered.text}", is_refusal=answered.is_error)

    def task(self, given, endpoint):
        return emit.fn(given, endpoint)

    def block(self, given, endpoint):
        return self.endpoint.named(endpoint.removeprefix("file-endpoint/")).emit(given)

    def flow(self, given, endpoint):
        async def run():
            await self.endpoint.asave("doors", overwrite=True)
            return await emit_events(events=[given], endpoint=endpoint, return_state=True)

        state = asyncio.run(run())
        return answer(state.message, is_refusal=state.is_failed())


def answer(said, *, is_refusal):
    if is_refusal:
        raise ResonantError(said)
    return said


@pytest.fixture
def doors(open_desk, sqlite_template, tmp_path, monkeypatch):
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"
    for name, value in {
        "DATABASE_URL": url,
        "HOME": str(tmp_path),
        "MAX_EVENT_BYTES": str(MOST_BYTES),
    }.items():
        monkeypatch.setenv(f"RESONANT_{name}", value)
    desk = open_desk(url)
    desk.write(remember_endpoints, [ENDPOINT])
    subscribe(desk, ENDPOINT, "user.*")
    return Doors(desk, tmp_path)


@pytest.fixture
def door(request, doors):
    """One of the doors; only a flow needs a Prefect server."""
    api = request.getfixturevalue("prefect_api") if request.param == "flow" else ""
    with temporary_settings({PREFECT_API_URL: api}):
        yield getattr(doors, request.param)


def of_every_door():
    for name, outcome in OUTCOMES.items():
        for door, words in outcome.says.items():
            marks = [pytest.mark.engine] if door == "flow" else []
            yield pytest.param(door, outcome, words, id=f"{name}, {door}", marks=marks)


@pytest.mark.parametrize(("door", "outcome", "words"), [*of_every_door()], indirect=["door"])
def test_an_outcome_is_the_same_at_every_door(door, outcome, words, doors, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    caplog.set_level(logging.INFO)
    desk = doors.desk
    if "stored" in outcome.before:
        desk.enqueue(Event(**EVENT), endpoint=ENDPOINT)
    if "erased" in outcome.before:
        desk.run(erase(desk.store, Erasure(ids=("evt_1",)), who="a test"))

    try:
        said, is_refusal = door(EVENT | outcome.given, outcome.endpoint), False
    except ResonantError as error:
        said, is_refusal = str(error), True

    assert is_refusal == bool(outcome.refusal), said
    assert outcome.refusal in said
    assert words in f"{said}\n{caplog.text}"
    if door in (doors.http, doors.flow):
        assert EVENT["data"] not in said, "clients and Prefect see no content"
    desk.fold()
    status = desk.status()
    assert (status.accepted, status.balanced) == (outcome.accepted, True)
    stored = desk.detail("evt_1")
    if outcome.accepted and "erased" not in outcome.before:
        assert (stored.event.body, stored.event.traceparent) == (b'"first"', None)
