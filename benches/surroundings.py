"""What a bench runs in: an empty home, a Prefect server of its own, and events to send."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING

from resonant.cli.server import configure_prefect, free_port, started_server
from resonant.events import Event, new_event_id, parse_event
from resonant.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDPOINT = "bench"
DATA_BYTES = 300


@contextlib.contextmanager
def empty_home() -> Iterator[Settings]:
    """Point Resonant and Prefect, not yet imported, at an empty folder, and yield the settings."""
    with tempfile.TemporaryDirectory(prefix="resonant-bench-", ignore_cleanup_errors=True) as folder:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "RESONANT_"))]:
            del os.environ[name]
        os.environ |= {"RESONANT_HOME": f"{folder}/resonant", "PREFECT_HOME": f"{folder}/prefect"}
        yield load_settings()


@contextlib.contextmanager
def prefect_server(settings: Settings) -> Iterator[str]:
    """Start a server with the shipped settings, point Prefect at it, and yield its API's URL."""
    configure_prefect()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"  # the server gets its lines nevertheless
    with started_server(settings, port=free_port(), ui=False) as api_url:
        os.environ["PREFECT_API_URL"] = api_url
        yield api_url


def events(count: int) -> list[Event]:
    """Make events whose data has 300 bytes."""
    return [parse_event(line) for line in lines(count)]


def lines(count: int) -> list[bytes]:
    """Make input lines of events whose data has 300 bytes."""
    return [_line(number) for number in range(count)]


def write_lines(path: Path, count: int) -> Path:
    """Write a file of such lines."""
    path.write_bytes(b"\n".join(lines(count)))
    return path


def _line(number: int) -> bytes:
    data = {
        "order": f"{number:08d}",
        "customer": {"id": 4711, "name": "Zoë Example", "vip": False},
        "lines": [{"sku": "A-17", "quantity": 2, "price": "12.50"}],
        "note": "",
    }
    size = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    data["note"] = "x" * (DATA_BYTES - size)
    event = {
        "id": new_event_id(),
        "type": "com.example.order.paid",
        "source": "https://shop.example.com/orders",
        "data": data,
    }
    return json.dumps(event, ensure_ascii=False).encode()
