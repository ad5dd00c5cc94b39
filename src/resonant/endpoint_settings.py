"""The settings of a webhook endpoint: the table behind its options, its block, and the files of imports and exports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

NETWORK = "Network and TLS"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of an endpoint.

    Attributes:
        name: of the block's field, and the key in a file to import.
        description: in Prefect's form.
        help: of its option; empty: the commands declare their own, or have none.
        metavar, panel: of its option.
        kind: the type of its option's value.
        flag: its option, if that is not named like the field.
        file: whether its option takes the name of a file, or, with ``@``, may take one. Of ``path``, the path is saved.
        secret: whether it is saved as a secret.
        reference: whether a file to import must refer to the secret, and not contain it.
        default: of the block; ``...``: it must be given; ``dict``: an empty one.
        clear: what ``endpoint update --clear`` calls it; None: it cannot be reset.
        kept: what ``endpoint update`` says if it stays as it is, formatted with the value or the number of entries.
        limits: of a number, as pydantic calls them.
    """

    name: str
    description: str
    help: str = ""
    metavar: str | None = None
    kind: Any = str
    panel: str | None = None
    flag: str = ""
    file: Literal["always", "@", "path"] | None = None
    secret: bool = False
    reference: bool = False
    default: Any = None
    clear: str | None = None
    kept: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def option(self) -> str:
        """The name of its option."""
        return self.flag or f"--{self.name.replace('_', '-')}"


_of_network = partial(Setting, panel=NETWORK)
_of_oauth = partial(Setting, panel="OAuth 2.0", clear="oauth")
# A row as the formatter would write it is twice as long.
# fmt: off
_ROWS = (
    Setting("url",
        "URL (http or https). Stored as a secret, since it may contain a token.",
        secret=True, default=..., kept="its URL"),
    Setting("signing_secret",
        "Standard Webhooks secret (whsec_ and base64) or Ed25519 private key (whsk_ and base64) that signs every attempt.",
        secret=True, reference=True, kept="its signing secret"),
    Setting("headers",
        'Headers sent with every event, as a JSON object: {"Authorization": "Bearer ..."}.',
        "A header to send with every event; repeatable. @FILE reads it from a file.",
        metavar="NAME:VALUE", kind=list[str], flag="--header", secret=True, clear="headers",
        kept="{} of its headers"),
    Setting("policy",
        "Name of the retry policy (RESONANT_POLICIES); the default policy if empty.",
        "The retry policy: default, classic, standard-webhooks or one of your own.",
        metavar="NAME", clear="policy", kept="its policy {}"),
    Setting("timeout",
        "Time limit of one attempt in seconds, from connecting to the answer.",
        "Deadline for one attempt; default for a new endpoint: 15.",
        metavar="SECONDS", kind=float, default=15.0, limits={"gt": 0, "le": 600},
        kept="its timeout of {:g} s"),
    Setting("concurrency",
        "Maximum concurrent sends in one run; RESONANT_ENDPOINT_CONCURRENCY if empty.",
        "Concurrent sends per run, instead of the default limit.",
        metavar="N", kind=int, limits={"ge": 1}, clear="concurrency", kept="its concurrency of {}"),
    Setting("rate",
        "Maximum sends per second, shared by all runs; no limit if empty. A run reads a change when it starts.",
        "Sends per second across all processes; no limit by default.",
        metavar="N", kind=float, limits={"gt": 0, "le": 10_000}, clear="rate",
        kept="its rate of {:g} per second"),
    Setting("status_overrides",
        'Status codes to classify differently, such as {"404": "transient"}.',
        "Classify a status differently, such as 404=transient; repeatable.",
        metavar="STATUS=CATEGORY", kind=list[str], flag="--override", default=dict, clear="overrides",
        kept="{} of its overrides"),
    _of_network("ca_file",
        "PEM file of certificates to trust instead of the public ones.",
        "CA certificates (PEM) to trust instead of the public ones; the path is saved.",
        metavar="FILE", file="path", clear="ca-file", kept="its certificates"),
    _of_network("proxy",
        "HTTP proxy to connect through: http://USER:PASSWORD@HOST:PORT or https://. none: connect directly. Empty: RESONANT_PROXY.",
        "HTTP proxy to connect through, instead of RESONANT_PROXY; none: connect directly. @FILE reads it from a file.",
        metavar="URL", file="@", secret=True, clear="proxy", kept="its proxy"),
    _of_network("client_certificate",
        "Certificate (PEM, with those of its issuers) that identifies Resonant to the receiver (mutual TLS).",
        "Certificate (PEM, with those of its issuers) that identifies Resonant to the receiver; its content is saved.",
        metavar="FILE", flag="--client-cert", file="always", secret=True, clear="client-cert",
        kept="its client certificate"),
    _of_network("client_key",
        "Private key (PEM, without a passphrase) of the client certificate.",
        "Private key (PEM, no passphrase) of the client certificate; its content is saved.",
        metavar="FILE", file="always", secret=True, reference=True, clear="client-cert"),
    Setting("mode",
        "binary: the body is the event's data, and headers have its attributes. "
        "structured: the body is the whole event, in JSON.",
        "binary: the body is the event's data, and headers have its attributes; the default for a new endpoint. "
        "structured: the body is the whole event, in JSON.",
        metavar="MODE", kind=Literal["binary", "structured"], default="binary", kept="its {} mode"),
    _of_oauth("oauth_token_url",
        "OAuth 2.0: URL of the token endpoint. Tokens are sent as the header Authorization. "
        "Stored as a secret, since its query may contain one.",
        "URL of the token endpoint; tokens are requested with client credentials. @FILE reads it from a file.",
        metavar="URL", file="@", secret=True, kept="its OAuth settings"),
    _of_oauth("oauth_client_id", "OAuth 2.0: client id.", "Client id.", metavar="ID"),
    _of_oauth("oauth_client_secret",
        "OAuth 2.0: client secret.",
        "File that contains the client secret; it is saved.",
        metavar="FILE", flag="--oauth-client-secret-file", file="always", secret=True, reference=True),
    _of_oauth("oauth_scope",
        "OAuth 2.0: requested scopes, separated by spaces.",
        "Requested scopes, separated by spaces.",
        metavar="SCOPES"),
    _of_oauth("oauth_audience",
        "OAuth 2.0: requested audience, which some servers need.",
        "Requested audience.",
        metavar="AUDIENCE"),
    _of_oauth("oauth_authentication",
        "OAuth 2.0: send client id and secret as Basic authentication (basic) or in the body (body).",
        "Send client id and secret as Basic authentication (basic, the default) or in the body (body).",
        metavar="HOW", kind=Literal["basic", "body"], default="basic"),
    Setting("allow_private",
        "Allow private and special addresses, such as 127.0.0.1 or 10.0.0.0/8. Otherwise, nothing is sent to them.",
        default=False),
)
# fmt: on
SETTINGS: Mapping[str, Setting] = {each.name: each for each in _ROWS}
