"""What a page or an action gets, and what it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from pydantic import ValidationError

from resonant.errors import StoreError
from resonant.events import parse_moment
from resonant.intake.problems import Problem
from resonant.store.views.selection import Selection

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.console.plans import Plans
    from resonant.settings import Settings
    from resonant.store import WorkerStore

_MOMENTS = ("since", "until")
# SQLite refuses patterns of more than 50,000 bytes, as if it were broken.
_PATTERNS, _LONGEST_PATTERN = ("text", "event_type"), 1_000


@dataclass(frozen=True, slots=True)
class Console:
    """What all requests share.

    Attributes:
        store: the store.
        settings: those of the process.
        plans: make and check the plans of actions.
        find_ui: finds the address of Prefect's UI; returns None if no server is known.
        read_only: whether there are no actions.
        shows_bodies: whether pages show what events contain.
    """

    store: WorkerStore
    settings: Settings
    plans: Plans
    find_ui: Callable[[], str | None] = lambda: None
    read_only: bool = False
    shows_bodies: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        console: what all requests share.
        names: the parts of the path that vary, decoded, such as an endpoint's name.
        given: the values of the query or, for an action, of the form; a name that is repeated has a list.
        who: for the audit.
        now: the store's time, in seconds since the epoch.
    """

    console: Console
    names: tuple[str, ...]
    given: Mapping[str, Any]
    who: str
    now: float

    def text(self, name: str, otherwise: str = "") -> str:
        """Return a value as text, without spaces around it."""
        value = self.given.get(name, otherwise)
        if not isinstance(value, str):
            raise Problem(422, f"{name}: give one text")
        return value.strip()

    def number(self, name: str, otherwise: int, *, most: int) -> int:
        """Return a value as a whole number from 1 to ``most``."""
        value = str(self.given.get(name) or otherwise)
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:12]) <= most):
            raise Problem(422, f"{name} {value!r} is not a number from 1 to {most:,}")
        return int(value)

    def selection(self, *, besides: tuple[str, ...] = (), **fixed: Any) -> Selection:
        """Return the selection that the values describe, with the names of its fields.

        Args:
            besides: names of other values of this page.
            fixed: conditions that the values do not change.

        Raises:
            Problem: 422, unknown name or invalid value.
        """
        given = {name: value for name, value in self.given.items() if name not in besides and value != ""}
        if unknown := sorted(given.keys() - Selection.model_fields):
            known = ", ".join(Selection.model_fields)
            raise Problem(422, f"{', '.join(unknown)}: no such filter: use {known}")
        for name in _PATTERNS:
            if len(given.get(name, "")) > _LONGEST_PATTERN:
                raise Problem(422, f"{name}: give at most {_LONGEST_PATTERN:,} characters")
        if isinstance(given.get("ids"), str):
            given["ids"] = [given["ids"]]
        try:
            for name in _MOMENTS:
                if name in given:
                    given[name] = parse_moment(str(given[name]), now=self.now)
            return Selection(**given | fixed)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise Problem(422, f"{name}: {first['msg']}".removeprefix(": ")) from None
        except (StoreError, ValueError) as error:
            raise Problem(422, str(error)) from None


class Page(NamedTuple):
    """An answer to a GET.

    Attributes:
        template: renders it as HTML, with ``context``.
        document: the JSON value, or a function that returns it; text is JSON already.
        headers: more headers; a page with ``content-disposition`` is JSON for browsers, too.
        problem: what was wrong in the request, if the template shows it.
    """

    template: str
    document: Any
    context: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An answer to a POST.

    Attributes:
        text: a sentence, for people.
        document: for programs.
        location: the page that shows the result.
    """

    text: str
    document: Any
    location: str = "/"


View: TypeAlias = Callable[["Connection", Asked], Page]
Action: TypeAlias = Callable[[Asked], Awaitable[Done]]


def path(*parts: str) -> str:
    """Return the path of a page; each part is encoded whole, since names and ids may contain slashes."""
    return "/" + "/".join(quote(part, safe="") for part in parts)
