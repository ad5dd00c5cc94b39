"""Mistakes in options: one line on standard error, exit code 2, and nothing is changed, sent or looked up on a server."""

import contextlib
import shlex
import sqlite3

import pytest
import typer

from resonant.cli import app
from resonant.cli.help import Command
from resonant.cli.options import Misuse, moment

NOW = 1_700_000_000.0
NO_TIME = "is not a time: give an age (45s, 30m, 2h, 7d) or a time such as 2026-01-31T12:00:00Z\n"
ANY_AGE = "of any age: give --yes, or only a minimum age with"
UNSTORABLE = (
    "resonant: '\\udcff' contains text that databases cannot store: NUL, or bytes that are not UTF-8\n"
)
NO_SHP = "resonant: no endpoint is named 'shp': did you mean shop?\n"
NOT_ADDED = "; --allow-unknown stores the events anyway\n"
NOTHING_TO_REPLAY = "resonant: no dead letters selected: give a filter or --all\n"
NOTHING_TO_CANCEL = "resonant: no deliveries selected: give ids, a filter or --all\n"
NOTHING_TO_ERASE = "resonant: no events selected: give --id, --subject, or --source with --type"
NOTHING_TO_PURGE = (
    "resonant: nothing selected: give --older-than DAYS, or a filter such as --endpoint and --code\n"
)
BAD_URL, PRIVATE = "its URL must begin with http:// or https://", "10.0.0.1 is a private or special address"
NO_PLACE = "is not a valid place: use the one printed at the end of a list\n"
NO_PLACES = ("", "evt_01", "1-", "-1", "1e9-1", "nan-1", "1.5-1.5", "1-1 ", "9" * 13 + "-1", "1--1")
NOTHING_ROUTES = (
    "resonant: --endpoint is missing, and there are no subscriptions: "
    "`resonant subscription add ENDPOINT TYPE_GLOB` adds one\n"
)
NO_POLICY = (
    "resonant: --policy: no retry policy is named 'odd'; known policies: classic, default, standard-webhooks"
)
LISTING = ("dlq", "failed", "retry-candidates")

