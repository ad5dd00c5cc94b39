"""``python -m resonant.testing``: a receiver as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import pkgutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resonant.testing.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resonant.testing.actions import Action
    from resonant.testing.receiver import Script


async def _run(script: Script | Action, port: int, journal_path: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Receiver(script, port=port, journal_path=journal_path) as receiver:
        sys.stdout.write(f"{receiver.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a receiver until SIGTERM or SIGINT; its URL is the one line on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m resonant.testing", description="A scripted HTTP receiver."
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 (the default) takes a free one")
    parser.add_argument("--journal", type=Path, help="append each request to this file as a line of JSON")
    parser.add_argument(
        "--script", default="resonant.testing:always_ok", help="MODULE:NAME of a script or an action"
    )
    options = parser.parse_args(arguments)
    asyncio.run(_run(pkgutil.resolve_name(options.script), options.port, options.journal))


if __name__ == "__main__":
    main()
