"""The password of Prefect's API: generated, and passed to a server and its clients in environment variables only."""

import os
import secrets
from pathlib import Path

from resonant.errors import ResonantError
from resonant.files import atomic_file, make_private_folder
from resonant.settings import Settings

OF_SERVER, OF_CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
_USER = "resonant"


def password_file(settings: Settings) -> Path:
    """Return the file with the user and password of ``resonant up --auth``."""
    return settings.home.expanduser() / "prefect-password"


def protect_up(settings: Settings) -> bool:
    """Let the server that this process starts require the password of the file, which is created if it is missing.

    Returns:
        False if the user's own password, in the server's environment variable, takes its place.

    Raises:
        ResonantError: the file cannot be read.
    """
    if os.environ.get(OF_SERVER):
        return False
    path = password_file(settings)
    if not _read(path):
        make_private_folder(path.parent)
        with atomic_file(path) as write:
            write(_new())
    path.chmod(0o600)
    os.environ[OF_SERVER] = _read(path)
    use_password_of_up(settings)
    return True


def required_password() -> str | None:
    """Return the password that this process must require, as the environment has it: ``USER:PASSWORD``, or None.

    Raises:
        ResonantError: it is empty.
    """
    name = next((each for each in (OF_SERVER, OF_CLIENT) if os.environ.get(each)), None)
    if name and not password_of(os.environ[name]):
        raise ResonantError(f"{name} has no password: set it to USER:PASSWORD, or unset it")
    return os.environ[name] if name else None


def password_of(given: str) -> str:
    """Return the password of ``USER:PASSWORD``; a text without a colon is one."""
    return given.partition(":")[2] if ":" in given else given


def use_password_of_up(settings: Settings) -> None:
    """Let this process use the server of ``resonant up --auth``.

    Raises:
        ResonantError: the file with its password cannot be read.
    """
    os.environ[OF_CLIENT] = _read(password_file(settings))


def protect_temporary_server() -> None:
    """Let the server that this process starts for itself require a password that nobody else has."""
    os.environ[OF_SERVER] = os.environ[OF_CLIENT] = _new()


def _new() -> str:
    return f"{_USER}:{secrets.token_urlsafe(24)}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ResonantError(
            f"cannot read {path}, the password of `resonant up --auth`: {problem}: make the file readable, or remove it"
        ) from None
