"""How programs use ``resonant``, for the type checker: ``tests/test_wheel.py`` runs mypy over this file."""

from typing import assert_type

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

import resonant
from resonant import (
    ConflictingEvent,
    EnqueueResult,
    Event,
    Receipt,
    ResonantError,
    RetryPolicy,
    Selection,
    Sink,
    Store,
    Verdict,
    classifier,
    create_schema,
    enqueue,
    open_store,
)
from resonant.blocks import ResonantNotification, WebhookEndpoint


def produce(connection: Connection) -> int:
    create_schema(connection)
    event = Event(type="order.paid", source="/shop", data={"total": 10}, id="order-1", subject="1")
    assert_type(event.body, bytes)
    one = enqueue(connection, event, "billing")
    assert_type(one, EnqueueResult)
    several = enqueue(connection, [event, event], "billing", now=1_700_000_000.0)
    return one.accepted + several.known


async def produce_asynchronously(connection: AsyncConnection) -> EnqueueResult:
    await connection.run_sync(create_schema)
    event = Event(type="order.paid", source="/shop", data=None)
    return assert_type(await connection.run_sync(enqueue, event, "billing"), EnqueueResult)


async def embed(url: str) -> int:
    event = Event(type="order.paid", source="/shop", data=None)
    async with open_store(url) as store:
        assert_type(store, Store)
        assert_type(await store.enqueue(event, "billing", policy="patient", max_attempts=3), EnqueueResult)
        await store.enqueue([event], "billing", wake=False)
        await store.enqueue(event, "billing", polic="patient")  # type: ignore[call-arg]
        await store.claim("billing", owner="me", limit=1)  # type: ignore[attr-defined]
        async with store.transaction() as transaction:
            await transaction.run_sync(enqueue, event, "billing")
        assert (await store.detail(event.id)) is not None
        return (await store.status()).accepted + len(await store.dead_letters(Selection(endpoint="billing")))


def load() -> None:
    assert_type(WebhookEndpoint.load("shop"), WebhookEndpoint)
    assert_type(ResonantNotification.load("shop").endpoint, str)
    WebhookEndpoint(secret="s")  # type: ignore[call-arg]


class Printer:
    async def send(self, event: Event) -> Receipt | None:
        return Receipt(excerpt=event.id)


class Busy(ResonantError):
    pass


@classifier.rule
def judge(failure: BaseException) -> Verdict | None:
    return Verdict("transient", "busy") if isinstance(failure, Busy) else None


sink: Sink = Printer()
policy = RetryPolicy(max_attempts=3)
caught: tuple[type[ResonantError], ...] = (ConflictingEvent, resonant.StoreLocked)

Event(type="order.paid")  # type: ignore[call-arg]
enqueue("shop.db", [], "billing")  # type: ignore[arg-type]
unknown = resonant.no_such_name  # type: ignore[attr-defined]
