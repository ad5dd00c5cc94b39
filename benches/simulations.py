"""``python -m benches simulations``: the table of docs/retries.md; each row is one ``resonant simulate`` command."""

import json
import shlex
import sys
from collections.abc import Sequence
from io import StringIO
from typing import Any

from typer.main import get_command

from resonant.cli import app

COMMAND = "resonant simulate --policy default --seeds 20"
ROWS = (
    ("1,000 events, down for 30 s, then 50 requests/s", ""),
    ("answers 503 while down", "--outage-kind 503"),
    ("never answers while down", "--outage-kind hang"),
    ("down for 1 s", "--outage 1"),
    ("down for 5 min", "--outage 5m"),
    ("down for an hour", "--outage 1h"),
    ("down for a day", "--outage 24h"),
    ("not down, but 1,000 events at once", "--outage 0"),
    ("accepts 1 request/s", "--capacity 1 --events 60"),
    ("accepts 3 requests/s, never down", "--outage 0 --capacity 3 --events 300"),
    ("accepts 10 requests/s, never down", "--outage 0 --capacity 10"),
    ("accepts 10 requests/s, rejects with 429", "--outage 0 --capacity 10 --overload 429"),
    ("accepts 100 requests/s", "--capacity 100 --events 2000"),
    ("accepts 500 requests/s", "--capacity 500 --events 10000"),
    ("4 processes", "--processes 4"),
    ("16 processes", "--processes 16"),
    ("16 processes, never answers while down", "--processes 16 --outage-kind hang"),
    ("alternately down and up for 2 s each, for a minute", "--outage 60 --flap 2"),
    ("alternately down and up for 10 s each, for two minutes", "--outage 120 --flap 10 --events 4000"),
    ("queues excess requests", "--overload queue"),
    ("queues excess requests, 16 processes", "--overload queue --processes 16"),
    ("429 with Retry-After: 30 to all requests for 5 min", "--outage 5m --outage-kind 429 --retry-after 30"),
    ("Retry-After: 1 to excess requests", "--overload 429 --retry-after 1"),
    (
        "429 with Retry-After: 5 to all requests, then none, for 20 s each; 150 events/s",
        "--outage 60 --flap 20 --outage-kind 429 --retry-after 5 --capacity 0 --events 18000 --over 120",
    ),
    (
        "429 with Retry-After: 5 to one request in a hundred; 150 events/s, never down",
        "--outage 0 --capacity 0 --limited 0.01 --retry-after 5 --events 15000 --over 100",
    ),
    ("a tenth of the requests fail at random", "--failures 0.1"),
    ("half of the requests fail at random", "--failures 0.5"),
    ("half of the requests fail at random, never down", "--failures 0.5 --outage 0 --capacity 0 --over 100"),
    ("a fifth of the events, of one type, always fails", "--poison 0.2"),
    ("half of the events, of one type, always fails", "--poison 0.5"),
    ("half of the events always fails, never down", "--poison 0.5 --outage 0 --capacity 0"),
    (
        "10,000 events over an hour, down for its first 10 min",
        "--events 10000 --over 1h --outage 10m --processes 4",
    ),
)


def main(argv: Sequence[str]) -> None:
    """Print the table, or only the rows whose command contains one of the words."""
    print(
        "| endpoint | attempts per event | peak ÷ capacity (worst seed) | drained after | noticed after | command |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, options in ROWS:
        if not argv or any(word in f"{name} {options}" for word in argv):
            print(line(name, options), flush=True)


def line(name: str, options: str) -> str:
    """Return a row of the table."""
    command = f"{COMMAND} {options}".rstrip()
    document = _run(command)
    capacity, variant = document["scenario"]["capacity"], document["variants"][1]
    peak = f"{variant['peak']['mean']:.2f} ({variant['peak']['worst']:.2f})" if capacity else "-"
    cells = (
        name,
        f"{variant['attempts']['mean']:.2f}",
        peak,
        f"{variant['drain']['mean']:,.0f} s",
        f"{variant['noticed']['mean']:,.1f} s",
        f"`{command}`",
    )
    if variant["given_up"]:
        raise AssertionError(f"{command} has dead letters")
    return f"| {' | '.join(cells)} |"


def _run(command: str) -> dict[str, Any]:
    stdout, sys.stdout = sys.stdout, StringIO()
    try:
        get_command(app).main([*shlex.split(command)[1:], "--json"], standalone_mode=False)
        written = sys.stdout.getvalue()
    finally:
        sys.stdout = stdout
    return json.loads(written)  # type: ignore[no-any-return]
