"""Polling for the effects of other processes, with timeouts that suit a loaded machine."""

import ast
import asyncio
import inspect
import textwrap
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
_MOST_CHARACTERS = 500


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS, *, every: float = 0.05) -> T:
    """Poll until the result is truthy, and return it.

    Raises:
        AssertionError: no result within these seconds.
    """
    give_up_at = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > give_up_at:
            _give_up(condition, seconds, found)
        time.sleep(every)
    return found


async def until(
    condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS, *, every: float = 0.005
) -> None:
    """Let other tasks run until the condition, or the coroutine that it returns, is truthy.

    Raises:
        AssertionError: it was not within these seconds.
    """
    found = None
    try:
        async with asyncio.timeout(seconds) as deadline:
            while True:
                value = condition()
                found = await value if inspect.isawaitable(value) else value
                if found:
                    return
                await asyncio.sleep(every)
    except TimeoutError:
        if not deadline.expired():
            raise
    _give_up(condition, seconds, found)


async def quiet(happened: Sized, seconds: float = 0.5) -> None:
    """Let other tasks run until nothing has been added to the list for this time."""
    number = -1
    while number != len(happened):
        number = len(happened)
        await asyncio.sleep(seconds)


def _give_up(condition: Callable[[], Any], seconds: float, found: Any) -> NoReturn:
    __tracebackhide__ = True
    text, values = _described(condition)
    values = values or {"its last value": found}
    lines = [f"  {name} = {repr(value)[:_MOST_CHARACTERS]}" for name, value in values.items()]
    raise AssertionError("\n".join([f"waited {seconds:g} s for: {text}", *lines]))


def _described(condition: Callable[[], Any]) -> tuple[str, dict[str, Any]]:
    """Return the source of a condition; of a lambda that compares, also the present values of what it compares."""
    body = next(_lambdas(condition), None)
    if body is None:
        return getattr(condition, "__qualname__", repr(condition)), {}
    found, values = inspect.getclosurevars(condition), {}
    names = found.builtins | found.globals | found.nonlocals
    for comparison in (node for node in ast.walk(body) if isinstance(node, ast.Compare)):
        for side in (comparison.left, *comparison.comparators):
            if not isinstance(side, ast.Constant):
                with suppress(Exception):  # for a message only
                    values[ast.unparse(side)] = eval(ast.unparse(side), names)
    return ast.unparse(body), values


def _lambdas(condition: Callable[[], Any]) -> Iterator[ast.expr]:
    with suppress(OSError, TypeError, SyntaxError):
        source = textwrap.dedent(inspect.getsource(condition))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Lambda):
                yield node.body
