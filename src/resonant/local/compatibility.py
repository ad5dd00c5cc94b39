"""The private and undocumented names of Prefect that Resonant uses, and why the public API is not enough.

Prefect may rename these in any release. ``check_client_names`` and ``check_server_names`` look for each name at start,
so that a change in Prefect causes a one-line error at start instead of a traceback in the middle of a run.

Three dependencies cannot be wrapped in a function here:

- ``deployments/broker.py`` subclasses classes of ``prefect.server.utilities.messaging.memory``, which is how Prefect
  loads a message broker. They are checked here. It also knows the name of the service that stores events;
  ``tests/deployments/test_broker.py`` checks it.
- ``tasks/emit.py`` relies on an order: Prefect calls ``retry_condition_fn`` first, and then reads the delay. No
  name reveals that order; ``tests/tasks/test_emit.py`` checks it.
- ``resonant.blocks`` reads why Prefect refused to load or save a block from the cause of its ``ValueError``, and the name of a
  loaded block from ``_block_document_name``. ``tests/resonant/blocks`` and ``tests/resonant/test_prefect.py`` cover these.

Class attributes that Prefect asks authors of blocks to set, such as ``_block_type_name``, are public despite their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonant.dispatch.run.event_loop import FLOW_RUN
from resonant.errors import PrefectChanged, SettingsError
from resonant.local.project import project_directory
from resonant.settings import first_problem

if TYPE_CHECKING:
    from concurrent.futures import Future
    from uuid import UUID

    from prefect.blocks.core import Block
    from prefect.server.utilities.messaging.memory import Topic
    from starlette.types import ASGIApp

# The tested releases of Prefect. Newer ones are accepted if they have every name.
TESTED_PREFECT = ">=3.9,<3.10"

# The services of Prefect's client log under the names of their classes, outside of Prefect's loggers.
SERVICE_LOGGERS = ("EventsWorker", "APILogWorker", "QuietLogWorker")

_CONTEXT = "prefect.context"
_SERVICES = "prefect._internal.concurrency.services"
_EVENTS = "prefect.events.worker"
_LOGGING = "prefect.logging.handlers"
_MESSAGING = "prefect.server.utilities.messaging.memory"


# Relative paths in these variables are relative to the working folder.
_PATHS = (
    "PREFECT_HOME",
    "PREFECT_PROFILES_PATH",
    "PREFECT_LOGGING_CONFIG_PATH",
    "PREFECT_LOGGING_SETTINGS_PATH",
)


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A name that Prefect does not promise to keep.

    Attributes:
        name: as an error shows it.
        purpose: completes the error's ``needs to PURPOSE``.
        find: raises an error if Prefect does not have it.
    """

    name: str
    purpose: str
    find: Callable[[], object]


def import_prefect() -> None:
    """Import Prefect with the settings of the environment, the profile, and the project.

    When it is imported, Prefect also reads ``.env``, ``prefect.toml`` and ``pyproject.toml`` of the working folder. They can
    make it run code, so a command in somebody else's folder must not read them. Prefect has no option for this.

    Raises:
        SettingsError: a setting or the file of profiles is malformed.
    """
    if _CONTEXT in sys.modules:
        return
    for name in _PATHS:
        if path := os.environ.get(name):
            os.environ[name] = str(Path(path).expanduser().absolute())
    shown = io.StringIO()
    try:
        # Prefect prints invalid settings before it raises them.
        with _working_in(project_directory()), contextlib.redirect_stderr(shown):
            importlib.import_module(_CONTEXT)
    except ValueError as error:
        if problem := _problem_of_settings(error):
            raise SettingsError(problem) from None
        raise
    if sys.stderr is not None and shown.getvalue():
        sys.stderr.write(shown.getvalue())


def count_unsent_messages() -> int:
    """Return the number of messages about runs in the queue of Prefect's client.

    An emission waits while there are many. Prefect can bound the queue, but then drops the messages that do not fit.
    """
    from prefect.events.worker import EventsWorker

    return EventsWorker.instance()._queue.qsize()


