"""``resonant demo``: a demonstration on this machine, in a folder of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from resonant.cli import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", rich_help_panel=options.RUN, epilog="Example: resonant demo --keep")(demo)


def demo(
    events: Annotated[
        int, typer.Option("--events", metavar="N", min=1, max=100_000, help="Number of events.")
    ] = 300,
    stay: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Demonstrate Resonant in about a minute: events go to a receiver that misbehaves in eight ways, and none is lost.

    Starts a Prefect server with its UI, a worker, the deployments and the receiver. Stores generated events, lets the
    worker send them by the classic policy, and shows their outcomes. Everything is in a new temporary folder: the demo
    does not touch your own store or your own Prefect.
    """
    from resonant.cli.demo_run import run_demo

    run_demo(events, stay=stay)
