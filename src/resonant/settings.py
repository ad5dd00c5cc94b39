"""Settings: every field can be set as ``RESONANT_<NAME>`` in the environment."""

import os
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as MalformedJson

from resonant.delivery.retry import RetryPolicy
from resonant.display import parse_duration
from resonant.errors import SettingsError, UnknownPolicy
from resonant.events import Reason
from resonant.sinks.network.proxy import LOOPBACK, Proxy, check_bypass

DEFAULT_POLICY = "default"
_BUILT_IN_POLICIES = {
    DEFAULT_POLICY: RetryPolicy(),
    "classic": RetryPolicy.classic(),
    "standard-webhooks": RetryPolicy.standard_webhooks(),
}
# Python terms in pydantic's messages, and their replacements.
_WORDS = {
    "a valid dictionary": "an object",
    "a dictionary or an instance of RetryPolicy": "an object",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "Field required": "is missing",
    "String should match pattern '^[^/]+/[^/]+$'": "must be FLOW/DEPLOYMENT",
}
_DURATIONS = ("base", "cap", "max_age", "park_after")


class Settings(BaseSettings):
    """All settings with their defaults."""

    model_config = SettingsConfigDict(env_prefix="RESONANT_", env_ignore_empty=True, frozen=True)

    home: Path = Field(
        default=Path("~/.resonant"),
        description="Folder for the default store, the archives of the daily purge, and the state of `resonant up`.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="The store: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; by default SQLite in the home folder.",
    )
    max_event_bytes: Annotated[int, Field(gt=0)] = Field(
        default=1024 * 1024, description="Maximum size of an event's body, in bytes."
    )
    lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=60.0,
        description="Seconds after which a worker's lease on a delivery expires; a live worker renews it. Set the same value for all "
        "processes of a store. Below 40 s, a short outage of PostgreSQL may cause deliveries to be sent twice.",
    )
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=400,
        description="Maximum concurrent sends in one run. Half of them are for endpoints with short sends, a tenth for probes.",
    )
    endpoint_concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=50, description="Maximum concurrent sends to one endpoint in one run."
    )
    max_waiting: Annotated[int, Field(ge=0)] = Field(
        default=1_000,
        description="Maximum retries of single deliveries that wait in one run; further retries are parked in the store.",
    )
    proxy: SecretStr | None = Field(
        default=None,
        description="HTTP proxy for all webhook endpoints: `http://USER:PASSWORD@HOST:PORT`, or `https://`. An endpoint's own "
        "setting takes precedence. `HTTP_PROXY` and `HTTPS_PROXY` are not read.",
    )
    no_proxy: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts that are reached without this proxy, separated by commas: names, which include all names below them, "
        "addresses, networks such as `10.0.0.0/8`, or `*`. This machine (`localhost`, `127.0.0.0/8`, `::1`) is always reached without it.",
    )
    sinks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Modules that define sinks, separated by commas, in addition to those of installed packages.",
    )
    retention_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=30.0, description="Days after which the daily purge removes dead letters."
    )
    retention_delivered_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=30.0,
        description="Days after which the daily purge removes delivered history; `never` keeps it.",
    )
    body_retention_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Days after which the daily purge removes the bodies of events whose deliveries were all delivered; kept "
        "with the event by default.",
    )
    retention_by_reason: dict[Reason, Annotated[float, Field(ge=0)]] = Field(
        default={}, description='Days to keep dead letters, by reason, as JSON: `{"permanent": 90}`.'
    )
    retention_by_endpoint: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description='Days to keep dead letters, by endpoint, as JSON: `{"billing": 7}`. Takes precedence over the reason.',
    )
    metrics_window_hours: Annotated[float, Field(gt=0, le=876_000, allow_inf_nan=False)] = Field(
        default=24.0, description="Window of the statistics and percentiles, in hours."
    )
    metrics_textfile: Path | None = Field(
        default=None,
        description="File to which the flow `export-metrics` writes Prometheus text; by default `metrics/resonant.prom` in the "
        "home folder.",
    )
    policies: dict[str, RetryPolicy] = Field(
        default={},
        description='Retry policies by name, as JSON: `{"brief": {"max_attempts": 10, "max_age": "2h"}}`.',
    )
    default_policy: str = Field(
        default=DEFAULT_POLICY, description="The policy of endpoints and events without one."
    )
    trace: Literal["auto", "link", "parent", "off"] = Field(
        default="auto",
        description="OpenTelemetry spans of attempts: `link` begins a new trace with a link to that of the event, `parent` "
        "continues the trace of the event, `auto` continues it for a first attempt within a minute, and `off` makes no spans.",
    )
    alert_window_minutes: Annotated[float, Field(ge=5, le=1440)] = Field(
        default=15.0, description="Window of the error rate and the share of retries, in minutes."
    )
    alert_min_attempts: Annotated[int, Field(ge=1)] = Field(
        default=20, description="Minimum attempts in this window for an alert on the error rate."
    )
    alert_error_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.25,
        description="Share of an endpoint's attempts that may fail before an alert begins; the alert ends at half of it.",
    )
    alert_dead_letters_per_hour: Annotated[int, Field(ge=1)] = Field(
        default=5,
        description="New dead letters per hour at which an endpoint's alert begins; the alert ends at half of it.",
    )
    alert_dead_letter_age_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=72.0, description="Hours that a dead letter may wait to be replayed or purged."
    )
    alert_latency_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        default=2.0,
        description="Maximum mean duration of an attempt, as a multiple of that in the same hour of the day before.",
    )
    alert_silence_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=10.0, description="Minutes that a delivery may be overdue while no worker claims any."
    )
    alert_retry_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="Share of all attempts that may be followed by a retry; the alert ends at half of it.",
    )
    alert_probing_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Minutes that an endpoint may be down while its gate sends only probes, or that an event type may fail "
        "while others work.",
    )
    alert_notification_block: str | None = Field(
        default=None,
        description="Prefect notification block that receives alerts, as TYPE/NAME: `slack-webhook/ops`.",
    )

    @field_validator("sinks", "no_proxy", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(filter(None, (each.strip() for each in value.split(","))))
        return value

    @field_validator("proxy")
    @classmethod
    def _proxy_is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            Proxy(value.get_secret_value())
        return value

    @field_validator("no_proxy")
    @classmethod
    def _hosts_can_match(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            check_bypass(entry)
        return value

    @field_validator("retention_delivered_days", "body_retention_days", mode="before")
    @classmethod
    def _never_is_no_age(cls, value: object) -> object:
        return None if value == "never" else value

    @field_validator("policies", mode="before")
    @classmethod
    def _policies_with_known_fields(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: _policy_fields(name, fields) if isinstance(fields, dict) else fields
            for name, fields in value.items()
        }

    @field_validator("default_policy")
    @classmethod
    def _default_policy_is_known(cls, name: str, fields: ValidationInfo) -> str:
        _named_policy(name, fields.data.get("policies", {}))
        return name

    @cached_property
    def store_url(self) -> str:
        """The database's URL, with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{quote(str(self.home.expanduser() / 'resonant.db'))}"

    @property
    def metrics_window_seconds(self) -> float:
        """The window of the statistics, in seconds."""
        return self.metrics_window_hours * 3600

    @property
    def textfile(self) -> Path:
        """The file to which the metrics flow writes Prometheus text."""
        return (self.metrics_textfile or self.home / "metrics" / "resonant.prom").expanduser()

    @property
    def archive_folder(self) -> Path:
        """The folder of the daily purge's archives."""
        return self.home.expanduser() / "archive"

    @property
    def alert_window_seconds(self) -> float:
        """The window of the error rate and the share of retries, in seconds."""
        return self.alert_window_minutes * 60

    @property
    def known_policies(self) -> dict[str, RetryPolicy]:
        """The built-in retry policies and those of ``policies``, by name."""
        return _BUILT_IN_POLICIES | self.policies

    def policy(self, name: str | None = None) -> RetryPolicy:
        """Return a retry policy by name; None means the default policy.

        Raises:
            UnknownPolicy: no policy has that name; the message lists the known ones.
        """
        return _named_policy(self.default_policy if name is None else name, self.policies)


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a variable is malformed; the message names it.
    """
    try:
        return Settings()
    except MalformedJson as error:
        field = str(error).split('"')[1]  # error parsing value for field "policies" from ...
        raise SettingsError(f"RESONANT_{field.upper()}: not JSON: {error.__cause__}") from None
    except ValidationError as error:
        (field, *place), message = first_problem(error)
        parts = [f"RESONANT_{field.upper()}", ".".join(place), message]
        raise SettingsError(": ".join(filter(None, parts))) from None


def egress_proxy() -> Proxy | None:
    """Return the proxy of endpoints without their own; None without one. Reading all settings takes milliseconds.

    Raises:
        SettingsError: a variable is malformed.
    """
    return _egress_proxy(os.environ.get("RESONANT_PROXY"), os.environ.get("RESONANT_NO_PROXY"))


@lru_cache(maxsize=1)
def _egress_proxy(*_environment: str | None) -> Proxy | None:
    settings = load_settings()
    return (
        None
        if settings.proxy is None
        else Proxy(settings.proxy.get_secret_value(), (*settings.no_proxy, *LOOPBACK))
    )


def first_problem(error: ValidationError) -> tuple[list[str], str]:
    """Return the place and the text of a validation's first error, in our words and without the wrong value."""
    first = error.errors(include_input=False, include_url=False)[0]
    text, _, _ = first["msg"].removeprefix("Value error, ").partition(", unable to ")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    place = [str(each) for each in first["loc"] if each != "[key]"]
    return place, re.sub("^Input should ", "must ", text)


def _policy_fields(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a policy, with durations as seconds."""
    # pydantic would silently drop a misspelt field of a dataclass.
    if unknown := fields.keys() - set(RetryPolicy.__slots__):
        raise ValueError(f"policy {name!r} has no field {min(unknown)!r}")
    if fields.get("delays") is not None and (curve := fields.keys() & {"base", "factor", "cap"}):
        raise ValueError(f"{name}: delays cannot be combined with {min(curve)}: remove one of them")
    return {field: _field_value(f"{name}: {field}", field, value) for field, value in fields.items()}


def _field_value(place: str, field: str, value: object) -> object:
    if field == "delays" and value is not None:
        if not isinstance(value, list):
            raise ValueError(f'{place} must be a list of durations, such as ["5s", "5m"]')
        return [_seconds(f"{place}: item {number}", each) for number, each in enumerate(value, 1)]
    return _seconds(place, value) if field in _DURATIONS else value


def _seconds(place: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _named_policy(name: str, more: dict[str, RetryPolicy]) -> RetryPolicy:
    known = _BUILT_IN_POLICIES | more
    if name not in known:
        raise UnknownPolicy(
            f"no retry policy is named {name!r}; known policies: {', '.join(sorted(known))} "
            "(RESONANT_POLICIES adds more)"
        )
    return known[name]
