"""The application: finds the page or action of a request, checks who asks, and answers in HTML or JSON."""

import asyncio
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from resonant.console.access import COOKIE, SESSION_SECONDS, TOKEN, Access, unauthorized
from resonant.console.asked import Action, Asked, Console, Page, path
from resonant.console.html import Html
from resonant.console.pages import ACTIONS, PAGES
from resonant.display import visible
from resonant.errors import ResonantError, StoreUnavailable
from resonant.intake.problems import Problem
from resonant.output import to_json

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024
_MOST_FIELDS = 1_000
_MOST_MESSAGES = 100
_LONGEST_DETAIL = 1_000
_STORE_SECONDS = 8.0  # the server itself would answer after 10, without a page
# A path of this server: browsers read // and /\ as the beginning of a host.
_OWN_PAGE = re.compile(r"/(?![/\\])[!-~]*")
_STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
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
        accept = request.headers.get("accept", "")
        is_browser = "text/html" in accept
        try:
            answer = await self._answer(
                request, is_browser=is_browser, as_json=not is_browser and "json" in accept
            )
        except Exception as error:  # noqa: BLE001 - each becomes a page
            answer = self._refusal(request, _problem(error), is_browser=is_browser)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        await answer(scope, receive, send)

    def _refusal(self, request: Request, problem: Problem, *, is_browser: bool) -> Response:
        detail = visible(problem.detail)
        if len(detail) > _LONGEST_DETAIL:
            detail = f"{detail[:_LONGEST_DETAIL]}..."
        if not is_browser:
            return Problem(problem.status, detail, headers=problem.headers, limit=problem.limit).response()
        page = self._html.render(request, "error.html", {"problem": problem, "detail": detail, "who": None})
        answer = Response(page, problem.status, problem.headers, "text/html")
        del answer.headers["www-authenticate"]  # a browser would ask for the password in a window of its own
        return answer

    async def _answer(self, request: Request, *, is_browser: bool, as_json: bool) -> Response:
        self._access.check_origin(request)
        parts = _parts(request)
        is_login = parts == ("login",) and self._access.has_password
        file = parts[1] if len(parts) == 2 and parts[0] == "static" and parts[1] in _STATIC else None  # noqa: PLR2004
        found, names = _find(PAGES, parts), _find(ACTIONS, parts)
        if not (is_login or file or found or names):
            raise Problem(404, "no such page: the menu has the pages")
        takes_post = is_login or (names and not self._console.read_only)
        allowed = ", ".join(
            [*(["GET", "HEAD"] if found or is_login or file else []), *(["POST"] if takes_post else [])]
        )
        if request.method not in allowed.split(", "):
            why = f"this path takes only {allowed}" if allowed else "this console is read-only"
            raise Problem(405, why, headers={"allow": allowed})
        if file:
            return Response(
                self._static[file], media_type=_STATIC[file], headers={"Cache-Control": "max-age=300"}
            )
        if is_login:
            return await self._log_in(request)
        who = await self._access.who(request)
        if who is None:
            if not is_browser:
                raise unauthorized()
            return RedirectResponse(_login_for(request), 303)
        if request.method == "POST":
            assert names is not None  # noqa: S101 - for mypy
            return await self._act(request, *names, who=who, as_json=as_json)
        assert found is not None  # noqa: S101 - for mypy
        given = _fields(request.scope["query_string"])
        message = self._messages.get(str(given.pop("done", "")))
        asked = self._asked(found[1], given, who)
        async with asyncio.timeout(_STORE_SECONDS):
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
            if len(body) > MOST_BYTES:
                raise Problem(413, "the request is too large", limit=MOST_BYTES)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            try:
                given = json.loads(text := body.decode())
                json.dumps(given, ensure_ascii=False).encode()  # refuses lone surrogates
            except (ValueError, RecursionError):
                raise Problem(400, "the body is not valid JSON") from None
            if isinstance(given, dict) and "\\u0000" not in text:
                return given
            raise Problem(400, "the body is not a JSON object without NUL")
        given = _fields(body)
        token = given.pop(TOKEN, "")
        if not secrets.compare_digest(
            str(token).encode(), self._access.form_token(request, path(*_parts(request))).encode()
        ):
            raise Problem(403, "the form is not of this session, or too old: open its page again")
        return given

    async def _log_in(self, request: Request) -> Response:
        if request.method == "POST":
            given = await self._read_form(request)
            key = await self._access.log_in(
                request, str(given.get("name", "")), str(given.get("password", ""))
            )
            is_encrypted = request.headers.get("origin", "").startswith("https:")  # to a proxy
            answer = RedirectResponse(_page_after_login(given.get("next")), 303)
            answer.set_cookie(
                COOKIE, key, int(SESSION_SECONDS), httponly=True, samesite="strict", secure=is_encrypted
            )
            return answer
        self._access.log_out(request)
        after = _page_after_login(_fields(request.scope["query_string"]).get("next"))
        context = {"who": None, "next": after}
        return Response(self._html.render(request, "login.html", context), media_type="text/html")


