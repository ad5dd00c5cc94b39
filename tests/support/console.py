"""A browser and a program that use the console, with the application in the same process."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
from starlette.types import ASGIApp

from resonant.console.access import Access
from resonant.console.app import create_app
from resonant.console.asked import Console
from resonant.console.plans import Plans
from resonant.settings import Settings
from support.commands import run_in_process
from support.desk import Desk

JSON = {"accept": "application/json"}


class Pages:
    """Asks for pages, and sends their forms."""

    def __init__(self, desk: Desk, http: httpx.AsyncClient, console: Console) -> None:
        self.desk = desk
        self.console = console
        self.http = http

    def get(self, path: str, *, code: int = 200, **headers: str) -> httpx.Response:
        return self.send("GET", path, code=code, headers={"accept": "text/html", **_names(headers)})

    def html(self, path: str, **options: Any) -> str:
        return self.get(path, **options).text

    def json(self, path: str, *, code: int = 200) -> Any:
        return self.send("GET", path, code=code, headers=JSON).json()

    def post(self, path: str, *, code: int = 200, **given: Any) -> Any:
        """Act as a program does."""
        return self.send("POST", path, code=code, json=given, headers=JSON).json()

    def submit(self, page: str, action: str, *, code: int = 303, **given: str) -> httpx.Response:
        """Send the form of a page that posts to this action, as a browser does; ``given`` replaces values."""
        form = next(
            each
            for each in re.findall(r"<form.*?</form>", self.html(page), re.DOTALL)
            if f'action="{action}"' in each
        )
        found = re.findall(r'name="([^"]+)"[^>]* value="([^"]*)"', form)
        values = {name: unescape(value) for name, value in found} | given
        origin = {
            "origin": str(self.http.base_url).rstrip("/"),
            "accept": "text/html",
            "sec-fetch-site": "same-origin",
        }
        return self.send("POST", action, code=code, data=values, headers=origin)

    def send(self, method: str, path: str, *, code: int | None = None, **options: Any) -> httpx.Response:
        answer = self.desk.run(self.http.request(method, path, **options))
        assert code in (None, answer.status_code), (answer.status_code, answer.text)
        return answer


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def open_pages(
    desk: Desk,
    *,
    password: str | None = None,
    settings: Settings | None = None,
    hosts: tuple[str, ...] = (),
    app: ASGIApp | None = None,
    **options: Any,
) -> Iterator[Pages]:
    console = Console(desk.store, settings or Settings(), Plans(), **options)
    app = app or create_app(console, Access(password, hosts=hosts))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:4201")
    yield Pages(desk, http, console)
    desk.run(http.aclose())


def document_of(command: list[str], pages: Pages) -> Any:
    """Return the JSON of a command on the same store at the same time."""
    now = pages.desk.clock()
    environment = {"RESONANT_DATABASE_URL": str(pages.desk.store), "HOME": os.environ["HOME"]}
    with patch("resonant.cli.command_store.CommandStore.now", lambda _: now), TemporaryDirectory() as folder:
        done = run_in_process([*command, "--json"], environment, Path(folder))
    return json.loads(done.stdout)