MISTAKES = [
    # times, durations, places
    *((f"{command} --since yesterday", f"--since 'yesterday' {NO_TIME}") for command in LISTING),
    ("dlq --since 2026-01-31T12:00:00", f"--since '2026-01-31T12:00:00' {NO_TIME}"),
    ("dlq --until 2", f"--until '2' {NO_TIME}"),
    ("replay --all --dry-run --since soon", f"--since 'soon' {NO_TIME}"),
    ("metrics --window soon", f"--window 'soon' {NO_TIME}"),
    *((f"dlq --after='{place}'", f"resonant: --after {place!r} {NO_PLACE}") for place in NO_PLACES),
    ("deliveries --after evt_due", f"resonant: --after 'evt_due' {NO_PLACE}"),
    ("dlq --group --after 0-0", "resonant: --after cannot be combined with --group\n"),
    ("deliveries --group --after 0-0", "resonant: --after cannot be combined with --group\n"),
    ("simulate --outage 3x", "--outage '3x' is not a duration"),
    ("simulate --outage=-3", "--outage '-3' is not a duration"),
    ("simulate --outage 9999d", "--outage is at most 30d"),
    ("simulate --retry-after soon", "--retry-after 'soon' is not a duration"),
    # words
    ("simulate --policy ful", "--policy: no retry policy is named 'ful': did you mean full"),
    *((f"{command} --policy odd", NO_POLICY) for command in ("retry e2", "replay --all", "emit")),
    ("replay --all --dry-run --policy odd", NO_POLICY),
    ("enqueue e.jsonl --endpoint billing --policy odd", NO_POLICY),
    ("endpoint add crm https://a.example/ --policy odd", NO_POLICY),
    ("endpoint update crm --policy odd", NO_POLICY),
    ("failed --reason expired", "`resonant dlq --reason expired`"),
    ("retry-candidates --category permanent", "`resonant dlq --category permanent`"),
    # empty values, as of a variable that is not set
    ("cancel --text ''", "--text is empty"),
    ("cancel ''", "an id is empty"),
    ("erase --id= --yes", "an id is empty"),
    ("erase --subject= --yes", "--subject is empty"),
    ("detail ''", "an id is empty"),
    ("replay --code '' --dry-run", "--code is empty"),
    ("dlq --type ''", "--type is empty"),
    *((f"{command} --source ''", "--source is empty") for command in ("deliveries", "retry e1", "detail e1")),
    ("purge --older-than 0 --archive ''", "--archive is empty"),
    ("purge --cause '' --yes", "--cause is empty"),
    # text that no database can store
    *((f"dlq {option} '\udcff'", UNSTORABLE) for option in ("--code", "--type", "--source", "--text")),
    ("detail '\udcff'", UNSTORABLE),
    # nothing selected, or too much
    ("replay", NOTHING_TO_REPLAY),
    ("replay --include-permanent", NOTHING_TO_REPLAY),
    ("replay --limit 1 --dry-run", NOTHING_TO_REPLAY),
    ("cancel", NOTHING_TO_CANCEL),
    ("cancel --json", NOTHING_TO_CANCEL),
    ("purge", NOTHING_TO_PURGE),
    ("purge --yes", NOTHING_TO_PURGE),
    ("purge --older-than inf", "an age in days must be a finite number"),
    ("purge --older-than 0 --delivered-older-than inf", "an age in days must be a finite number"),
    *(
        (f"purge {filters}", f"resonant: this removes dead letters {ANY_AGE} --older-than\n")
        for filters in ("--older-than 0", "--code my_own_code", "--reason permanent")
    ),
    (
        "purge --older-than 30 --delivered-older-than 0",
        f"resonant: this removes delivered history {ANY_AGE} --delivered-older-than\n",
    ),
    *((f"erase {each} --yes", NOTHING_TO_ERASE) for each in ("", "--type order.*", "--source /shop")),
    ("replay --to shop", NOTHING_TO_REPLAY),
    (
        "replay --endpoint billing --to webhook-endpoint/billing",
        "those of billing: leave out --to to send them ",
    ),
    # options that exclude each other
    (
        "purge --code my_own_code --delivered-older-than 1 --yes",
        "--delivered-older-than cannot be combined with filters",
    ),
    ("purge --older-than 1 --archive a --no-archive", "--archive cannot be combined with --no-archive"),
    ("prometheus --serve 9999 --output x", "--serve cannot be combined with --output or --json"),
    ("prometheus --serve 9999 --json", "--serve cannot be combined with --output or --json"),
    # a permanent failure, where nobody can be asked
    ("retry e2", "resonant: the failure of e2 was permanent: --yes sends them anyway\n"),
    # names
    ("dlq --endpoint Crm!", "endpoint 'Crm!' is not a valid name"),
    ("enqueue e.jsonl --endpoint Billing", "'Billing' is not a valid name"),
    ("enqueue e.jsonl --endpoint billing-", "'billing-' is not a valid name"),
    ("enqueue e.jsonl --endpoint https://user:hunter2@example.com/x", "`resonant endpoint add`"),
    *((f"{command} --endpoint shp", NO_SHP) for command in (*LISTING, "status", "deliveries", "cancel")),
    *((f"{command} --endpoint shp", NO_SHP) for command in ("replay", "replay --dry-run", "purge --yes")),
    ("endpoint pause shp", NO_SHP),
    ("endpoint resume shp", NO_SHP),
    ("dlq --endpoint zzz", "resonant: no endpoint is named 'zzz'; known: billing, shop\n"),
    (
        "enqueue e.jsonl --endpoint shp",
        f"no endpoint is named 'shp': did you mean shop? `resonant endpoint add shp URL` adds it{NOT_ADDED}",
    ),
    (
        "enqueue e.jsonl --endpoint wholly-new",
        f"'wholly-new'; known: billing, shop; `resonant endpoint add wholly-new URL` adds it{NOT_ADDED}",
    ),
    (
        "enqueue e.jsonl --endpoint spool-endpoint/new",  # only the Prefect UI or code adds it
        f"resonant: no endpoint is named 'spool-endpoint/new'; known: billing, shop{NOT_ADDED}",
    ),
    ("cancel e1 typo", "resonant: no event has the id typo: nothing was done\n"),
    ("erase --id typo --yes", "resonant: no event has the id typo: nothing was done"),
    ("erase --id e1 --source /crm --yes", "no event with this id is of the source '/crm'; known: "),
    ("replay --all --to shp", "resonant: no endpoint is named 'shp': did you mean shop?"),
    ("replay --all --to SHOP", "endpoint 'SHOP' is not a valid name: use lower case letters"),
    ("replay --all --to https://crm.example", "--to must be a name here"),
    ("token create shop --endpoint biling", "no endpoint is named 'biling': did you mean billing?"),
    ("token create Shop", "is not a valid name"),
    ("token create crm --type ''", "--type '' is not a glob"),
    ("token create crm --source 'a\nb'", "is not a glob"),
    ("token create crm --rate inf", "--rate inf is not a number"),
    *(
        (f"serve --port 0 --allow-origin '{origin}'", f"--allow-origin {origin!r} is not the name of a host")
        for origin in ("https://events.example.com", "events.example.com:443", "*", "")
    ),
    (
        "purge --cause 0123456789ab --yes",
        "no dead letter has the cause '0123456789ab': `resonant dlq --group` lists the causes\n",
    ),
    *(
        (f"{command} --code {code}", f"no failure has the code {code!r}{hint}")
        for command in (*LISTING, "replay", "cancel")
        for code, hint in (
            ("connection_refused", ": did you mean connect_refused"),
            ("http_40", ": did you mean http_400, http_401 or http_402?"),
            ("http_429", ": did you mean throttled?"),
            ("my_own_cod", ": did you mean my_own_code?"),
        )
    ),
    # endpoints that could not be used, refused before a server is looked for
    *((f"{command} e.jsonl", NOTHING_ROUTES) for command in ("emit", "enqueue")),
    *(
        (f"emit e.jsonl --endpoint {url}", f"resonant: --endpoint: {problem}")
        for url, problem in (
            ("ftp://example.com/x", f"{BAD_URL}\n"),
            ("htp://user:hunter2@a.example/", f"{BAD_URL}\n"),
            ("http://", "its URL has no host\n"),
            ("http://[::1", "its URL is not well-formed\n"),
            ("http://10.0.0.1/", PRIVATE),
        )
    ),
    ("endpoint add crm htp://user:hunter2@a.example/", BAD_URL),
    ("endpoint add crm http://10.0.0.1/", PRIVATE),
    ("endpoint add crm https://a.example/ --header 'Host: hunter2'", "header Host is set by Resonant"),
    ("endpoint add crm https://a.example/ --header hunter2", "--header must be NAME:VALUE"),
    ("endpoint add crm https://a.example/ --override x", "must be STATUS=CATEGORY, such as 404=transient"),
    ("endpoint add crm https://a.example/ --override 404=bad", "must be transient, permanent or unknown"),
    ("endpoint update crm --url htp://user:hunter2@a.example/", BAD_URL),
    ("endpoint update crm", "nothing to change: `resonant endpoint update -h` lists the options"),
    ("endpoint update file-endpoint/crm --timeout 3", "only webhook endpoints can be changed here"),
    ("endpoint remove crm", "removing an endpoint needs confirmation: give --yes"),
]


