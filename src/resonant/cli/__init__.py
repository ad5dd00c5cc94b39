"""The command line: ``resonant COMMAND``. Commands import their dependencies when they run, so help is instant."""

import gc
import os
import sys
from typing import Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.cli.automation import commands as automation
from resonant.cli.command_store import named_store
from resonant.cli.demo import command as demo
from resonant.cli.dlq import acknowledge, audit, cancel, erase, purge, replay
from resonant.cli.dlq import lists as dlq_lists
from resonant.cli.endpoint import commands as endpoint
from resonant.cli.help import Group, use_classes
from resonant.cli.inspect import advise, deliveries, detail, export, metrics, status
from resonant.cli.run import console, init, serve, simulate, up
from resonant.cli.send import emit, enqueue
from resonant.cli.source import commands as source
from resonant.cli.subscription import commands as subscription
from resonant.cli.token import commands as token
from resonant.errors import ResonantError, UnknownEndpoint

# Full collections stay about as frequent as by default.
_COLLECTION_THRESHOLDS = (100_000, 1, 1)
_FAILED, _MISUSED, _INTERRUPTED, _PIPE_CLOSED = 1, 2, 130, 141


class _Commands(Group):
    """Reports errors that a user can fix on one line, with an exit code; other errors keep their tracebacks."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override,unused-ignore]
        """Return the names of the commands in the order of help: Typer lists all groups last."""
        names = super().list_commands(ctx)
        names.remove("dlq")
        names.insert(names.index("status") + 1, "dlq")
        return names

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override,unused-ignore]  # Typer 0.2x vendors click
        named_store.set(None)
        try:
            result = super().invoke(ctx)
            output.flush()
            if name := named_store.get():
                output.say(f"store: {name}")
        except (options.Misuse, UnknownEndpoint) as error:
            output.say(f"resonant: {error}")
            raise typer.Exit(_MISUSED) from None
        except ResonantError as error:
            output.say(f"resonant: {error}")
            raise typer.Exit(_FAILED) from None
        except KeyboardInterrupt:
            output.say("resonant: interrupted")
            raise typer.Exit(_INTERRUPTED) from None
        except output.Interrupted as error:
            output.say(f"resonant: {error}")
            raise typer.Exit(error.exit_code) from None
        except output.PipeClosed:
            raise typer.Exit(_PIPE_CLOSED) from None
        return result


app = typer.Typer(
    name="resonant",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # they hold payloads and secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        output.write(f"resonant {version('resonant')}\n")
        raise typer.Exit


@app.callback()
def _resonant(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Deliver events to HTTP endpoints at least once: store each event first, and retry failures."""


# Help lists the commands in this order.
for _panel, _function, _example in (
    (options.SEND, emit.emit, "emit orders.jsonl --endpoint https://hooks.example.com/orders"),
    (options.SEND, enqueue.enqueue, "enqueue orders.jsonl --endpoint billing"),
    (options.LOOK, status.status, "status --json"),
    (options.LOOK, dlq_lists.failed, "failed --type 'com.example.order.*' --limit 0"),
    (options.LOOK, dlq_lists.retry_candidates, "retry-candidates --code http_503 --json"),
    (options.LOOK, deliveries.deliveries, "deliveries --endpoint billing --group"),
    (options.LOOK, detail.detail, "detail evt_0198c0de --json"),
    (options.LOOK, export.export, "export --output /var/tmp/errors.json"),
    (options.LOOK, metrics.metrics, "metrics --window 7d"),
    (options.LOOK, metrics.prometheus, "prometheus --output metrics.prom"),
    (options.WORK, replay.retry, "retry evt_0193c5c2-7a31-7c4e-9d0b-5f7e0a1b2c3d"),
    (options.WORK, replay.replay, "replay --endpoint billing --code http_503 --since 2h --rate 50"),
    (options.WORK, cancel.cancel, "cancel --endpoint billing --type 'order.*'"),
    (options.WORK, purge.purge, "purge --endpoint billing --code http_422"),
    (options.WORK, erase.erase, "erase --subject customer-4711"),
    (options.WORK, audit.audit, "audit --json"),
    (
        options.RUN,
        simulate.simulate,
        "simulate --outage 5m --capacity 20 --policy default --policy full --svg outage.svg",
    ),
    (options.LOOK, advise.advise, "advise billing"),
    (options.RUN, up.up, "up --port 4300"),
    (options.RUN, serve.serve, "serve --port 8090"),
    (options.RUN, console.console, "console --port 4300"),
    (options.RUN, demo.demo, "demo --keep"),
    (options.RUN, init.init, "init our-flows"),
):
    app.command(rich_help_panel=_panel, epilog=f"Example: resonant {_example}")(_function)
app.add_typer(
    acknowledge.commands,
    name="dlq",
    callback=dlq_lists.dlq,
    invoke_without_command=True,
    rich_help_panel=options.LOOK,
    epilog="Example: resonant dlq --group --since 2h",
)
app.add_typer(
    endpoint.commands,
    name="endpoint",
    help="Manage endpoints: add, update, list, show, test, pause, resume, rotate-secret, remove.",
    rich_help_panel=options.RUN,
    epilog="Example: resonant endpoint add billing https://hooks.example.com/billing",
)
app.add_typer(
    subscription.commands,
    name="subscription",
    help="Manage which events an endpoint gets: add, list, show, test, remove.",
    rich_help_panel=options.RUN,
    epilog="Example: resonant subscription add shop 'order.*'",
)
app.add_typer(
    automation.commands,
    name="automation",
    help="Manage events about failed flow runs of this Prefect server: enable, list, disable.",
    rich_help_panel=options.RUN,
    epilog="Example: resonant automation enable failed-runs --endpoint ops",
)
app.add_typer(
    source.commands,
    name="source",
    help="Check the declared sources of webhooks for `resonant serve`: list, test.",
    rich_help_panel=options.RUN,
    epilog="Example: resonant source list --sources sources.yaml",
)
app.add_typer(
    token.commands,
    name="token",
    help="Manage the tokens of `resonant serve`: create, list, revoke.",
    rich_help_panel=options.RUN,
    epilog="Example: resonant token create shop --type 'order.*'",
)
use_classes(app)


def main() -> None:
    """Run the command line on ``sys.argv``, and exit."""
    for stream in (sys.stdout, sys.stderr):
        # Data may contain characters that the terminal's encoding lacks: print them escaped.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Makes all files private, including those that Prefect and matplotlib write in servers, workers and runs.
    os.umask(os.umask(0o077) | 0o077)
    # Imports create many long-lived objects. Searching them for garbage takes a tenth of a short command's time.
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    try:
        app()
    finally:
        gc.freeze()  # skips the collection at exit, which takes as long
