"""The traces of one event, from the program that creates it to the receiver, by OpenTelemetry's SDK.

The receiver refuses the first request. The first attempt continues the trace of the order; the retry begins a trace of its
own, with a link to the order. ``opentelemetry-sdk`` must be installed::

    python examples/traces.py

In production, the three parts are three programs, each with an exporter such as OTLP instead of the one that prints.
"""

import asyncio
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resonant import Event, open_store

ENDPOINT = "traced-shop"
os.environ["PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY"] = "false"  # no spans of Prefect's runs
STORE_URL = os.environ.setdefault("RESONANT_DATABASE_URL", "sqlite:///events.db")
SHOWN = ("resonant.attempt", "error.type", "resonant.decision")
TRACER = trace.get_tracer("example")


class Receiver(BaseHTTPRequestHandler):
    """Continues the trace of each request; is busy at first."""

    answers: ClassVar = [503, 200]

    def do_POST(self) -> None:
        """Receive an event."""
        self.rfile.read(int(self.headers["content-length"]))
        with TRACER.start_as_current_span("receive", propagate.extract(dict(self.headers.items()))):
            self.send_response(self.answers.pop(0))
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


async def place_order() -> None:
    """Store an event, which carries the trace of the current span."""
    with TRACER.start_as_current_span("place order"):
        event = Event(type="com.example.order.placed", source="/shop", data={"order": 42})
        async with open_store(STORE_URL) as store:
            await store.enqueue(event, ENDPOINT)


def emit() -> None:
    """Run ``resonant emit`` in this process, so that this program's SDK records it."""
    sys.argv = ["resonant", "emit", "--endpoint", ENDPOINT]
    try:
        runpy.run_module("resonant", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise


def show(spans: Sequence[ReadableSpan]) -> None:
    """Print each trace: its spans in the order of their starts, each below its parent."""
    numbers: dict[int, int] = {}
    depths: dict[int, int] = {}
    names = {span.context.span_id: span.name for span in spans}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        trace_id, span_id = span.context.trace_id, span.context.span_id
        if trace_id not in numbers:
            numbers[trace_id] = len(numbers) + 1
            sys.stdout.write(f"trace {numbers[trace_id]}\n")
        depths[span_id] = depths[span.parent.span_id] + 1 if span.parent else 1
        attributes = span.attributes or {}
        shown = [f"{name}={attributes[name]!s}" for name in SHOWN if name in attributes]
        shown += [
            f"link to {names[link.context.span_id]!r} of trace {numbers[link.context.trace_id]}"
            for link in span.links
        ]
        sys.stdout.write(f"{'  ' * depths[span_id]}{', '.join([span.name, *shown])}\n")


def main() -> None:
    """Send one event, and print its traces."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    add = [sys.executable, "-m", "resonant", "endpoint", "add", ENDPOINT, url]
    subprocess.run([*add, "--allow-private", "--overwrite"], check=True)  # noqa: S603 - our own command
    asyncio.run(place_order())
    emit()
    server.shutdown()
    show(exporter.get_finished_spans())


if __name__ == "__main__":
    main()
