"""``resonant endpoint pause`` and ``resume``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import command_store, who_runs_this

if TYPE_CHECKING:
    from resonant.gate.pausing import OperatorChange


def pause(
    name: options.EndpointName,
    reason: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The reason, at most 500 characters on one line, shown by `resonant status` and `resonant audit`.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Stop sending to an endpoint until it is resumed. Its deliveries wait in the store.

    Every running process stops within a second. Requests in flight are not aborted.
    """
    from resonant.gate import pausing

    _run(name, partial(pausing.pause, reason=reason), as_json=as_json)


def resume(
    name: options.EndpointName,
    now: Annotated[
        bool, typer.Option("--now", help="Also make the endpoint's parked deliveries due now.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Resume a paused endpoint: send its deliveries again.

    If it was failing before the pause, or answered 410, send one probe and, if it succeeds, the other deliveries. For a
    failing endpoint that is not paused, makes the next probe due now. Parked deliveries keep waiting for their retries unless --now
    is given.
    """
    from resonant.gate import pausing

    _run(name, partial(pausing.resume, send_parked=now), as_json=as_json)


def _run(name: str, change: Callable[..., Coroutine[Any, Any, OperatorChange]], *, as_json: bool) -> None:
    with command_store() as store:
        name = options.endpoint_name(name)
        name_checks.check_filters(store, name)
        done = store.run(lambda opened: change(opened, name, who=who_runs_this()))
        document = documents.gate_change(done, now=store.now())
    output.write_result(document, output.visible(done.text), as_json=as_json, indent=0)
