"""Who may use the console: the checks of each request, sessions, and the token of each form."""

import asyncio
import base64
import getpass
import hmac
import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from resonant.intake.access.foreign_pages import LOOPBACK, OWN_SITES, follows_a_link, host_name
from resonant.intake.problems import Problem
from resonant.local.password import password_of

COOKIE, TOKEN = "resonant_session", "token"
SESSION_SECONDS = 12 * 3600.0
_LONGEST_NAME = 60
_MOST_SESSIONS = 1_000
# A wrong password is answered after a second. Meanwhile, its address may try a few others.
_SECONDS_PER_GUESS, _MOST_GUESSES = 1.0, 10
_CHALLENGE = {"www-authenticate": 'Basic realm="Resonant", charset="UTF-8"'}


@dataclass(frozen=True, slots=True)
class _Session:
    who: str
    until: float


class Access:
    """Checks who asks.

    Args:
        password: a user and a password, ``USER:PASSWORD``, as Prefect's server takes them; None without a password.
        hosts: more names under which browsers may know this server, beside those of loopback; addresses are always allowed.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        password: str | None,
        *,
        hosts: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_password = password is not None
        self._accepted = (password or "", password_of(password or ""))
        self._hosts = (*LOOPBACK, *map(host_name, hosts))
        self._clock = clock
        self._key = secrets.token_bytes()
        self._sessions: dict[str, _Session] = {}
        self._wrong: Counter[str] = Counter()

    def check_origin(self, request: Request) -> None:
        """Refuse requests of other sites, and unknown names, which a foreign page may have bound to this address.

        Raises:
            Problem: 403.
        """
        hosts = request.headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._hosts or _is_address(name)):
            raise Problem(
                403, f"this console is not known as {name or 'this Host'}: allow a name with --allow-host"
            )
        origin = request.headers.get("origin")
        is_own = not _is_elsewhere(request) and (origin is None or origin.partition("://")[2] == hosts[0])
        if not (is_own or follows_a_link(request.scope, request.headers)):
            raise Problem(403, "the console refuses requests from web pages of other origins")

    async def who(self, request: Request) -> str | None:
        """Return the name for the audit; None if the request has to log in first.

        Raises:
            Problem: 401 or 429, wrong or too many passwords.
        """
        if not self.has_password:
            return f"{_user()} in the console"
        if (session := self._sessions.get(request.cookies.get(COOKIE, ""))) and self._clock() < session.until:
            return session.who
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            raise Problem(
                401,
                "the header Authorization is not valid: Basic NAME:PASSWORD in base64",
                headers=_CHALLENGE,
            ) from None
        await self._check(request, password, f"{name}:{password}")
        return f"{_checked_name(name)} in the console"

    async def log_in(self, request: Request, name: str, password: str) -> str:
        """Begin a session; return the value of its cookie.

        Raises:
            Problem: 401, 422 or 429.
        """
        who = f"{_checked_name(name)} in the console"
        await self._check(request, password)
        now = self._clock()
        self._sessions = {key: each for key, each in self._sessions.items() if now < each.until}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[key := secrets.token_urlsafe(32)] = _Session(who, now + SESSION_SECONDS)
        return key

    def log_out(self, request: Request) -> None:
        """End the session of a request, unless it follows a link of another site."""
        if not _is_elsewhere(request):
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def form_token(self, request: Request, path: str) -> str:
        """Return the token of this session for the form that posts to a path; a foreign page cannot know it."""
        of = f"{request.cookies.get(COOKIE, '')} {path}"
        return hmac.digest(self._key, of.encode(), "sha256").hex()

    async def _check(self, request: Request, *given: str) -> None:
        """Compare a password. Only wrong ones wait, so those of others delay nobody."""
        address = request.client.host if request.client else ""
        if self._wrong[address] >= _MOST_GUESSES:
            raise Problem(
                429, "too many wrong passwords: try again in a few seconds", headers={"retry-after": "2"}
            )
        right = [hmac.compare_digest(a.encode(), b.encode()) for a in given for b in self._accepted]
        if any(right):
            return
        self._wrong[address] += 1
        try:
            await asyncio.sleep(_SECONDS_PER_GUESS)
        finally:
            self._wrong[address] -= 1
            self._wrong += Counter()  # forget addresses without guesses
        raise Problem(401, "the password is wrong", headers=_CHALLENGE)


def unauthorized() -> Problem:
    """Return the answer to a program that has not logged in."""
    return Problem(401, "this console needs a name and its password: Basic NAME:PASSWORD", headers=_CHALLENGE)


def _checked_name(name: str) -> str:
    name = name.strip()
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise Problem(422, f"give your name, for the audit: at most {_LONGEST_NAME} printable characters")
    return name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "someone"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_elsewhere(request: Request) -> bool:
    """Return whether a browser says that another site made this request."""
    return request.headers.get("sec-fetch-site", "none") not in OWN_SITES