def finish_sending_messages() -> set[Future[bool]]:
    """Let Prefect's client, if imported, send its queued messages; return a future for each queue that is not empty.

    A command waits for them before its server ends, but only while that server answers. Prefect has no public way to
    wait; at the end of a process it waits without a limit.
    """
    if _EVENTS not in sys.modules:
        return set()
    from prefect.events.worker import EventsWorker

    result: Any = EventsWorker.drain_all(timeout=0, at_exit=False)
    return set(result.not_done)


def drop_unsent_messages() -> None:
    """Stop the services of Prefect's client, if imported, that still have messages or logs to send.

    Once the server is gone, Prefect would try each message for seven seconds before the process may end, and has no
    way to give up.
    """
    if _SERVICES not in sys.modules:
        return
    from prefect._internal.concurrency.services import _active_services

    for service in list(_active_services):
        # The process exits once each service is done or is marked as done.
        if service._loop is not None and service._done_event is not None:
            service._loop.call_soon_threadsafe(service._done_event.set)


def send_logs_quietly() -> None:
    """Send run logs with a service that does not write to standard error when the server is unavailable.

    Prefect's own service writes there directly, not through a logger. Only ``logging.raiseExceptions`` would stop it,
    which would also silence the errors of every other log handler in the process.
    """
    from prefect.logging.handlers import APILogWorker, set_api_log_sink

    class QuietLogWorker(APILogWorker):
        async def _handle_batch(self, items: list[bytes]) -> None:
            # Prefect logs exceptions from here, and continues.
            body = b"[" + b",".join(items) + b"]"
            json = {"Content-Type": "application/json"}
            await self._client.request("POST", "/logs/", content=body, headers=json)

    set_api_log_sink(lambda log: QuietLogWorker.instance().send(log))


@contextlib.contextmanager
def cancelled_by_sigterm() -> Iterator[None]:
    """Let SIGTERM cancel the current task during the block, in a process that Prefect started for one flow run.

    Prefect's handler raises an exception in whatever code runs. In the middle of a send, that would be a failure of the delivery;
    while the event loop is idle, asyncio logs it. Prefect cancels a run only while the handler is the one in its module.
    """
    before: Any = signal.getsignal(signal.SIGTERM)
    module, name = sys.modules.get(getattr(before, "__module__", "")), getattr(before, "__name__", "")
    if FLOW_RUN not in os.environ or not (module and getattr(module, name, None) is before):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        if task and not task.cancelling():  # once, so that another signal does not interrupt the cleanup
            task.cancel()

    def handle(*_: object) -> None:
        loop.call_soon_threadsafe(cancel)

    def use(handler: Any) -> None:
        setattr(module, name, handler)
        signal.signal(signal.SIGTERM, handler)

    use(handle)
    try:
        yield
    finally:
        use(before)


@cache
def result_of_nothing() -> Any:
    """Return Prefect's record of the result None, which all task runs share.

    Otherwise Prefect creates a record for each None that a task returns, which takes an eighth of a task run's time.
    """
    from prefect.results import ResultStore

    return ResultStore().create_result_record(None)


def count_unread_messages(topic: Topic) -> int:
    """Return the number of unread messages in the fullest subscription to a topic of the server's broker.

    Prefect drops messages once a subscription has 10,000, and offers no way to count them.
    """
    return max((each._queue.qsize() for each in topic._subscriptions), default=0)


def prefect_application() -> ASGIApp:
    """Return the application of Prefect's server: its API and its UI.

    ``prefect server start`` offers no way to guard the server against foreign web pages.
    """
    from prefect.server.api.server import create_app

    return create_app(final=True)


def schema_id(block: type[Block]) -> UUID | None:
    """Return the id of the schema with which this process last registered or loaded a block.

    Prefect's API finds the latest schema of any version, or one by its checksum, which only a private method computes.
    """
    return block._block_schema_id


def check_client_names(*, runs_flows: bool = True) -> None:
    """Check the names that commands use and, if ``runs_flows``, those of flows and tasks. This imports Prefect.

    Raises:
        PrefectChanged: one is missing.
    """
    import_prefect()
    _check((*CLIENT_NAMES, *FLOW_NAMES) if runs_flows else CLIENT_NAMES)


def check_server_names() -> None:
    """Check the names that our Prefect server uses. This imports Prefect's server.

    Raises:
        PrefectChanged: one is missing.
    """
    _check(SERVER_NAMES)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    here = None
    with contextlib.suppress(OSError):  # the working folder may be deleted
        here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(here or folder)


