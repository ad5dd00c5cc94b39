"""Commands, settings, files and names that the documentation mentions exist."""

import contextlib
import io
import json
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from resonant.cli import app
from resonant.settings import Settings
from resonant.testing.__main__ import _parser
from support.pages import PROJECT, Block, commands, pages

# The changelog may name things that no longer exist.
PAGES = [page for page in pages() if page.path.name != "CHANGELOG.md"]
BLOCKS = [
    pytest.param(block, id=f"{page}:{block.line}")
    for page in PAGES
    for block in page.blocks
    if any(commands(block))
]
IN_A_LIST = re.compile(r'\[("resonant"(?:,\s*"[^"]*")*)\]')
SETTINGS = {f"RESONANT_{name.upper()}" for name in Settings.model_fields}
OF_TESTS = ("RESONANT_CHAOS", "RESONANT_FUZZ", "RESONANT_SCALE")
TOP_LEVEL = ["src", "flows", "tasks", "blocks", "deployments", "tests", "benches", "examples", "docs"]


@cache
def tree():
    """Return the command ``resonant`` and its subcommands, which parse their arguments and do nothing."""
    root = get_command(app)
    disarm(root)
    return root


def disarm(group):
    for each in group.commands.values():
        if hasattr(each, "commands"):
            disarm(each)
        each.callback = lambda **_: None


def misuse(words):
    """Return the error of the parser of ``resonant`` for these arguments; empty if it accepts them."""
    return quietly(lambda: tree().main(args=list(words), prog_name="resonant"))


