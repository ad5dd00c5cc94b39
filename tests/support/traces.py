"""OpenTelemetry's SDK in a test."""

import threading

import uvicorn
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from support.waiting import wait_until


def install_sdk(monkeypatch, **options):
    """Let this process record spans until the test ends; returns the exporter that keeps them, and the provider."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter, provider


def ids(span_or_link):
    """Return the ids of a span, or of the span to which a link leads."""
    context = span_or_link.context
    return context.trace_id, context.span_id


def ids_in(traceparent):
    """Return the ids in a traceparent."""
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


class TracedReceiver:
    """An ASGI application on a real server, which continues the trace of each request by OpenTelemetry's own middleware.

    Attributes:
        url: where it receives.
        answers: the status codes of the next answers; 200 if there are none.
        received: the headers of each request.
    """

    def __init__(self, provider):
        self.answers, self.received = [], []
        app = Starlette(routes=[Route("/hook", self._receive, methods=["POST"])])
        traced = OpenTelemetryMiddleware(app, tracer_provider=provider)
        config = uvicorn.Config(traced, port=0, lifespan="off", log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    async def _receive(self, request):
        self.received.append(dict(request.headers))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/hook"
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
