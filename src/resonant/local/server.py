"""The Prefect server that a sending command uses: yours, that of ``resonant up``, or a temporary one."""

import contextlib
import fcntl
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resonant import output
from resonant.errors import ServerError
from resonant.files import make_private_folder, open_private
from resonant.local.compatibility import check_client_names, finish_sending_messages, import_prefect
from resonant.local.health import is_healthy, translated_server_errors
from resonant.local.note import is_held, lock_of_up, running_up
from resonant.local.parts import Part, kept_parts
from resonant.local.password import protect_temporary_server, use_password_of_up
from resonant.local.prefect_log import hide_client_log, show_prefect_log
from resonant.local.project import project_directory
from resonant.settings import Settings

START_SECONDS = 90.0
WORKER_SECONDS = 60.0  # for the worker of `resonant up`, after its server
_LOG = "prefect-server.log"
_OWN_PORTS = range(20_000, 32_000)
_POLL_SECONDS = 0.2
# The longest wait for records: a server records fewer task runs per second than a fast emission creates.
_SEND_SECONDS = 300.0
_LOOK_AGAIN_SECONDS = 2.0
_CLOUD = ("api.prefect.cloud", "app.prefect.cloud")
# The settings for origins whose web pages may use the server. Prefect prefers the first if both are set.
_ORIGINS = ("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS")


@dataclass(frozen=True, slots=True)
class Server:
    """A Prefect server that answers.

    Attributes:
        api_url: the URL of its API.
        is_temporary: whether it ends with this command.
    """

    api_url: str
    is_temporary: bool = False

    @property
    def ui_url(self) -> str:
        """The address of its UI."""
        return self.api_url.removesuffix("/api")


@contextlib.contextmanager
def prefect_server(
    settings: Settings,
    *,
    runs_flows: bool = True,
    verbose: bool = False,
    before_start: Callable[[], None] | None = None,
) -> Iterator[Server]:
    """Find a server, or start one that ends with the block, and point Prefect at it. Call it before importing Prefect.

    Args:
        settings: provide the home of ``resonant up``, whose server is used if it runs, and awaited while it starts.
        runs_flows: whether flows run in this process; without them, less of Prefect is imported.
        verbose: show Prefect's log of these flows.
        before_start: called if a server has to be started; what it raises prevents the start.

    Raises:
        ServerError: the server at ``PREFECT_API_URL`` or of ``resonant up`` does not answer, or no server starts.
        ServerGone: the server becomes unreachable within the block, or stays too busy.
        PrefectChanged: the installed Prefect lacks a name that Resonant uses.
    """
    configure_prefect()
    if url := _url_to_use(settings):
        refuse_cloud(url)
        if not is_healthy(url):
            raise ServerError(
                f"no Prefect server answers at {url} (PREFECT_API_URL): start it, or unset PREFECT_API_URL"
            )
        with _used(Server(url), runs_flows=runs_flows, verbose=verbose) as server:
            yield server
    else:
        if before_start is not None:
            before_start()
        output.say("starting a Prefect server for this command, 5 to 20 s; `resonant up` keeps one running")
        port = free_port()
        temporary = Server(api_url_at(port), is_temporary=True)
        _point_prefect_at(temporary)
        protect_temporary_server()
        with kept_server(settings, port=port, ui=False):
            try:
                with _used(temporary, runs_flows=runs_flows, verbose=verbose) as server:
                    yield server
            finally:
                send_events(temporary.api_url)


def known_url(settings: Settings) -> str | None:
    """Return the configured API URL, or that of a running ``resonant up``; from now on, this process knows its password.

    Args:
        settings: provide the home of ``resonant up``.
    """
    configured, up = configured_url(), running_up(settings)
    if up is None or not (configured is None or is_same_url(configured, up.api_url)):
        return configured
    if up.has_password:
        use_password_of_up(settings)
    return up.api_url


def _url_to_use(settings: Settings) -> str | None:
    """Return the URL of the server to use, if there is one; wait while ``resonant up`` starts or stops.

    Raises:
        ServerError: it takes too long.
    """
    lock, seconds = lock_of_up(settings), START_SECONDS + WORKER_SECONDS
    give_up_at = time.monotonic() + seconds
    url = known_url(settings)
    if url is None and is_held(lock):
        output.say("waiting for `resonant up`, which starts or stops")
    while url is None and is_held(lock):
        if time.monotonic() > give_up_at:
            raise ServerError(
                f"`resonant up` runs, but its server did not answer within {seconds:.0f} s: stop it, then run this again"
            )
        time.sleep(_POLL_SECONDS)
        url = known_url(settings)
    return url


def is_same_url(one: str, other: str) -> bool:
    """Return whether two URLs name the same API."""
    return one.rstrip("/").replace("//localhost:", "//127.0.0.1:") == other.rstrip("/")


def configured_url() -> str | None:
    """Return the API URL that the user configured with ``PREFECT_API_URL`` or a Prefect profile, if any."""
    return configured("PREFECT_API_URL")


def configured(name: str) -> str | None:
    """Return a setting of Prefect that the user configured in the environment or a Prefect profile, if any."""
    return os.environ.get(name) or _of_profile(name)


def refuse_cloud(url: str) -> None:
    """Refuse a URL of Prefect Cloud: its API differs from that of Prefect's server, and no test runs on it.

    Raises:
        ServerError: the URL is one of Prefect Cloud.
    """
    if url.partition("//")[2].partition("/")[0] in _CLOUD:
        raise ServerError(
            f"{url} is Prefect Cloud, which Resonant does not support: use `resonant up` or a Prefect server of your own, and set "
            "PREFECT_API_URL to it, or choose another profile, as in `prefect profile use local`"
        )