@pytest.fixture(autouse=True)
def no_server_is_asked(monkeypatch):
    monkeypatch.setattr("resonant.local.server.prefect_server", None)  # a call would fail


def rows(url):
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        return list(database.iterdump())


@pytest.mark.parametrize(("command", "said"), MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(resonant, stored, url, command, said):
    before = rows(url)

    refused = f"resonant: {resonant.refused(*shlex.split(command), code=2)}\n"

    assert said in refused
    assert "hunter2" not in refused
    assert rows(url) == before


@pytest.mark.parametrize(
    "command",
    [
        *("no-such-command", "status --no-such-option", "enqueue", "dlq --limit x", "dlq --limit -1"),
        *("dlq --category odd", "dlq --reason odd", "purge --older-than -1"),
        *("simulate --outage-kind refse", "simulate --overload queu"),
        *(f"replay --all --dry-run {bound}" for bound in ("--rate 0", "--rate -1", "--limit 0")),
        *(f"enqueue e.jsonl --endpoint billing --max-attempts {number}" for number in ("0", "1001", "many")),
    ],
)
def test_a_value_outside_its_choices_or_bounds_is_exit_code_2(resonant, stored, command):
    assert resonant(*command.split(), code=2).out == ""


def every_command(command, path=()):
    if subcommands := getattr(command, "commands", None):
        for name, each in subcommands.items():
            yield from every_command(each, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(every_command(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_option_of_one_value_that_is_given_twice(resonant, name):
    command = COMMANDS[name]
    assert isinstance(command, Command)
    for option in command.params:
        if option.param_type_name != "option" or option.multiple or option.is_flag:
            continue
        first, last = option.opts[0], option.opts[-1]
        said = resonant(*name.split(), first, "7", f"{last}=8", code=2).err
        assert said == f"resonant: {first} takes one value, but was given 2 times\n"


def test_flags_may_be_given_again(resonant, stored):
    assert resonant("status", "--json", "--json").code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("30s", NOW - 30), ("5m", NOW - 300), ("2h", NOW - 7200), ("7d", NOW - 604_800)),
        *(("2w", NOW - 1_209_600), ("0d", NOW), (None, None)),
        *((f"2023-11-14T22:13:20{zone}", NOW) for zone in ("Z", "+00:00", ".000Z")),
        *(("2023-11-15T00:13:20+02:00", NOW), ("2023-11-14T16:43:20-05:30", NOW)),
    ],
)
def test_a_moment_is_an_age_or_a_time_with_a_zone(text, expected):
    assert moment("--since", text, now=NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "-2h", "1.5h", "2 h", "٣h", "²h", "2y", "2023-11-14", "h", "9" * 400 + "d"]
)
def test_other_text_is_not_accepted_as_a_time(text):
    with pytest.raises(Misuse, match="--since"):
        moment("--since", text, now=NOW)