def quietly(parse):
    """Return the output of a parser that ends the process with an error; empty if it does not."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            parse()
        except SystemExit as ended:
            return output.getvalue() if ended.code else ""
    return ""


def problem(words):
    """Return the problem of a command; empty if it is valid."""
    if "--" in words[1:] and "resonant" in words:  # kubectl exec POD -- resonant status
        words = words[words.index("--") + 1 :]
    program, *arguments = words
    match Path(program).name, arguments:
        case "resonant", _:
            return misuse(arguments)
        case "make", _:
            missing = [each for each in arguments if not re.match(r"-|\w+=", each)]
            return "".join(f"no target {each}" for each in missing if each not in make_targets())
        case (("python" | "python3"), ["-m", "resonant.testing", *options]):
            return quietly(lambda: _parser().parse_args(options))
        case (("python" | "python3"), ["-m", module, *_]):
            return "" if find_spec(module) else f"no module {module}"
        case (("python" | "python3"), [script, *_]) if script.endswith(".py"):
            return "" if (PROJECT / script).exists() else f"no file {script}"
    return ""


def make_targets():
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


# --- blocks -----------------------------------------------------------------------------------------------------


def test_the_blocks_of_the_documentation_are_found():
    assert len(BLOCKS) > 10
    assert sum(each[0] == "resonant" for block in BLOCKS for each in commands(block.values[0])) > 20


@pytest.mark.parametrize("block", BLOCKS)
def test_every_command_of_a_block_can_be_given_like_that(block):
    wrong = [(" ".join(words), said) for words in commands(block) if (said := problem(words))]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resonant emitt orders.jsonl", "No such command"),
        ("resonant emit --endpont shop", "No such option"),
        ("resonant endpoint show", "Missing argument"),
        ("resonant dlq --limit many", "Invalid value"),
        ("kubectl exec pod -- resonant statuss", "No such command"),
        ("cat x | resonant endpoint ad", "No such command"),
        ("make everything", "no target everything"),
        ("python -m resonant.tests", "no module"),
        ("python -m resonant.testing --prot 9000", "unrecognized arguments"),
    ],
)
def test_a_command_that_cannot_be_given_like_that_is_found(line, said):
    [*_, words] = commands(Block("sh", line, 1))
    assert said in problem(words)


def test_only_commands_are_read():
    block = Block(
        "sh",
        "cat > f <<'END'\nresonant no-such\nEND\nX=1 resonant emit \\\n  f --endpoint \"a b\" < f && make test  # resonant x\n",
        1,
    )
    assert list(commands(block)) == [
        ["cat"],
        ["resonant", "emit", "f", "--endpoint", "a b"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_in_a_list_of_words_can_be_given_like_that(page):
    """As in the manifests of Kubernetes and Docker."""
    for found in IN_A_LIST.findall("".join(block.text for block in page.blocks)):
        _, *words = json.loads(f"[{found}]")
        assert misuse(words) == "", words


# --- inline code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_and_option_in_a_sentence_exists(page):
    wrong = [text for text in page.inline_code if text.startswith("resonant ") and not is_known(text)]
    assert wrong == []


def is_known(text):
    """Whether the commands and options of a code span exist: ``resonant endpoint add | update --rate N``."""
    _, *words = re.sub(r"[\[\]]", " ", text).split()
    group, found = tree(), [tree()]
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-"):
            names = {name for each in found for option in each.params for name in all_names(option)}
            if word.split("=")[0] not in names | {"--help", "-"}:
                return False
        elif word in group.commands and (found == [group] or before == "|"):
            found = [*found, group.commands[word]] if before == "|" else [group.commands[word]]
            group = found[-1] if hasattr(found[-1], "commands") else group
        elif found == [group] and not word.isupper() and not before.startswith("-"):
            return False
    return True


def all_names(option):
    return [*option.opts, *option.secondary_opts]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("resonant up", True),
        ("resonant COMMAND --help", True),
        ("resonant endpoint add | update --rate N", True),
        ("resonant endpoint pause NAME [--reason TEXT]", True),
        ("resonant dlq --group --since 1h", True),
        ("resonant dlq ack CAUSE --note TEXT", True),
        ("resonant dlq akc CAUSE", False),
        ("resonant endpoint stop NAME", False),
        ("resonant emit FILE --bulk", False),
        ("resonant sned", False),
    ],
)
def test_an_unknown_command_or_option_in_a_sentence_is_found(text, known):
    assert is_known(text) is known


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_make_target_and_module_in_a_sentence_exists(page):
    named = [shlex.split(text) for text in page.inline_code if re.match(r"make [a-z]|python -m ", text)]
    assert [(words, said) for words in named if (said := problem(words))] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_setting_that_is_named_exists(page):
    named = set(re.findall(r"RESONANT_[A-Z_]*", page.text))
    prefixes = {
        name for name in named if name.endswith("_") and any(each.startswith(name) for each in SETTINGS)
    }
    assert [name for name in named - SETTINGS - prefixes if not name.startswith(OF_TESTS)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_is_named_exists(page):
    paths = [text for text in page.inline_code if re.fullmatch(rf"(?:{'|'.join(TOP_LEVEL)})/[\w./-]+", text)]
    assert [path for path in paths if not (PROJECT / path).exists()] == []


def test_every_deployment_that_is_named_exists():
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    flows = {each["entrypoint"].rpartition(".")[2].replace("_", "-") for each in declared}
    names = {f"{each['entrypoint'].rpartition('.')[2].replace('_', '-')}/{each['name']}" for each in declared}
    named = [(page, text) for page in PAGES for text in page.inline_code if text.partition("/")[0] in flows]
    assert [(str(page), text) for page, text in named if "/" in text and text not in names] == []


def test_every_metric_table_and_fixture_that_is_named_exists():
    sources = [path for folder in TOP_LEVEL[:5] for path in (PROJECT / folder).rglob("*") if path.is_file()]
    known = {
        name
        for path in sources
        if path.suffix in (".py", ".yml", ".yaml", ".json")
        for name in re.findall(r"\bresonant_\w+", path.read_text())
    }
    for page in PAGES:
        named = {
            re.sub(r"_(bucket|sum|count)$", "", each) for each in re.findall(r"\bresonant_\w+", page.text)
        }
        assert {each for each in named if not each.endswith("_")} <= known, str(page)


TOKEN_TO_A_FILE = re.compile(r"resonant token create [^\n]*> \w")


@pytest.mark.parametrize("page", [each for each in PAGES if TOKEN_TO_A_FILE.search(each.text)], ids=str)
def test_only_the_owner_can_read_a_file_that_gets_a_token(page):
    assert "umask 077" in page.text[: TOKEN_TO_A_FILE.search(page.text).start()]
