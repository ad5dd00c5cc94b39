"""Options that several commands share, and parsers for their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from resonant.cli import completion
from resonant.delivery.retry import MAX_ATTEMPTS_LIMIT
from resonant.dispatch.limits import Lane
from resonant.display import parse_duration
from resonant.events import ENDPOINT_NAME, parse_moment

if TYPE_CHECKING:
    from resonant.settings import Settings

SEND, LOOK, WORK, RUN = "Send", "Inspect", "Manage the dead-letter queue", "Run"
DEFAULT_BLOCK_TYPE = "webhook-endpoint"
# Of the names of endpoints that are deployments.
DEPLOYMENTS = "resonant-deployment/"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show Prefect's log instead of a progress bar.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count only; change nothing.")]
EndpointName = Annotated[
    str, typer.Argument(metavar="NAME", help="The endpoint's name.", autocompletion=completion.endpoints)
]


def endpoint_option(text: str, metavar: str = "NAME") -> Any:
    """Return the option ``--endpoint`` with this help, which the shell completes."""
    return typer.Option("--endpoint", metavar=metavar, help=text, autocompletion=completion.endpoints)


EventType = Annotated[
    str | None, typer.Option("--type", metavar="TYPE", help="The event type of lines that have none.")
]
Policy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The retry policy: default, classic, standard-webhooks or one of your own.",
        autocompletion=completion.policies,
    ),
]
MaxAttempts = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=MAX_ATTEMPTS_LIMIT, help="Maximum attempts, instead of the policy's."
    ),
]
SendingLane = Annotated[
    Lane,
    typer.Option(
        "--lane",
        metavar="LANE",
        help="task: each delivery is a Prefect task run. bulk: many share one, eight times as fast. auto: task runs up to 100 "
        "deliveries per second, and chunks above.",
    ),
]
AllowUnrouted = Annotated[
    bool,
    typer.Option(
        "--allow-unrouted", help="Count events that no subscription matches, instead of refusing them."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Store nothing if any line is bad.")]

_LONGEST_DAYS = 30


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameters that are dataclasses."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    def with_options(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**given)

    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if group := groups.get(name):
            types = get_type_hints(group, include_extras=True)
            parameters += [
                Parameter(
                    each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name]
                )
                for each in fields(group)
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    vars(with_options)["__signature__"] = inspect.Signature(parameters)
    return with_options


class Misuse(Exception):
    """Invalid arguments or options, reported on one line with exit code 2."""


def is_url(text: str) -> bool:
    """Return whether the text is a URL rather than an endpoint's name."""
    return "://" in text


def endpoint_name(text: str, option: str = "--endpoint") -> str:
    """Check an endpoint's name, and return it in the form that the store uses.

    Args:
        text: ``NAME``, or ``BLOCK-TYPE-SLUG/NAME``; ``webhook-endpoint/NAME`` and ``NAME`` are the same.
        option: the option with the name.

    Raises:
        Misuse: invalid name.
    """
    if is_url(text):
        # Do not repeat the URL: it may contain a secret.
        raise Misuse(f"{option} must be a name here: `resonant endpoint add` saves a URL under a name")
    if not ENDPOINT_NAME.fullmatch(text):
        raise Misuse(
            f"endpoint {text!r} is not a valid name: use lower case letters, digits and single dashes, such as billing-eu"
        )
    return text.removeprefix(f"{DEFAULT_BLOCK_TYPE}/")


def known_policy(name: str | None, settings: Settings) -> str | None:
    """Check that a policy is known, and return its name.

    Raises:
        Misuse: unknown policy.
    """
    try:
        settings.policy(name)
    except ValueError as error:
        raise Misuse(f"--policy: {error}") from None
    return name


def text_of_file(path: str | Path, what: str) -> str:
    """Read a file; ``what`` begins the message of an error.

    Raises:
        Misuse: it cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Misuse(f"{what}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misuse(f"{what}: not UTF-8 text") from None


def moment(option: str, text: str | None, *, now: float) -> float | None:
    """Parse the value of a time option; return seconds since the epoch.

    Args:
        option: its name, for the error.
        text: RFC 3339, or an age: ``45s``, ``30m``, ``2h``, ``7d``, ``2w``; None stays None.
        now: seconds since the epoch; ages are relative to it.

    Raises:
        Misuse: invalid time.
    """
    if text is None:
        return None
    try:
        return parse_moment(text, now=now)
    except ValueError as error:
        raise Misuse(f"{option} {error}") from None


def seconds(option: str, text: str) -> float:
    """Parse a duration such as ``90``, ``1.5``, ``90s``, ``5m``, ``24h`` or ``3d``; return seconds.

    Raises:
        Misuse: not a duration, or longer than 30 days.
    """
    try:
        length = parse_duration(text)
    except ValueError as error:
        raise Misuse(f"{option} {error}") from None
    if length > _LONGEST_DAYS * 86_400:
        raise Misuse(f"{option} is at most {_LONGEST_DAYS}d, not {text}")
    return length
