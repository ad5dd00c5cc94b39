"""The pages of the documentation: their code blocks, inline code, links and anchors."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
SHELLS = ("sh", "bash", "shell", "console")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1(.*?\n).*?^\2$", re.DOTALL | re.MULTILINE)
_OPERATORS = frozenset("();<>|&")
_ASSIGNMENT = re.compile(r"\w+=")
_HTML_LINK = re.compile(r"""\b(?:src|srcset|href)=["']([^"']+)["']""")
_HTML_ANCHOR = re.compile(r"""\b(?:id|name)=["']([^"']+)["']""")


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, its text, and the line of its page where it begins."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """A Markdown file of the project."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(PROJECT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def _tokens(self) -> list[Token]:
        return MarkdownIt("commonmark").enable("table").parse(self.text)

    @property
    def _inline_tokens(self) -> Iterator[Token]:
        for token in self._tokens:
            yield from token.children or ()

    @property
    def blocks(self) -> Iterator[Block]:
        """Its fenced blocks."""
        for token in self._tokens:
            if token.type == "fence":
                yield Block(token.info.split(" ")[0], token.content, token.map[0] + 1)

    @property
    def inline_code(self) -> list[str]:
        """The text of each code span, on one line."""
        return [" ".join(each.content.split()) for each in self._inline_tokens if each.type == "code_inline"]

    @property
    def links(self) -> Iterator[str]:
        """The targets of links and images."""
        for token in self._inline_tokens:
            for name in ("href", "src"):
                if name in token.attrs:
                    yield str(token.attrs[name])
        for token in (*self._tokens, *self._inline_tokens):
            if token.type in ("html_block", "html_inline"):
                yield from _HTML_LINK.findall(token.content)

    @cached_property
    def anchors(self) -> frozenset[str]:
        """The anchors that GitHub and the site give to headings; for a repeated heading, only the first."""
        found = set()
        for token, inline in zip(self._tokens, self._tokens[1:], strict=False):
            if token.type == "heading_open":
                shown = "".join(each.content for each in inline.children or ())
                found.add(re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-"))
            elif token.type == "html_block":
                found.update(_HTML_ANCHOR.findall(token.content))
        return frozenset(found)

    def section(self, heading: str) -> str:
        """Return the text from a heading of the second level to the next one."""
        [found] = re.findall(
            rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.text, re.DOTALL | re.MULTILINE
        )
        return str(found)


@cache  # several files of tests parse them when they are collected
def pages() -> list[Page]:
    """Return every page of the project, including uncommitted ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [PROJECT / name for name in listed.stdout.splitlines()]
    return [Page(path) for path in paths if path.exists() and PROJECT / ".github" not in path.parents]


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        Block(each.info.split(" ")[0], each.content, each.map[0]) for each in tokens if each.type == "fence"
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the simple commands of a block: their words, without assignments, redirections and comments.

    In a block without a language, the commands are the lines that begin with ``$``.
    """
    text = _HEREDOC.sub(r"\3", block.text)
    if block.language in SHELLS:
        lines = [line.removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    else:
        lines = [line[2:] for line in text.splitlines() if not block.language and line.startswith("$ ")]
    open_quote = ""
    for line in lines:
        try:
            words = _words(open_quote + line)
        except ValueError:  # a quotation that ends on a later line
            open_quote += f"{line}\n"
            continue
        open_quote = ""
        yield from _simple_commands(words)
    assert not open_quote, f"an unclosed quotation: {open_quote}"


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _simple_commands(words: list[str]) -> Iterator[list[str]]:
    current: list[str] = []
    redirected = False
    for word in [*words, ";"]:
        if set(word) <= _OPERATORS:
            redirected = bool(set(word) & {"<", ">"})
            if not redirected:
                if current:
                    yield current
                current = []
        elif redirected:
            redirected = False
        elif current or not _ASSIGNMENT.match(word):
            current.append(word)
