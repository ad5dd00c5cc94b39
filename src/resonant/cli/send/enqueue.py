"""``resonant enqueue``: store events, and leave sending to a drain or a later ``resonant emit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import command_store
from resonant.display import counted

if TYPE_CHECKING:
    from resonant.cli.send.files import Summary


def enqueue(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JSONL files; - is standard input.")],
    *,
    endpoint: Annotated[
        str | None,
        options.endpoint_option(
            "The only endpoint that gets the events; without it, each with a matching subscription."
        ),
    ] = None,
    event_type: options.EventType = None,
    policy: options.Policy = None,
    max_attempts: options.MaxAttempts = None,
    strict: options.Strict = False,
    allow_unknown: Annotated[
        bool,
        typer.Option("--allow-unknown", help="Store events for an endpoint that is added later."),
    ] = False,
    allow_unrouted: options.AllowUnrouted = False,
    as_json: options.Json = False,
) -> None:
    """Store the events of JSONL files. A drain sends them, such as that of `resonant up`.

    Each line is one CloudEvent as JSON: {"type": ..., "source": ..., "data": ...}, optionally with id, time, subject,
    datacontenttype, dataschema and extension attributes; data_base64 instead of data holds bytes. Bad lines are reported and
    skipped, and the exit code is 1.

    Without --endpoint, each endpoint with a matching subscription gets a delivery; `resonant subscription test` shows which.
    An event that no subscription matches is not stored, and reported like a bad line.

    An endpoint is known if `resonant endpoint add` or an earlier event has written its name to the store, or if a running
    Prefect server has it. `resonant endpoint list` writes the names of all endpoints to the store.
    """
    from resonant.cli.send.files import store_files
    from resonant.cli.send.sources import check_readable

    check_readable(files)
    with command_store() as store:
        name = None if endpoint is None else options.endpoint_name(endpoint)
        policy = options.known_policy(policy, store.settings)
        if name is None and not allow_unrouted:
            name_checks.check_routing(store)
        if name and not allow_unknown and (doubt := name_checks.check_target(store, name)):
            output.say(doubt)

        summary = store.run(
            lambda opened: store_files(
                opened,
                files,
                name,
                max_event_bytes=store.settings.max_event_bytes,
                event_type=event_type,
                policy=policy,
                max_attempts=max_attempts,
                strict=strict,
                allow_unrouted=allow_unrouted,
            )
        )
    text = output.visible(summary_line(summary, name))
    output.write_result(documents.stored(summary), text, as_json=as_json)
    if summary.refused:
        raise typer.Exit(1)


def summary_line(summary: Summary, endpoint: str | None) -> str:
    """Return a one-line summary of the stored events; ``endpoint`` is the one that was named, if any."""
    to = f" for {endpoint}"
    if endpoint is None:
        numbers = [f"{number:,} for {name}" for name, number in summary.by_endpoint.most_common()]
        to = f": {', '.join(numbers)}" if numbers else ""
    known = f", {summary.known:,} already known" if summary.known else ""
    erased = f", {summary.erased:,} erased before" if summary.erased else ""
    unrouted = f"; {summary.unrouted:,} had no subscriber" if summary.unrouted else ""
    if summary.allow_unrouted and summary.first_unrouted:  # otherwise, a line about each event has its remedy
        unrouted += f": {summary.first_unrouted.remedy}{' for the first' if summary.unrouted > 1 else ''}"
    bad = f"; {counted(summary.bad, 'bad line')}" if summary.bad else ""
    dropped = f"; invalid traces dropped: {summary.dropped_traces:,}" if summary.dropped_traces else ""
    return f"stored {counted(summary.stored, 'event')}{to}{known}{erased}{unrouted}{bad}{dropped}"
