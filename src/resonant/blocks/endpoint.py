"""The base classes of endpoint blocks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from prefect.blocks.core import Block
from pydantic import BaseModel, Field, HttpUrl

from resonant.blocks.documents import CAPABILITY, endpoint_name
from resonant.delivery.attempt import Destination
from resonant.endpoint_settings import SETTINGS
from resonant.errors import EndpointError
from resonant.events import Clock, Event
from resonant.local.calls import StoredId, both_ways, surrounding_try
from resonant.sinks.base import CallableSink, Receipt
from resonant.sinks.redaction import Redactor

DOCUMENTATION_URL = HttpUrl("https://github.com/resonant-events/resonant/blob/main/docs/how-to/endpoints.md")
LOGO_URL = HttpUrl("https://raw.githubusercontent.com/resonant-events/resonant/main/docs/images/logo.png")


def described(name: str) -> Any:
    """Return the field of a block for a setting."""
    setting = SETTINGS[name]
    options: dict[str, Any] = {"description": setting.description, **setting.limits}
    options["default_factory" if setting.default is dict else "default"] = setting.default
    return Field(**options)


class EndpointBlock(Block, ABC):
    """A destination of events, configured by an operator."""

    _block_schema_capabilities = [CAPABILITY]  # noqa: RUF012 - Prefect declares it like this
    _documentation_url = DOCUMENTATION_URL
    _logo_url = LOGO_URL

    policy: str | None = described("policy")
    timeout: float = described("timeout")
    concurrency: int | None = described("concurrency")
    rate: float | None = described("rate")

    if TYPE_CHECKING:  # Prefect's `load` has the type Any or a coroutine

        @classmethod
        def load(cls, name: str, *args: Any, **options: Any) -> Self:
            """Load a block in synchronous code; asynchronous code uses ``aload``."""

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Return Prefect's schema. Its form shows this kind's own fields, such as the URL, above the shared ones."""
        return deepcopy(_schema(cls, args, tuple(options.items())))

    def check(self, name: str) -> None:
        """Check the configuration. Prefect's form saves any configuration.

        Raises:
            EndpointError: it cannot be used as configured.
        """

    def named(self, name: str | None) -> Self:
        """Give the block its name, as Prefect's ``load`` does, and return it."""
        self._block_document_name = name
        return self

    def emit(self, event: Event | dict[str, Any]) -> Any:
        """Store an event for this endpoint; a drain sends it. The block must be loaded or saved.

        In synchronous code, the event is stored when this returns. In asynchronous code, ``await`` it, as ``aemit``: without
        ``await``, nothing is stored, and Python warns that a coroutine "was never awaited".

        Args:
            event: an ``Event``, or a dict with ``type``, ``source``, ``data`` and other members of an input line. Without an
                ``id``, each call stores a new event, but a retry of a Prefect run repeats the ids of its calls:
                ``resonant.prefect.emit`` describes when to give ids.

        Returns:
            The event's id.

        Raises:
            InvalidEvent: the event is malformed.
            EndpointError: the block was not loaded or saved, so it has no name.
            ConflictingEvent: an event with this source and id is stored with different content.
            SettingsError: the environment is malformed.
            StoreError: the store of ``RESONANT_DATABASE_URL`` cannot be used.
        """
        if isinstance(event, dict) and event.get("id") is None:
            surrounding_try()  # here, since all synchronous calls share the thread of Prefect's loop
        return both_ways(self.aemit(event), StoredId)

    async def aemit(self, event: Event | dict[str, Any]) -> str:
        """Store an event in asynchronous code, as ``emit`` does."""
        # This imports Prefect's engine, which commands do not need.
        from resonant.blocks.emitting import store_given  # noqa: PLC0415

        if (name := self._block_document_name) is None:
            raise EndpointError("this endpoint has no name: save it, or load it with `load`, before `emit`")
        of_block = endpoint_name(self.get_block_type_slug(), name)
        return (await store_given(event, of_block, is_of_block=True))[0]

    @abstractmethod
    def open(self, name: str, *, clock: Clock = time.time) -> Destination:
        """Return a destination that sends to this endpoint under this name.

        Args:
            name: the endpoint's name.
            clock: for signatures and the expiry of old secrets, in seconds since the epoch.

        Raises:
            EndpointError: it cannot be used as configured.
        """

    async def verify(self, name: str) -> list[str]:  # noqa: ARG002 - for other kinds
        """Ask the destination whether it exists and fits the configuration; return warnings.

        Raises:
            EndpointError: it does not.
        """
        return []

    def warning(self) -> str | None:
        """Return advice about a usable but unsafe setting, on one line without secrets; None without one."""
        return None


class SinkBlock(EndpointBlock, ABC):
    """The base class of custom endpoints: subclass it and implement ``deliver``.

    A package declares its subclass in the entry point group ``resonant.sinks``, and ``resonant up`` registers it.
    ``--endpoint BLOCK-TYPE/NAME`` sends events to it. See ``examples/spool_sink`` for an example.
    """

    @abstractmethod
    async def deliver(self, event: Event) -> Receipt | None:
        """Deliver the event once. Any exception is a failure, which is classified by its type.

        Args:
            event: ``event.body`` is its data as compact UTF-8 JSON.
        """

    def open(self, name: str, *, clock: Clock = time.time) -> Destination:  # noqa: ARG002 - signs nothing
        """Return a destination that removes the block's secrets from errors and results."""
        redactor = Redactor(_secrets(self))

        async def close() -> None:
            return None

        return Destination(
            name=name,
            sink=CallableSink(self.deliver),
            describe=redactor.message,
            close=close,
            timeout=self.timeout,
            policy=self.policy,
            concurrency=self.concurrency,
            rate=self.rate,
            redact=redactor.line,
        )


@cache
def _schema(
    kind: type[EndpointBlock], args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    """Return the schema of a kind, once: to save a block, Prefect asks for it more than a hundred times."""
    schema = super(EndpointBlock, kind).model_json_schema(*args, **dict(options))
    fields, shared = schema["properties"], EndpointBlock.model_fields
    own = kind.__annotations__
    for position, name in enumerate(sorted(fields, key=lambda name: (name in shared, name not in own))):
        fields[name]["position"] = position
    return schema


def _secrets(value: Any, *, is_secret: bool = False) -> Iterator[str]:
    """Yield every secret of a block, including its lists and nested blocks, and each line of multi-line secrets."""
    if hasattr(value, "get_secret_value"):
        value, is_secret = value.get_secret_value(), True
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _secrets(each, is_secret=is_secret)
    elif is_secret and value is not None:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        # A library may quote one line of a key.
        yield from (text, *text.splitlines())
