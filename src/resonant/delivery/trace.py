"""The spans of attempts, for OpenTelemetry. Without an SDK, none is made.

Names and attributes follow OpenTelemetry's conventions for messaging. The trace in which an event was created is its creation
context, to which every span has a link. A trace of three days is hard to read, so retries and replays begin new traces.
"""

import functools
import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from resonant.delivery.retry import GateView
from resonant.events import Attempt, Event, Lease
from resonant.sinks.base import TraceHeaders, attempt_trace

TraceMode = Literal["auto", "link", "parent", "off"]

# In the mode auto, a first attempt within this time after the acceptance belongs to the trace of its event.
_CHILD_SECONDS = 60.0
_WITHOUT_SDK = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_w3c = TraceContextTextMapPropagator()
logger = logging.getLogger(__name__)


class AttemptSpans:
    """Makes the spans of attempts. An error of the SDK is logged once, and harms no delivery."""

    def __init__(self, mode: TraceMode = "auto") -> None:
        """Prepare to make spans, once an SDK is installed.

        Args:
            mode: ``link`` makes new traces with a link to the creation context, ``parent`` makes children of it, ``auto``
                makes a child for a first attempt within a minute after the acceptance, and ``off`` makes no spans.
        """
        self._mode = mode
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        self._has_failed = False

    def of(self, lease: Lease, *, started_at: float, gate: Callable[[], GateView]) -> "AttemptSpan | NoSpan":
        """Return the span of the next attempt, as a context for the send.

        Args:
            lease: the delivery, with its attempts before this one.
            started_at: when the attempt starts, in seconds since the epoch.
            gate: returns the state of the endpoint's gate.
        """
        # Not `_harmless`, which would double the cost without an SDK.
        try:
            if (tracer := self._find_tracer()) is not None:
                return AttemptSpan(self._start(tracer, lease, started_at, gate().state), self._harmless)
        except Exception as error:  # noqa: BLE001
            self._note_failure(error)
        return _NO_SPAN

    def _find_tracer(self) -> Tracer | None:
        """Return the tracer of the SDK; None without an SDK, which may be installed later."""
        if self._mode == "off" or isinstance(provider := trace.get_tracer_provider(), _WITHOUT_SDK):
            return None
        if provider is not self._provider:
            self._provider = provider
            tracer = provider.get_tracer("resonant", _version())
            self._tracer = None if isinstance(tracer, trace.NoOpTracer) else tracer
        return self._tracer

    def _start(self, tracer: Tracer, lease: Lease, started_at: float, gate: str) -> Span:
        event = lease.event
        # Without the surrounding span, such as that of Prefect's task run, which would become the parent.
        created_in, no_parent = _creation_context(event), Context()
        return tracer.start_span(
            f"send {lease.endpoint}",
            context=created_in if self._is_child(lease, started_at) else no_parent,
            kind=SpanKind.CLIENT,
            links=[*_links(created_in)],
            attributes={
                "messaging.system": "resonant",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": lease.endpoint,
                "messaging.message.id": event.webhook_id or event.id,
                "cloudevents.event_id": event.id,
                "cloudevents.event_source": event.source,
                "cloudevents.event_type": event.type,
                "resonant.attempt": lease.attempts + 1,
                "resonant.round": lease.round,
                "resonant.gate": gate,
            },
        )

    def _is_child(self, lease: Lease, started_at: float) -> bool:
        if self._mode != "auto":
            return self._mode == "parent"
        is_first = lease.attempts == 0 and lease.round == 1
        return is_first and started_at - lease.accepted_at <= _CHILD_SECONDS

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Ignore errors: samplers, processors and exporters may run any code."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            # Its text may contain a secret, such as the headers of an exporter.
            logger.warning("traces may be incomplete: OpenTelemetry raised %s", type(error).__name__)


class NoSpan:
    """The span of an attempt that is not traced."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, attempt: Attempt) -> None:
        """Do nothing."""


class AttemptSpan:
    """The span of one attempt. In its block, it is the current span, and its trace is sent with the event."""

    def __init__(self, span: Span, harmless: Callable[[], AbstractContextManager[None]]) -> None:
        self._span = span
        self._harmless = harmless
        self._headers = _headers_of(span) if span.is_recording() else None
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._block.enter_context(
            trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
        )
        self._block.callback(attempt_trace.reset, attempt_trace.set(self._headers))
        return self

    def note(self, attempt: Attempt) -> None:
        """Describe the result, without secrets.

        Args:
            attempt: its texts are redacted.
        """
        with self._harmless():
            self._span.set_attributes(
                {name: value for name, value in _described(attempt) if value is not None}
            )
            if attempt.result != "delivered":
                self._span.set_status(StatusCode.ERROR, attempt.error)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._block.close()
        with self._harmless():
            if kind is not None:
                self._span.set_attribute("error.type", kind.__name__)
                self._span.set_status(StatusCode.ERROR, "interrupted")
            self._span.end()


def _creation_context(event: Event) -> Context:
    """Return the trace in which the event was created; an empty context if it is unknown."""
    stored = {"traceparent": event.traceparent, "tracestate": event.tracestate}
    return _w3c.extract({name: value for name, value in stored.items() if value is not None}, Context())


def _headers_of(span: Span) -> TraceHeaders:
    headers: dict[str, str] = {}
    _w3c.inject(headers, trace.set_span_in_context(span, Context()))
    return TraceHeaders(headers["traceparent"], headers.get("tracestate"))


def _links(created_in: Context) -> Iterator[Link]:
    """Yield links to the creation context and to the surrounding span, if there are any."""
    for span in (trace.get_current_span(created_in), trace.get_current_span()):
        if (context := span.get_span_context()).is_valid:
            yield Link(context)


def _described(attempt: Attempt) -> Iterator[tuple[str, str | int | None]]:
    yield "http.response.status_code", attempt.status_code
    yield "error.type", attempt.code
    yield "resonant.category", attempt.category
    yield "resonant.code", attempt.code
    yield "resonant.decision", attempt.decision


@functools.cache
def _version() -> str:
    return importlib.metadata.version("resonant")


_NO_SPAN = NoSpan()