def _login_for(request: Request) -> str:
    """Return the address of the login, which leads on to the page that was asked for."""
    wanted = b"?".join(filter(None, (request.scope["raw_path"], request.scope["query_string"])))
    return "/login" if request.method == "POST" or wanted == b"/" else f"/login?{urlencode({'next': wanted})}"


def _page_after_login(given: object) -> str:
    """Return the page to show after a login; an address elsewhere leads to the first page."""
    text = str(given or "")
    return text if _OWN_PAGE.fullmatch(text) and not text.startswith("/login") else "/"


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case StoreUnavailable() | TimeoutError():
            detail = str(error) or f"no answer within {_STORE_SECONDS:g} s"
            return Problem(503, f"the store does not answer: {detail}", headers={"retry-after": "2"})
        case ResonantError():
            return Problem(422, str(error))
        case ClientDisconnect():
            return Problem(400, "the request is not complete")
    logger.error("a request failed", exc_info=error)
    return Problem(500, "an error of Resonant: the log of the console has the details")


def _json(page: Page) -> Response:
    if page.problem is not None:
        raise page.problem
    document = page.document() if callable(page.document) else page.document
    text = document if isinstance(document, str) else to_json(document)
    return Response(text + "\n", media_type="application/json", headers=dict(page.headers))


def _parts(request: Request) -> tuple[str, ...]:
    """Return the decoded parts of the path; an encoded slash does not end a part."""
    raw = request.scope["raw_path"]
    try:
        parts = tuple(unquote_to_bytes(part).decode() for part in raw.split(b"/")[1:])
    except UnicodeDecodeError:
        parts = ("\0",)
    if any("\0" in part for part in parts):
        raise Problem(404, "the path is not UTF-8 without NUL")
    return () if parts == ("",) else parts


def _find(table: Mapping[str, Any], parts: Sequence[str]) -> tuple[Any, tuple[str, ...]] | None:
    """Return the first entry whose pattern matches, and the parts at its stars."""
    for pattern, entry in table.items():
        wanted = pattern.split("/")[1:] if pattern != "/" else []
        if len(wanted) == len(parts) and all(a in ("*", b) and b for a, b in zip(wanted, parts, strict=True)):
            return entry, tuple(b for a, b in zip(wanted, parts, strict=True) if a == "*")
    return None


def _fields(text: bytes) -> dict[str, Any]:
    """Return the values of a query or a form.

    Raises:
        Problem: 422.
    """
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Problem(
            422, f"the query or the form is not UTF-8, or has more than {_MOST_FIELDS:,} fields"
        ) from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        if "\0" in name + value:
            raise Problem(422, "the query or the form contains NUL")
        if name in found:
            before = found[name]
            found[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[name] = value
    return found
