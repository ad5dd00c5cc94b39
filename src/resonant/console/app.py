"""The application: finds the page or action of a request, checks who asks, and answers in HTML or JSON."""

import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from resonant.console.access import COOKIE, SESSION_SECONDS, TOKEN, Access
from resonant.console.asked import Action, Asked, Console, Page
from resonant.console.html import Html
from resonant.console.pages import ACTIONS, PAGES
from resonant.errors import ResonantError, StoreUnavailable
from resonant.intake.problems import Problem
from resonant.output import to_json

logger = logging.getLogger(__name__)

_MOST_BYTES = 256 * 1024
_MOST_MESSAGES = 100
_STATIC = {"console.css": "text/css", "console.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def create_app(console: Console, access: Access) -> ASGIApp:
    """Return the application of the console."""
    return _App(console, access)


class _App:
    def __init__(self, console: Console, access: Access) -> None:
        self._console = console
        self._access = access
        self._html = Html(console, access)
        self._messages: OrderedDict[str, str] = OrderedDict()
        files = resources.files("resonant.console") / "static"
        self._static = {name: (files / name).read_bytes() for name in _STATIC}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        as_json = "text/html" not in (accept := request.headers.get("accept", "")) and "json" in accept
        try:
            answer = await self._answer(request, as_json=as_json)
        except Problem as problem:
            answer = self._refusal(request, problem, as_json=as_json)
        except StoreUnavailable as error:
            answer = self._refusal(request, Problem(503, str(error)), as_json=as_json)
        except ResonantError as error:
            answer = self._refusal(request, Problem(422, str(error)), as_json=as_json)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        await answer(scope, receive, send)

    def _refusal(self, request: Request, problem: Problem, *, as_json: bool) -> Response:
        if as_json:
            return problem.response()
        page = self._html.render(request, "error.html", {"problem": problem, "who": None})
        return Response(page, problem.status, problem.headers, "text/html")

    async def _answer(self, request: Request, *, as_json: bool) -> Response:
        self._access.check_origin(request)
        parts = _parts(request)
        if len(parts) == 2 and parts[0] == "static" and parts[1] in _STATIC:  # noqa: PLR2004
            return Response(
                self._static[parts[1]], media_type=_STATIC[parts[1]], headers={"Cache-Control": "max-age=300"}
            )
        if parts == ("login",) and self._access.has_password:
            return await self._log_in(request)
        found, names = _find(PAGES, parts), _find(ACTIONS, parts)
        if self._console.read_only:
            names = None
        allowed = [*(["GET", "HEAD"] if found else []), *(["POST"] if names else [])]
        if not allowed:
            raise Problem(404, f"no such page: {request.url.path}")
        if request.method not in allowed:
            raise Problem(405, f"only {', '.join(allowed)}", headers={"allow": ", ".join(allowed)})
        who = await self._access.who(request)
        if who is None:
            if as_json or request.method == "POST":
                raise Problem(401, "log in first", headers={"www-authenticate": "Basic"})
            return RedirectResponse("/login", 303)
        if request.method == "POST":
            assert names is not None  # noqa: S101 - for mypy
            return await self._act(request, *names, who=who, as_json=as_json)
        assert found is not None  # noqa: S101 - for mypy
        given = _query(parse_qsl(request.url.query, keep_blank_values=True))
        message = self._messages.get(str(given.pop("done", "")))
        asked = self._asked(found[1], given, who)
        page = await self._console.store.read(found[0], asked)
        if as_json or "content-disposition" in page.headers:
            return _json(page)
        context = {**page.context, "page": page.document, "asked": asked, "who": who, "message": message}
        status = 200 if page.problem is None else page.problem.status
        return Response(self._html.render(request, page.template, context), status, media_type="text/html")

    def _asked(self, names: tuple[str, ...], given: Mapping[str, Any], who: str) -> Asked:
        return Asked(self._console, names, given, who, self._console.store.clock())

    async def _act(
        self, request: Request, action: Action, names: tuple[str, ...], *, who: str, as_json: bool
    ) -> Response:
        given = await self._read_form(request)
        done = await action(self._asked(names, given, who))
        if as_json:
            return Response(to_json(done.document) + "\n", media_type="application/json")
        self._messages[key := secrets.token_hex(8)] = done.text
        while len(self._messages) > _MOST_MESSAGES:
            self._messages.popitem(last=False)
        mark = "&" if "?" in done.location else "?"
        return RedirectResponse(f"{done.location}{mark}done={key}", 303)

    async def _read_form(self, request: Request) -> dict[str, Any]:
        """Return the values of a form, which needs its token, or of a JSON object, which no form of a browser can send."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise Problem(413, "the request is too large", limit=_MOST_BYTES)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind == "application/json":
                given = json.loads(body)
                if isinstance(given, dict):
                    return given
                raise Problem(400, "the body is not a JSON object")
            fields = parse_qsl(body.decode(), keep_blank_values=True)
        except (ValueError, RecursionError):
            raise Problem(400, "the body is not valid JSON, nor a form") from None
        given = _query(fields)
        token = given.pop(TOKEN, "")
        if not secrets.compare_digest(
            str(token).encode(), self._access.form_token(request, request.url.path).encode()
        ):
            raise Problem(403, "the form is not of this session, or too old: open its page again")
        return given

    async def _log_in(self, request: Request) -> Response:
        if request.method == "POST":
            given = await self._read_form(request)
            key = await self._access.log_in(str(given.get("name", "")), str(given.get("password", "")))
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, key, int(SESSION_SECONDS), httponly=True, samesite="strict")
            return answer
        self._access.log_out(request)
        return Response(self._html.render(request, "login.html", {"who": None}), media_type="text/html")


def _json(page: Page) -> Response:
    if page.problem is not None:
        raise page.problem
    document = page.document() if callable(page.document) else page.document
    text = document if isinstance(document, str) else to_json(document)
    return Response(text + "\n", media_type="application/json", headers=dict(page.headers))


def _parts(request: Request) -> tuple[str, ...]:
    """Return the decoded parts of the path; an encoded slash does not end a part."""
    raw = request.scope.get("raw_path") or request.url.path.encode()
    try:
        parts = tuple(unquote_to_bytes(part).decode() for part in raw.split(b"/")[1:])
    except UnicodeDecodeError:
        raise Problem(404, "the path is not UTF-8") from None
    return () if parts == ("",) else parts


def _find(table: Mapping[str, Any], parts: Sequence[str]) -> tuple[Any, tuple[str, ...]] | None:
    """Return the first entry whose pattern matches, and the parts at its stars."""
    for pattern, entry in table.items():
        wanted = pattern.split("/")[1:] if pattern != "/" else []
        if len(wanted) == len(parts) and all(a in ("*", b) and b for a, b in zip(wanted, parts, strict=True)):
            return entry, tuple(b for a, b in zip(wanted, parts, strict=True) if a == "*")
    return None


def _query(fields: Sequence[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields:
        if name in found:
            before = found[name]
            found[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[name] = value
    return found
