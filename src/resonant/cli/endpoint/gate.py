"""``resonant endpoint pause`` and ``resume``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import output
from resonant.cli import documents, name_checks, options

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from resonant.gate.pausing import OperatorChange


def pause(
    name: options.EndpointName,
    reason: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The reason on one line, shown by `resonant status` and `resonant audit`."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Stop sending to an endpoint until it is resumed. Its deliveries wait in the store.

    Every running process stops within a second. Requests in flight are not aborted.
    """
    from resonant.gate import pausing

    _write(_run(name, partial(pausing.pause, reason=reason)), as_json=as_json)


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

    resumed = _run(name, partial(pausing.resume, send_parked=now))
    _write(resumed, as_json=as_json, made_due=resumed.made_due)


def _run(name: str, change: Callable[..., Coroutine[Any, Any, OperatorChange]]) -> OperatorChange:
    from resonant.cli.running import command_store, who_runs_this

    with command_store() as store:
        name = options.endpoint_name(name)
        name_checks.check_filters(store, name)
        return store.run(lambda opened: change(opened, name, who=who_runs_this()))


def _write(done: OperatorChange, *, as_json: bool, **counts: object) -> None:
    changed = done.after != done.before
    document = {"endpoint": done.after.endpoint, "changed": changed, "gate": documents.gate(done.after)}
    output.write_result({**document, **counts}, output.visible(done.text), as_json=as_json, indent=0)
