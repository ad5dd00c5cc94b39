"""``resonant up``: run a Prefect server, a worker and the deployments on this machine."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.cli.command_store import command_store, run_async
from resonant.cli.run.serve import given_sources, lines_of_sources, require_checks
from resonant.local.project import make_flows_importable, project_directory

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from resonant.local.stack import Stack
    from resonant.settings import Settings
    from resonant.store import Store

PORT = 4200
_LABEL_WIDTH = 13
_OPEN_TO_ALL = (
    "every user of this machine can read the endpoints' secrets through this server, and run code as you: "
    "`resonant up --auth` requires a password"
)
_REPORTS_ELSEWHERE = (
    "failed runs are not reported: the enabled automations belong to other Prefect servers: "
    "`resonant automation list --all-servers`"
)


def up(
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=1, max=65535, help="Port of the server and its UI, on 127.0.0.1."),
    ] = PORT,
    auth: Annotated[
        bool,
        typer.Option(
            "--auth", help="Require a password, which is generated once and kept in the home folder."
        ),
    ] = False,
    intake_port: Annotated[
        int | None,
        typer.Option(
            "--serve",
            metavar="PORT",
            min=1,
            max=65535,
            help="Also accept events over HTTP, on 127.0.0.1, as `resonant serve` does.",
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --serve: also accept the webhooks that this file declares."),
    ] = None,
    console_port: Annotated[
        int | None,
        typer.Option(
            "--console",
            metavar="PORT",
            min=0,
            max=65535,
            help="Port of the console, on 127.0.0.1: 4201, or a free one if that is taken; 0 is no console.",
        ),
    ] = None,
) -> None:
    """Run the Prefect server with its UI, a worker, the console and the deployments on this machine, until Ctrl-C.

    A part that ends is restarted, unless it fails to start five times in ten minutes. The drains and the server for events over HTTP
    keep running while the Prefect server restarts.

    Meanwhile, a drain sends the events of `resonant enqueue` at once, and takes over the deliveries of lost workers.
    Other commands use this server instead of starting their own, and wait while it starts. Without a password, every
    user of this machine can use it, and read the secrets of the endpoints. With --auth, other commands use the password
    automatically.
    """
    from resonant.local.health import is_open_to_all
    from resonant.local.stack import interrupted_by_signals
    from resonant.local.work_pool import start_drains
    from resonant.store.shared.run_watches import read_watches

    if intake_port == port:
        raise options.Misuse(f"--serve {port} is the port of the server: choose another")
    declared: Collection[str] = ()
    if console_port and console_port in (port, intake_port):
        raise options.Misuse(f"--console {console_port} is the port of another part: choose another")
    if sources is not None:
        if intake_port is None:
            raise options.Misuse("--sources needs --serve PORT: the port that accepts webhooks")
        require_checks(declared := given_sources(sources), is_local=True)
    with command_store() as opened:
        settings, store, watches = opened.settings, opened.run(_name), opened.read(read_watches)
    starting = whole_stack(
        settings,
        port=port,
        with_password=auth,
        intake_port=intake_port,
        sources=sources,
        console_port=console_port,
    )
    with interrupted_by_signals(), starting as stack:
        from deployments import reports

        run_async(start_drains())
        if not run_async(reports.restore(watches)) and watches:
            output.say(_REPORTS_ELSEWHERE)
        if is_open_to_all(stack.server.api_url):
            output.say(_OPEN_TO_ALL)
        write_what_runs(stack, store, settings, intake_port=intake_port, sources=declared)
        with contextlib.suppress(KeyboardInterrupt):
            stack.watch()


def whole_stack(
    settings: Settings,
    *,
    port: int,
    with_password: bool = False,
    intake_port: int | None = None,
    sources: Path | None = None,
    console_port: int | None = 0,
) -> AbstractContextManager[Stack]:
    """Run server, worker, the project's deployments, the HTTP intake if it has a port, and the console; see ``running_stack``."""
    from resonant.local.stack import running_stack

    make_flows_importable()
    from deployments.bootstrap import bootstrap

    return running_stack(
        settings,
        port=port,
        deploy=partial(bootstrap, settings),
        with_password=with_password,
        intake_port=intake_port,
        sources=sources,
        console_port=console_port,
    )


async def _name(store: Store) -> str:
    return str(store)


def write_what_runs(
    stack: Stack,
    store: str,
    settings: Settings,
    *,
    intake_port: int | None = None,
    sources: Collection[str] = (),
) -> None:
    """Write the addresses and files of the running stack, a line each."""
    from resonant.local.artifacts import GATES_ARTIFACT, METRICS_ARTIFACT, TRIAGE_ARTIFACT, page
    from resonant.local.password import password_file

    pages = [page(stack.server.ui_url, each) for each in (TRIAGE_ARTIFACT, GATES_ARTIFACT, METRICS_ARTIFACT)]
    lines = [f"UI           {stack.server.ui_url}", f"API          {stack.server.api_url}"]
    if stack.console_url is not None:
        lines.insert(1, f"console      {stack.console_url}")
    if stack.has_password:
        lines.append(
            f"password     the line in {password_file(settings)}, for the UI, the console and PREFECT_API_AUTH_STRING"
        )
    if intake_port is not None:
        intake = f"http://127.0.0.1:{intake_port}"
        lines.append(f"events       {intake}/events, with a token of `resonant token create`")
        lines += lines_of_sources(intake, sources, width=_LABEL_WIDTH)
    lines += [
        f"undelivered  {', '.join(pages)}",
        f"deployments  {', '.join(stack.deployments)}",
        f"flows        {project_directory()}",
        f"store        {store}",
        f"logs         {', '.join(str(part.log) for part in stack.parts)}",
        "Ctrl-C stops everything.",
    ]
    for line in lines:
        output.write_paragraph(line, indent=_LABEL_WIDTH)
    output.flush()
