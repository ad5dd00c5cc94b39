"""``resonant demo``: a demonstration on this machine, in its own folder."""

from typing import Annotated

import typer


def demo(
    events: Annotated[
        int, typer.Option("--events", metavar="N", min=1, max=100_000, help="Number of events.")
    ] = 300,
    stay: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Demonstrate Resonant in about a minute: send events to a receiver that misbehaves in eight ways, and lose none.

    Starts a Prefect server with its UI, a worker, the deployments and the receiver. Stores generated events, lets the
    worker send them with the classic policy, and shows their outcomes. A signed webhook, sent twice, starts one flow
    run. All files are in a new temporary folder: your own store and your own Prefect stay unchanged.
    """
    from resonant.cli.demo.run import run_demo

    run_demo(events, stay=stay)
