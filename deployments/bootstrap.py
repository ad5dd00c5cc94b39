"""Sets up a Prefect server for Resonant: work pool, block types, the deployments of prefect.yaml, automations.

``python -m deployments.bootstrap``, run in the project's folder, sets up the server at ``PREFECT_API_URL`` and starts two
drains. Run it again to update the server. ``--remove`` removes what it created: see ``deployments/removal.py``.
"""

import asyncio
import inspect
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated

import yaml
from typer import Option, Typer

from resonant import output
from resonant.cli.asking import can_ask, confirm
from resonant.errors import BootstrapFailed, ResonantError, ServerError, ServerGone
from resonant.local.artifacts import create_missing
from resonant.local.health import is_healthy, is_there, translated_server_errors
from resonant.local.project import project_directory
from resonant.local.server import configure_prefect, configured_url, known_url, refuse_cloud
from resonant.local.work_pool import WORK_POOL, make_work_pool, start_drains
from resonant.settings import Settings, load_settings

if TYPE_CHECKING:
    from prefect.blocks.core import Block

_SHOWN_LINES = 20
_EMIT = "flows.emit.emit_events"
_SHARED_INTERVAL_SECONDS = 900


async def bootstrap(settings: Settings, *, shared_server: bool = False) -> list[str]:
    """Update the server that Prefect is configured for; return its deployments as ``FLOW/NAME``.

    Args:
        settings: name the notification block of alerts.
        shared_server: see ``for_shared_server``.

    Raises:
        BootstrapFailed: prefect.yaml cannot be deployed; the text says why.
        ResonantError: the notification block that the settings name does not exist.
    """
    # Imports Prefect, whose settings must be complete before.
    from deployments import existing, reports  # noqa: PLC0415
    from deployments.automations import apply_automations  # noqa: PLC0415

    await make_work_pool()
    await create_missing()  # before the schedules: it must not overwrite what their first runs write
    stopped = await existing.read_stopped()
    await asyncio.gather(register_block_types(), deploy(shared_server=shared_server))
    await existing.pause(stopped)
    await apply_automations(settings)
    await reports.repoint()
    await existing.remove_old_deployments()
    return await existing.read_names()


async def register_block_types() -> None:
    """Register every kind of endpoint and notification, so that the UI can create them."""
    for kind in block_types():
        await kind.aregister_type_and_schema()


def block_types() -> "list[type[Block]]":
    """Return every kind of endpoint and notification."""
    from prefect.blocks.core import Block  # noqa: PLC0415

    from resonant import blocks  # noqa: PLC0415
    from resonant.blocks.loading import installed_sinks  # noqa: PLC0415

    every = (*vars(blocks).values(), *installed_sinks())
    return [
        kind
        for kind in every
        if inspect.isclass(kind) and issubclass(kind, Block) and not inspect.isabstract(kind)
    ]


async def deploy(*, shared_server: bool = False) -> None:
    """Apply prefect.yaml with Prefect's documented command.

    Args:
        shared_server: see ``for_shared_server``.

    Raises:
        BootstrapFailed: the command failed.
        ServerGone: the server became unreachable.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        if shared_server:
            file.write(for_shared_server((project_directory() / "prefect.yaml").read_text()))
            file.flush()
            command += ["--prefect-file", file.name]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=project_directory(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    if process.returncode:
        url = configured_url()
        if url is not None and not is_there(url):
            raise ServerGone(f"the Prefect server at {url} became unreachable")
        tail = "\n".join(said.decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:])
        raise BootstrapFailed(f"prefect.yaml was not deployed: {tail}")


def for_shared_server(text: str) -> str:
    """Return a prefect.yaml for a server that lacks the settings of ``server.env`` or serves other teams.

    Schedules start runs every 15 minutes instead of every five, and the deliveries of a chunk share one task run.
    """
    declared = yaml.safe_load(text)
    for each in declared["deployments"]:
        for schedule in each.get("schedules", ()):
            if "interval" in schedule:
                schedule["interval"] = _SHARED_INTERVAL_SECONDS
        if each["entrypoint"] == _EMIT:
            each["parameters"] = each.get("parameters", {}) | {"lane": "bulk"}
    return str(yaml.safe_dump(declared))


def main(
    *,
    shared_server: Annotated[
        bool,
        Option(
            "--shared-server", help="Load the server less: start runs every 15 minutes, and send in chunks."
        ),
    ] = False,
    remove: Annotated[
        bool, Option("--remove", help="Remove from the server what the bootstrap created.")
    ] = False,
    blocks: Annotated[
        bool,
        Option("--blocks", help="With --remove: also all endpoints and notifications, with their secrets."),
    ] = False,
    store: Annotated[
        bool, Option("--store", help="With --remove: also the local store, with all events.")
    ] = False,
    yes: Annotated[bool, Option("--yes", help="With --remove: do not ask.")] = False,
) -> None:
    """Set up the Prefect server at PREFECT_API_URL for Resonant, or update it. With --remove, undo that."""
    if (blocks or store or yes) and not remove:
        output.say("--blocks, --store and --yes need --remove")
        sys.exit(2)
    configure_prefect()
    try:
        settings = load_settings()
        url = _answering_url(settings)
        with translated_server_errors(url):
            if remove:
                _remove(url, settings, blocks=blocks, store=store, yes=yes)
            else:
                _set_up(url, settings, shared_server=shared_server)
    except ServerGone as error:
        output.say(
            f"{error}: the {'removal' if remove else 'setup'} is incomplete; start the server, and run the bootstrap again"
        )
        sys.exit(1)
    except ResonantError as error:
        output.say(str(error))
        sys.exit(1)


def _set_up(url: str, settings: Settings, *, shared_server: bool) -> None:
    names = asyncio.run(bootstrap(settings, shared_server=shared_server))
    asyncio.run(start_drains())
    output.write(f"work pool {WORK_POOL}, block types, automations, and {', '.join(names)} are at {url}\n")
    if settings.alert_notification_block is None:
        output.write("alerts notify no one: RESONANT_ALERT_NOTIFICATION_BLOCK is not set\n")


def _remove(url: str, settings: Settings, *, blocks: bool, store: bool, yes: bool) -> None:
    from deployments import removal  # noqa: PLC0415

    files = removal.store_files(settings) if store else []
    kinds = [kind.get_block_type_slug() for kind in block_types()]
    planned = asyncio.run(removal.plan(kinds, blocks=blocks))
    for each in planned.kept:
        output.say(f"kept: {each}")
    names = [each.name for each in planned.things] + [f"store {each}" for each in files]
    if not names:
        output.write(f"nothing to remove at {url}\n")
        return
    if not yes:
        for each in names:
            output.say(f"  {each}")
        if not can_ask():
            output.say(f"removing these from {url} needs confirmation: give --yes")
            sys.exit(2)
        confirm(f"these would be removed from {url}", "Remove?")
    asyncio.run(removal.carry_out(planned, lambda line: output.write(f"{line}\n")))
    for file in files:
        file.unlink(missing_ok=True)
        output.write(f"removed: store {file}\n")


def _answering_url(settings: Settings) -> str:
    url = configured_url()
    if url is None:
        raise ServerError(
            "PREFECT_API_URL is not set: set it to the API of your server, such as http://127.0.0.1:4200/api"
        )
    refuse_cloud(url)
    known_url(settings)  # with its password, if it is that of `resonant up --auth`
    if not is_healthy(url):
        raise ServerError(f"no Prefect server answers at {url}")
    return url


if __name__ == "__main__":
    app = Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