def configure_prefect() -> None:
    """Set Prefect's settings for runs in this process, unless the user has set them. Call it before importing Prefect."""
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")
    # As in server.env. Otherwise a telemetry notice appears amid the command's output.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Prefect logs a line for each retry and each success. Resonant's own line has more detail.
    os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL", "WARNING")


class ServerProcess(Part):
    """A Prefect server on loopback with the shipped settings. Prefect is imported while it starts.

    Args:
        settings: provide the folder of its log.
        port: its port.
        ui: whether it has a UI.
        variables: its environment variables for notification blocks, which store events.
    """

    def __init__(
        self, settings: Settings, *, port: int, ui: bool, variables: Mapping[str, str] | None = None
    ) -> None:
        home = prepared_home(settings)
        self._port = port
        self._lock_path = home / "prefect-start.lock"
        self._lock: IO[bytes] | None = None
        command = [sys.executable, "-m", "deployments.server"]
        environment = _environment_of_server(port, ui=ui) | dict(variables or {})
        super().__init__("Prefect server", home / _LOG, command, environment, start_seconds=START_SECONDS)

    def start(self) -> bool:
        """Start it, unless another server is starting: both would migrate the same database."""
        lock = open_private(self._lock_path, "wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        super().start()
        import_prefect()
        return True

    def is_ready(self) -> bool:
        """Return whether it answers."""
        is_ready = _listens(self.supervisor, self._port) and is_healthy(api_url_at(self._port))
        if is_ready:
            self._unlock()
        return is_ready

    def end(self) -> None:
        """End it, if it runs."""
        super().end()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()


@contextlib.contextmanager
def kept_server(settings: Settings, *, port: int, ui: bool) -> Iterator[ServerProcess]:
    """Run a server during the block; see ``ServerProcess``.

    Raises:
        ServerError: the server does not start; the message contains the path of its log.
    """
    with kept_parts() as parts:
        server = ServerProcess(settings, port=port, ui=ui)
        parts.start(server)
        parts.wait(server)
        yield server


def _environment_of_server(port: int, *, ui: bool) -> dict[str, str]:
    api_url = api_url_at(port)
    lines = (project_directory() / "deployments" / "server.env").read_text().splitlines()
    return (
        dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        # A server that needs no store must not get its password.
        | {name: value for name, value in os.environ.items() if not name.startswith("RESONANT_")}
        | {
            "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
            "PREFECT_SERVER_UI_API_URL": api_url,
            "PREFECT_API_URL": api_url,
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(port),
            _ORIGINS[0]: _origins_that_may_come(port),
        }
    )


def api_url_at(port: int) -> str:
    """Return the URL of the API of a server on loopback."""
    return f"http://127.0.0.1:{port}/api"


def free_port() -> int:
    """Return a free port of the loopback interface.

    It lies below the ports of outgoing connections, which could take it before a server listens.
    """
    return next(port for port in random.sample(_OWN_PORTS, len(_OWN_PORTS)) if is_free(port))


def is_free(port: int) -> bool:
    """Return whether this port of the loopback interface is free."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def prepared_home(settings: Settings) -> Path:
    """Return the folder for files shared between commands, which only this user can access.

    Raises:
        ServerError: the folder cannot be created.
    """
    home = settings.home.expanduser()
    try:
        make_private_folder(home)
    except OSError as error:
        raise ServerError(f"cannot create {home} (RESONANT_HOME): {error.strerror}") from None
    return home


def send_events(api_url: str) -> None:
    """Wait until Prefect, if imported, has sent its events (including task runs), or the server is gone."""
    from concurrent.futures import wait

    give_up_at = time.monotonic() + _SEND_SECONDS
    unsent = finish_sending_messages()
    while unsent and time.monotonic() < give_up_at and is_healthy(api_url):
        _, unsent = wait(unsent, _LOOK_AGAIN_SECONDS)


@contextlib.contextmanager
def _used(server: Server, *, runs_flows: bool, verbose: bool) -> Iterator[Server]:
    """Point Prefect at a server, and turn that server's failures within the block into one-line errors."""
    _point_prefect_at(server)
    check_client_names(runs_flows=runs_flows)
    if runs_flows:
        show_prefect_log(verbose=verbose)
    else:
        hide_client_log()
    with translated_server_errors(server.api_url):
        yield server


def _point_prefect_at(server: Server) -> None:
    os.environ["PREFECT_API_URL"] = server.api_url
    if server.is_temporary:
        # Otherwise Prefect's log has links to a UI that does not exist.
        os.environ["PREFECT_UI_URL"] = ""


def _of_profile(setting: str) -> str | None:
    """Return a setting of the user's own Prefect profile, if it has that."""
    import tomllib

    folder = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        profiles = tomllib.loads((folder / "profiles.toml").read_text())
        name = os.environ.get("PREFECT_PROFILE", profiles["active"])
        value = profiles["profiles"][name].get(setting)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if value is None else str(value)


def _origins_that_may_come(port: int) -> str:
    """Return the UI's own origins and those the user adds: Prefect's default lets every web page read every secret."""
    own = f"http://127.0.0.1:{port},http://localhost:{port}"
    more = next((os.environ[name] for name in _ORIGINS if os.environ.get(name)), None)
    return own if more is None else f"{own},{more}"


def _listens(supervisor: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether this supervisor's process listens there: another program may have taken the port meanwhile."""
    import psutil

    def is_there(process: psutil.Process) -> bool:
        try:
            connections = process.net_connections("tcp4")
        except psutil.AccessDenied:  # not allowed to check: trust the process that answers
            return True
        except psutil.Error:  # it has ended meanwhile
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)

    with contextlib.suppress(psutil.Error):
        return any(map(is_there, psutil.Process(supervisor.pid).children(recursive=True)))
    return False
