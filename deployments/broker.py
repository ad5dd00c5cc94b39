"""Prefect's in-memory message broker, changed to lose no records, and to keep the events of task runs out of the feed.

A task run sends a Prefect server three messages. The server queues 10,000 for each of its services and drops the rest, so
records of task runs are lost. With this broker, a client that sends many messages waits once a queue is half full: the
server stops reading its websocket, and the client keeps the rest. Meanwhile, the services that read the queues have the
server's only thread to themselves.

Two kinds of events do not reach the service that stores events for the UI's event feed, since they would fill it: those of task
runs, which are also recorded as task runs, and the loads of endpoints, which a run repeats every few seconds to notice a change.
Automations still get them.

``server.env`` names this module as ``PREFECT_SERVER_EVENTS_MESSAGING_BROKER``. Servers that share the work use Redis
instead (see docs/how-to/postgresql-and-redis.md).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect.server.utilities.messaging import Message, MessageHandler, memory
from prefect.server.utilities.messaging.memory import break_topic, ephemeral_subscription

from resonant.local.compatibility import count_unread_messages

# The names that Prefect requires of a broker's module.
__all__ = ["Consumer", "Publisher", "break_topic", "ephemeral_subscription"]

# Half of the capacity of a subscription.
MOST_UNREAD = 5_000
# A service that sends while it reads would wait for itself. After this time, it uses the other half.
PATIENCE_SECONDS = 10.0
# The server itself sends a few messages at a time, some within a transaction. If it waited there, the recording service,
# which writes to the same SQLite database, could not empty the queue.
SENT_AT_ONCE = 20
# If enabled, the server sends all logs of a request within a transaction, so this topic never waits.
_LOGS = "logs"
_PAUSE_SECONDS = 0.02
# The service that stores events, and the events that it does not get.
_FEED = "event-persister"
_NOT_STORED = ("prefect.task-run.", "prefect.block.webhook-endpoint.loaded")


class _Message(memory.MemoryMessage):
    """A message whose unchanging parts are shared by all subscriptions instead of copied."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Message":
        return _Message(self.data, self.attributes, self.retry_count)


class Consumer(memory.Consumer):
    """Reads the messages of a topic."""

    def __init__(self, *arguments: Any, group: str = "", **options: Any) -> None:
        """Read from a topic, as a service of this name; the other arguments are Prefect's."""
        super().__init__(*arguments, group=group, **options)
        self._is_of_feed = group == _FEED

    async def run(self, handler: MessageHandler) -> None:
        """Pass each message to the handler until cancelled; skip those that the event feed does not get."""

        async def handle(message: Message) -> None:
            if not str((message.attributes or {}).get("event", "")).startswith(_NOT_STORED):
                await handler(message)

        await super().run(handle if self._is_of_feed else handler)


class Publisher(memory.Publisher):
    """Sends messages to the subscriptions of a topic in this process."""

    def __init__(self, topic: str, cache: memory.Cache, deduplicate_by: str | None = None) -> None:
        """Send to a topic; the cache remembers the messages that were already sent, by this attribute."""
        super().__init__(topic, cache, deduplicate_by)
        self._known = cache
        self._sent = 0

    async def publish_data(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Send a message unless it was already sent. After many messages, wait while a subscription has too many unread."""
        self._sent += 1
        if self._sent > SENT_AT_ONCE and self.topic.name != _LOGS:
            await self._wait_for_room()
        messages: list[Any] = [_Message(data, attributes)]
        if self.deduplicate_by:
            messages = await self._known.without_duplicates(self.deduplicate_by, messages)
        for message in messages:
            await self.topic.publish(message)

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_SECONDS
        # Prefect's queues do not signal reads.
        while count_unread_messages(self.topic) >= MOST_UNREAD and loop.time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE_SECONDS)
