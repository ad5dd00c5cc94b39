"""Resonant: reliable event delivery on Prefect.

The public modules are ``resonant``, ``resonant.testing``, ``resonant.blocks`` and ``resonant.prefect``; every other module may
change in any release.

Producers use ``Event``, ``enqueue`` and ``create_schema``; programs that embed the store use ``open_store``; authors of
sinks use ``Sink``, ``Receipt``, ``Verdict``, ``classifier`` and ``RetryPolicy``. Each name is imported on first use, so
that ``import resonant`` is cheap. Only ``resonant.blocks`` and ``resonant.prefect`` import Prefect at import time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resonant.dead_letters.archive import read_archive
    from resonant.delivery.classification import classifier
    from resonant.delivery.retry import RetryPolicy
    from resonant.delivery.verdict import Verdict
    from resonant.errors import (
        AddressRefused,
        ConflictingEvent,
        DeploymentMissing,
        EndpointError,
        EventRefused,
        InvalidEvent,
        NotReady,
        PrefectDenied,
        ResonantError,
        RunCancelled,
        RunCrashed,
        RunFailed,
        RunNotCompleted,
        RunOverdue,
        RunRefused,
        RunUnfinished,
        RunUnseen,
        SendFailed,
        StoreError,
        StoreLocked,
        StoreRefused,
        StoreReplaced,
        StoreTooNew,
        StoreUnavailable,
        TokenUnavailable,
        Uncounted,
        UnexpectedStatus,
        UnknownEndpoint,
        UnknownName,
        UnroutedEvent,
    )
    from resonant.events import Event
    from resonant.sinks.base import Receipt, Sink
    from resonant.store import EnqueueResult, Store, create_schema, enqueue, open_store
    from resonant.store.views.selection import Selection

__all__ = [
    "AddressRefused",
    "ConflictingEvent",
    "DeploymentMissing",
    "EndpointError",
    "EnqueueResult",
    "Event",
    "EventRefused",
    "InvalidEvent",
    "NotReady",
    "PrefectDenied",
    "Receipt",
    "ResonantError",
    "RetryPolicy",
    "RunCancelled",
    "RunCrashed",
    "RunFailed",
    "RunNotCompleted",
    "RunOverdue",
    "RunRefused",
    "RunUnfinished",
    "RunUnseen",
    "Selection",
    "SendFailed",
    "Sink",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreRefused",
    "StoreReplaced",
    "StoreTooNew",
    "StoreUnavailable",
    "TokenUnavailable",
    "Uncounted",
    "UnexpectedStatus",
    "UnknownEndpoint",
    "UnknownName",
    "UnroutedEvent",
    "Verdict",
    "classifier",
    "create_schema",
    "enqueue",
    "open_store",
    "read_archive",
]

# Where each name is defined; the errors are in resonant.errors.
_MODULES = {
    "EnqueueResult": "resonant.store",
    "Event": "resonant.events",
    "Receipt": "resonant.sinks.base",
    "RetryPolicy": "resonant.delivery.retry",
    "Selection": "resonant.store.views.selection",
    "Sink": "resonant.sinks.base",
    "Store": "resonant.store",
    "Verdict": "resonant.delivery.verdict",
    "classifier": "resonant.delivery.classification",
    "create_schema": "resonant.store",
    "enqueue": "resonant.store",
    "open_store": "resonant.store",
    "read_archive": "resonant.dead_letters.archive",
}


if not TYPE_CHECKING:  # a type checker would accept any name of a module with __getattr__

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES.get(name, "resonant.errors")), name)
        globals()[name] = value  # later lookups bypass this function
        return value


def __dir__() -> list[str]:
    return __all__
