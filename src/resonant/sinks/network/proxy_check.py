"""Checks whether a proxy that is down accepts connections again."""

import asyncio
import random
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from resonant.display import one_line
from resonant.errors import NotReady
from resonant.sinks.network.proxy import Proxy

# The time limit of a check, and the longest pause between two checks; the first is a second.
_CHECK_SECONDS, _LONGEST_PAUSE = 5.0, 60.0


class ProxyCheck:
    """Holds the sends through a proxy until it accepts a connection; they would use up the attempts of deliveries.

    Nothing is sent before the first check, so that a process that begins while the proxy is down uses up no attempts.

    Args:
        proxy: the proxy.

    Attributes:
        problem: why nothing can be sent, on one line without secrets; None if the proxy may accept connections.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.problem: str | None = "the proxy has not been tried yet"
        self._origin, url = proxy.origin, urlsplit(proxy.url)
        self._address = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._pause, self._check_at = 1.0, 0.0
        self._checking: asyncio.Task[None] | None = None

    def note(self, problem: str) -> None:
        """Note that a send got no connection to the proxy; the next ``prepare`` tries to connect."""
        if self.problem is None:
            self.problem = problem

    def demand(self) -> None:
        """Raise ``NotReady`` while the proxy accepts no connections."""
        if self.problem is not None:
            raise NotReady(self.problem, max(1.0, self._check_at - asyncio.get_running_loop().time()))

    async def prepare(self) -> None:
        """Try to connect again if it is time, without a request; wait for the result.

        Raises:
            NotReady: the proxy accepts no connections.
        """
        if self.problem is not None:
            is_idle = self._checking is None or self._checking.done()
            if is_idle and asyncio.get_running_loop().time() >= self._check_at:
                self._checking = asyncio.create_task(self._check())
            if self._checking is not None:
                await asyncio.wait([self._checking])
        self.demand()

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                _, writer = await asyncio.open_connection(*self._address)
        except TimeoutError:
            self._fail(f"no connection to the proxy {self._origin} within {_CHECK_SECONDS:g} s")
        except (OSError, UnicodeError) as error:  # UnicodeError: a part of its name is too long
            reason = getattr(error, "strerror", None) or error
            self._fail(f"no connection to the proxy {self._origin}: {one_line(str(reason))}")
        else:
            writer.close()
            self.problem, self._pause = None, 1.0

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._check_at = asyncio.get_running_loop().time() + random.uniform(0.75, 1.0) * self._pause
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)


# Shared by the endpoints of an event loop, so that a thousand of them make one connection to a proxy that is down.
_checks: WeakValueDictionary[tuple[object, str], ProxyCheck] = WeakValueDictionary()


def proxy_check(proxy: Proxy) -> ProxyCheck:
    """Return the check of a proxy, which other endpoints with the same proxy share."""
    key = (asyncio.get_running_loop(), proxy.origin)
    found = _checks.get(key)
    if found is None:
        found = _checks[key] = ProxyCheck(proxy)
    return found
