"""``resonant up``: run a Prefect server, a worker and the deployments on this machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.local.project import make_flows_importable, project_directory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from resonant.local.stack import Stack
    from resonant.settings import Settings
    from resonant.store import Store

PORT = 4200


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up", rich_help_panel=options.RUN, epilog="Example: resonant up --port 4300")(up)


def up(
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=1, max=65535, help="Port of the server and its UI, on 127.0.0.1."),
    ] = PORT,
) -> None:
    """Run the Prefect server with its UI, a worker and the deployments on this machine, until Ctrl-C.

    Meanwhile, a drain sends the events of `resonant enqueue` at once, and takes over the deliveries of lost workers.
    Other commands use this server instead of starting their own.
    """
    import asyncio

    from resonant.cli.running import run_with_store
    from resonant.local.drains import start_drains
    from resonant.local.stack import interrupted_by_signals
    from resonant.settings import load_settings

    settings = load_settings()
    store = run_with_store(_name, settings)
    with interrupted_by_signals(), whole_stack(settings, port=port) as stack:
        asyncio.run(start_drains())
        output.write(_what_runs(stack, store))
        output.flush()
        with contextlib.suppress(KeyboardInterrupt):
            stack.watch()


def whole_stack(settings: Settings, *, port: int) -> AbstractContextManager[Stack]:
    """Run server, worker and the project's deployments; see ``running_stack``."""
    from resonant.local.stack import running_stack

    make_flows_importable()
    from deployments.bootstrap import bootstrap

    return running_stack(settings, port=port, deploy=bootstrap)


async def _name(store: Store) -> str:
    return str(store)


def _what_runs(stack: Stack, store: str) -> str:
    return (
        f"UI           {stack.server.ui_url}\n"
        f"API          {stack.server.api_url}\n"
        f"deployments  {', '.join(stack.deployments)}\n"
        f"flows        {project_directory()}\n"
        f"store        {store}\n"
        f"logs         {', '.join(str(part.log) for part in stack.parts)}\n"
        "Ctrl-C stops everything.\n"
    )
