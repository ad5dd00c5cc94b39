"""``resonant console``: the operators' pages."""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli.command_store import command_store
from resonant.cli.options import Misuse
from resonant.cli.run.serve import Host, Port, exit_within, url_of
from resonant.errors import ResonantError

if TYPE_CHECKING:
    import socket

    from resonant.settings import Settings
    from resonant.store import WorkerStore

HOST, PORT = "127.0.0.1", 4201
_LABEL_WIDTH = 11
_CLOSE_SECONDS = 2


def console(
    host: Host = HOST,
    port: Port = PORT,
    auth: Annotated[
        bool,
        typer.Option(
            "--auth",
            help="Require the password of `resonant up --auth`, which is generated if it is missing.",
        ),
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no actions.")] = False,
    no_bodies: Annotated[
        bool, typer.Option("--no-bodies", help="Do not show the data of events, nor receivers' answers.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Another name under which browsers reach this server; repeatable."),
    ] = None,
) -> None:
    """Show every delivery in a browser, until Ctrl-C: what is wrong, each event's attempts, dead letters, replays.

    Every page is also JSON (Accept: application/json). The server needs only the store, and sends nothing itself.
    """
    from resonant.intake.serving.compatibility import check_uvicorn

    check_uvicorn()
    from resonant.intake.access.foreign_pages import host_name
    from resonant.intake.serving.quiet_log import log_without_repeats
    from resonant.intake.serving.server import listen

    for each in allow_host or ():
        if host_name(each) is None:
            raise Misuse(f"--allow-host {each!r} is not the name of a host, such as console.example.com")
    with command_store(patient=True, exists=True) as store, listen(host, port) as listener:
        log_without_repeats()
        password = _password(store.settings, is_wanted=auth)
        address = listener.getsockname()[0]
        if password is None and not ipaddress.ip_address(address).is_loopback:
            raise ResonantError(
                f"off loopback, on {address}, the console needs a password: --auth makes one, or set "
                "PREFECT_SERVER_API_AUTH_STRING to USER:PASSWORD"
            )

        async def work(opened: WorkerStore) -> None:
            await _serve(
                opened,
                listener,
                store.settings,
                password,
                read_only=read_only,
                shows_bodies=not no_bodies,
                hosts=tuple(allow_host or ()),
            )

        store.run(work)


def _password(settings: Settings, *, is_wanted: bool) -> str | None:
    from resonant.local.password import protect_up, required_password

    if is_wanted:
        protect_up(settings)
    return required_password()


async def _serve(
    store: WorkerStore,
    listener: socket.socket,
    settings: Settings,
    password: str | None,
    *,
    read_only: bool,
    shows_bodies: bool,
    hosts: tuple[str, ...],
) -> None:
    from resonant.console.access import Access
    from resonant.console.asked import Console
    from resonant.console.plans import Plans
    from resonant.console.serving import run
    from resonant.local.artifacts import known_ui

    def write_what_runs() -> None:
        for line in (
            f"console    {url_of(listener)}",
            f"store      {store}",
            f"access     {'with the password' if password else 'every user of this machine'}{', read-only' if read_only else ''}",
            "Ctrl-C stops it.",
        ):
            output.write_paragraph(line, indent=_LABEL_WIDTH)
        output.flush()

    shared = Console(
        store,
        settings,
        Plans(),
        partial(known_ui, settings),
        read_only=read_only,
        shows_bodies=shows_bodies,
    )
    await run(shared, Access(password, hosts=hosts), listener, on_start=write_what_runs)
    exit_within(_CLOSE_SECONDS)
