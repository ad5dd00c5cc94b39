"""Renders the templates. Every text is escaped, and hidden characters are made visible."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from resonant.console.access import TOKEN, Access
from resonant.console.asked import Console, path
from resonant.console.spark import spark
from resonant.display import ago, counted, duration, visible
from resonant.events import rfc3339

_MENU = {
    "/": "Now",
    "/endpoints": "Endpoints",
    "/deliveries": "Deliveries",
    "/dead-letters": "Dead letters",
    "/subscriptions": "Subscriptions",
    "/audit": "Audit",
}


class Html:
    """Renders pages."""

    def __init__(self, console: Console, access: Access) -> None:
        self._console = console
        self._access = access
        self._templates = Environment(
            loader=PackageLoader("resonant.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.globals |= {"path": path, "counted": counted, "menu": _MENU, "spark": spark}
        self._templates.filters |= {"duration": duration, "visible": visible}

    def render(self, request: Request, template: str, context: Mapping[str, Any]) -> str:
        """Return a page."""
        now = self._console.store.clock()

        def token(action: str) -> Markup:
            value = self._access.form_token(request, action)
            return Markup('<input type="hidden" name="{}" value="{}">').format(TOKEN, value)

        def when(moment: float | None) -> Markup | str:
            if moment is None:
                return "-"
            exact = rfc3339(moment)
            return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, ago(now - moment))

        shared = {
            "console": self._console,
            "has_password": self._access.has_password,
            "here": request.scope["path"],
            "message": None,
            "token": token,
            "when": when,
        }
        return self._templates.get_template(template).render({**shared, **context})


def _shown(value: Any) -> Any:
    """Make hidden characters of a text visible, but keep markup, and show whole numbers with separators."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else value
