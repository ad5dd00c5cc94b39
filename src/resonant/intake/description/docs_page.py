"""``/docs``: the OpenAPI document as a page that loads nothing else."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from resonant.intake.description.markdown import markdown

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #8884; padding: .3rem .6rem; text-align: left; vertical-align: top; }
code { font-family: ui-monospace, monospace; background: #8882; padding: 0 .2rem; border-radius: .2rem; }
h2 { margin-top: 2.5rem; }
"""
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page(document: dict[str, Any]) -> str:
    """Return the page as HTML, to be sent with ``HEADERS``."""
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n<p>{escape(document['info']['summary'])} "
        'The same as an OpenAPI document: <a href="openapi.json">openapi.json</a>.</p>\n'
        f"{MarkdownIt('commonmark', {'html': False}).enable('table').render(markdown(document))}</body>\n</html>\n"
    )