def _problem_of_settings(error: ValueError) -> str | None:
    """Describe an error that Prefect raised when it read its settings; None for another error."""
    import tomllib

    from pydantic import ValidationError
    from pydantic_settings import SettingsError as MalformedJson

    if isinstance(error, tomllib.TOMLDecodeError):
        return f"a file of Prefect's settings, such as profiles.toml, is not TOML: {error}"
    if isinstance(error, ValidationError):
        place, message = first_problem(error)
        return f"{_variable(place[0], error.title) if place else 'the settings of Prefect'}: {message}"
    if isinstance(error, MalformedJson) and (found := re.search('field "(.+?)"', str(error))):
        return f"{_variable(found[1])}: not JSON"
    return None


def _variable(field: str, class_name: str | None = None) -> str:
    """Return the name of a Prefect setting, and where it may be set."""
    from prefect.settings.base import PrefectBaseSettings

    names = [
        f"{each.model_config.get('env_prefix')}{field}".upper()
        for each in PrefectBaseSettings.__subclasses__()
        if class_name in (None, each.__name__) and field in each.model_fields
    ] or [field.upper()]
    for name in names:
        if name in os.environ:
            return name
    return f"{names[0]} in Prefect's profile or prefect.toml"


def _check(names: Iterable[PrivateName]) -> None:
    for each in names:
        try:
            each.find()
        except (ImportError, AttributeError, TypeError):  # TypeError: the constructor changed
            raise PrefectChanged(
                f"Prefect {version('prefect')} has no {each.name}, which Resonant {version('resonant')} needs to "
                f"{each.purpose}: pip install 'prefect{TESTED_PREFECT}'"
            ) from None


def _service() -> Any:
    """Create a service without starting it."""
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker

    return EventsWorker(NullEventsClient, ())  # type: ignore[arg-type]


def _subscription() -> Any:
    from prefect.server.utilities.messaging.memory import Subscription, Topic

    return Subscription(Topic("a check"))


def _public(module: str, path: str, purpose: str) -> PrivateName:
    """Describe a name that has no underscore but is undocumented in Prefect's guides."""
    return PrivateName(path, purpose, lambda: attrgetter(path)(importlib.import_module(module)))


_TO_READ = "ignore settings of the working folder"
_TO_STOP = "stop when its server is gone"
_TO_HIDE = "hide failed uploads of logs"
_TO_BROKER = "keep its message broker from dropping messages"

CLIENT_NAMES = (
    _public(_CONTEXT, "GLOBAL_SETTINGS_CONTEXT.settings", _TO_READ),
    _public(_SERVICES, "_active_services", _TO_STOP),
    PrivateName("EventsWorker._loop", _TO_STOP, lambda: _service()._loop),
    PrivateName("EventsWorker._done_event", _TO_STOP, lambda: _service()._done_event),
    _public(_EVENTS, "EventsWorker.drain_all", "send the last records of task runs"),
    _public("prefect.blocks.core", "Block._block_schema_id", "save endpoints with its own schema"),
)
FLOW_NAMES = (
    PrivateName("EventsWorker._queue", "limit unsent records of task runs", lambda: _service()._queue),
    _public(_EVENTS, "EventsWorker.instance", "limit unsent records of task runs"),
    _public(_LOGGING, "APILogWorker._handle_batch", _TO_HIDE),
    _public(_LOGGING, "set_api_log_sink", _TO_HIDE),
    _public("prefect.results", "ResultStore.create_result_record", "record the results of task runs"),
)
SERVER_NAMES = (
    _public("prefect.server.api.server", "create_app", "guard the server against foreign web pages"),
    _public(_MESSAGING, "Publisher.publish_data", _TO_BROKER),
    _public(_MESSAGING, "MemoryMessage", _TO_BROKER),
    _public(_MESSAGING, "Consumer", _TO_BROKER),
    _public(_MESSAGING, "break_topic", _TO_BROKER),
    _public(_MESSAGING, "ephemeral_subscription", _TO_BROKER),
    PrivateName("Topic._subscriptions", _TO_BROKER, lambda: _subscription().topic._subscriptions),
    PrivateName("Subscription._queue", _TO_BROKER, lambda: _subscription()._queue),
)
