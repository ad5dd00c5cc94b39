"""A store with trouble of every kind, as the console shows it."""

from dataclasses import replace
from typing import Any

from resonant.dead_letters.bodies import remove_bodies
from resonant.dead_letters.erase import Erasure, erase
from resonant.delivery.retry import GiveUp
from resonant.events import Event
from resonant.gate.pausing import pause
from resonant.routing import new_subscription
from resonant.store.queue.gate_changes import change_and_report
from resonant.store.shared.gates import FailingType, GateChange, read_gates
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.views.endpoint_problems import note_problems
from resonant.testing import FixedClock
from support.desk import Desk, opened_desk

# A page that does not escape it calls `hostile`, or is wider than the window.
HOSTILE = "<script>hostile()</script>\"'><img src=x onerror=hostile()>{{ 7 * 7 }}\u202e</table>"
LONG_NAME = "crm-" + "x" * 150
HOSTILE_ID = "<script>hostile()</script>/" + "y" * 200
_SOURCE = "/shop"


def fill(url: str, now: float) -> None:
    """Write the last 80 minutes of an operator's bad night to an empty store."""
    clock = FixedClock(now - 4900)
    with opened_desk(url, clock) as desk:
        night = _Night(desk)
        night.deliver()
        night.give_up()
        night.hold()
        night.change_data()
        desk.fold()


class _Night:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def deliver(self) -> None:
        desk = self.desk
        for name, types in {"orders": "order.*", LONG_NAME: HOSTILE}.items():
            new = new_subscription(name, {"types": [types]})
            desk.write(add_subscription, new, who="Zoë", now=desk.clock())
        for minute in range(60):
            name = f"evt_{minute:03}"
            endpoint = "warehouse" if minute % 3 == 0 else "orders"
            desk.enqueue(_event(name, {"order": minute, "items": ["shoes", "hat"]}), endpoint=endpoint)
            [lease] = desk.claim(endpoint=endpoint)
            if minute % 10 == 9:
                desk.fail(lease, desk.park_for(20.0), started_at=desk.clock())
                desk.clock.advance(20.0)
                [lease] = desk.claim(endpoint=endpoint)
            desk.begin(lease)
            desk.record(desk.delivered(lease, started_at=desk.clock(), duration=0.02 + minute / 500))
            desk.clock.advance(60.0)

    def give_up(self) -> None:
        invalid = {"status_code": 400, "category": "permanent", "code": "http_400", "blame": "endpoint"}
        answer = '{"error": "the field amount is missing", "hint": "' + "z" * 300 + '"}'
        self.bury(
            "refused", 4, "orders", "permanent", **invalid, error="the endpoint answered 400", excerpt=answer
        )
        self.bury("hostile", 2, LONG_NAME, "permanent", **invalid, error=HOSTILE, excerpt=HOSTILE * 3)
        certificate = {"code": "client_certificate", "blame": "local", "category": "permanent"}
        expired = {"status_code": None, "error": "the client certificate expired on 2026-07-01"}
        self.bury("certificate", 3, "warehouse", "permanent", **certificate, **expired)
        self.bury("down", 5, "billing", "exhausted")

    def bury(self, name: str, count: int, endpoint: str, reason: str, **attempt: Any) -> None:
        desk, kind = self.desk, HOSTILE if name == "hostile" else f"order.{name}"
        for number in range(count):
            event_id = HOSTILE_ID if (name, number) == ("hostile", 0) else f"{name}_{number}"
            desk.enqueue(_event(event_id, {"n": number}, event_type=kind), endpoint=endpoint)
            [lease] = desk.claim(endpoint=endpoint)
            desk.fail(lease, GiveUp(reason), started_at=desk.clock(), **attempt)
            desk.clock.advance(60.0)

    def hold(self) -> None:
        desk = self.desk
        for endpoint, count in {"billing": 30, "warehouse": 3, "orders": 5, "crm": 2}.items():
            events = [_event(f"{endpoint}_{n}", {"n": n}, event_type="order.paid") for n in range(count)]
            desk.enqueue(*events, endpoint=endpoint)
        now = desk.clock()
        for lease in desk.claim(2, endpoint="billing"):
            desk.fail(
                lease, desk.park_for(900.0), started_at=now, duration=30.0, status_code=None, code="timeout"
            )
        why = "5 of 5 attempts failed in 1 m: connection refused"
        self.gate("billing", state="probing", reason=why, failing_since=now, since=now, probe_at=now + 600.0)
        failing = FailingType("order.refused", now - 300.0, "http_400", now + 3600.0, now)
        self.gate("orders", failing=(failing,))
        desk.run(pause(desk.store, "warehouse", who="Zoë", reason="stocktaking"))
        reason = f"no block of this name; {HOSTILE}"
        desk.write(note_problems, {"crm": reason}, now=now)
        desk.clock.advance(300.0)

    def gate(self, endpoint: str, **values: Any) -> None:
        def change(connection: Any) -> None:
            gates = read_gates(connection)
            before = gates[endpoint]
            after = replace(before, **values)
            change_and_report(connection, GateChange(before, after, at=gates.at), now=self.desk.clock())

        self.desk.write(change)

    def change_data(self) -> None:
        desk = self.desk
        given = {
            "text": {"data": f"Hello {HOSTILE}\n" * 3, "datacontenttype": "text/plain"},
            "bytes": {"data": bytes(range(256))},
            "empty": {},
            "erased": {"data": "secret"},
        }
        for name, values in given.items():
            event = Event(id=name, type="note.written", source=_SOURCE, subject=HOSTILE, **values)
            desk.enqueue(event, endpoint="archive")
            desk.deliver(*desk.claim(endpoint="archive"))
        desk.run(erase(desk.store, Erasure(ids=("erased",)), who="Zoë", patience=0.0))
        desk.run(remove_bodies(desk.store, delivered_before=desk.clock() - 4300.0))


def _event(event_id: str, data: Any, *, event_type: str = "order.paid") -> Event:
    return Event(id=event_id, type=event_type, source=_SOURCE, data=data)
