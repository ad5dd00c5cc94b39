import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.errors import SettingsError, UnknownPolicy
from resonant.settings import Settings, egress_proxy, load_settings
from resonant.store.engine.database import file_of

PATIENT = '{"patient": {"max_attempts": 20, "cap": 7200}}'


@pytest.fixture
def environment(monkeypatch):
    """Set RESONANT_ variables by their names in lower case; none is set otherwise."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RESONANT_{name.upper()}", raising=False)

    def set_variables(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"RESONANT_{name.upper()}", value)

    return set_variables


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_event_bytes", "2048", 2048),
        ("lease_seconds", "7.5", 7.5),
        ("concurrency", "7", 7),
        ("endpoint_concurrency", "3", 3),
        ("max_waiting", "0", 0),
        ("default_policy", "classic", "classic"),
        ("alert_error_rate", "0.1", 0.1),
        ("alert_notification_block", "slack-webhook/ops", "slack-webhook/ops"),
    ],
)
def test_a_field_is_set_by_its_name_in_the_environment(environment, name, text, value):
    default = getattr(load_settings(), name)
    assert default != value
    environment(**{name: text})
    assert getattr(load_settings(), name) == value
    environment(**{name: ""})
    assert getattr(load_settings(), name) == default


@pytest.mark.parametrize("name", ["home", "per%cent", "ques?tion"])
def test_without_a_database_url_the_store_is_an_sqlite_file_in_the_home(environment, tmp_path, name):
    environment(home=str(tmp_path / name), database_url="")
    assert file_of(load_settings().store_url) == tmp_path / name / "resonant.db"


def test_the_home_may_be_relative_to_the_users(environment, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().store_url == f"sqlite:///{tmp_path}/.resonant/resonant.db"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("proxy", "socks5://me:hunter2@proxy:1080", "must be http:// or https://, a host and a port"),
        ("proxy", "http://me:hunter2@proxy:port", "must be a URL, such as http://USER:PASSWORD@HOST:PORT"),
        ("no_proxy", "a.example, b.example:80", "'b.example:80' must be a host name"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(environment, name, value, problem):
    environment(**{name: value})
    with pytest.raises(SettingsError, match=f"^RESONANT_{name.upper()}: {problem}") as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_the_proxy_follows_the_environment(environment):
    environment(http_proxy="http://ignored:3128")
    assert egress_proxy() is None
    environment(proxy="http://me:hunter2@proxy:3128", no_proxy="a.example, 10.0.0.0/8")
    found = egress_proxy()
    assert found.url == "http://me:hunter2@proxy:3128"
    direct = ["a.example", "10.0.0.1", "127.0.0.1", "localhost", "::1"]
    assert [host for host in direct if found.serves(host)] == []
    assert found.serves("b.example")
    assert "hunter2" not in repr(load_settings())
    environment(no_proxy="*")
    assert not egress_proxy().serves("b.example")


def test_a_database_url_is_used_as_it_is_and_never_shown(environment):
    environment(database_url="postgresql://me:hunter2@db/events")
    settings = load_settings()
    assert settings.store_url == "postgresql://me:hunter2@db/events"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("variables", "name", "policy"),
    [
        ({}, None, RetryPolicy()),
        ({}, "classic", RetryPolicy.classic()),
        ({"policies": ""}, None, RetryPolicy()),
        ({"policies": PATIENT}, "patient", RetryPolicy(max_attempts=20, cap=7200)),
        ({"policies": PATIENT}, "classic", RetryPolicy.classic()),
        ({"policies": PATIENT}, None, RetryPolicy()),
        ({"policies": PATIENT, "default_policy": "patient"}, None, RetryPolicy(max_attempts=20, cap=7200)),
        ({"policies": '{"default": {"max_attempts": 2}}'}, None, RetryPolicy(max_attempts=2)),
        (
            {"policies": '{"a": {"cap": "2h", "max_age": "1.5d"}}'},
            "a",
            RetryPolicy(cap=7200, max_age=129_600),
        ),
        ({"policies": '{"a": {"delays": ["5s", 60, "5m"]}}'}, "a", RetryPolicy(delays=(5, 60, 300))),
        ({"default_policy": "standard-webhooks"}, None, RetryPolicy.standard_webhooks()),
    ],
)
def test_policies_are_read_as_json_and_found_by_name(environment, variables, name, policy):
    environment(**variables)
    assert load_settings().policy(name) == policy


def test_an_unknown_policy_is_an_error_that_lists_the_known_ones(environment):
    environment(policies=PATIENT)
    with pytest.raises(
        UnknownPolicy, match=r"'impatient'; known policies: classic, default, patient, standard-webhooks"
    ):
        load_settings().policy("impatient")


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("concurrency", "many", "must be a valid integer"),
        ("concurrency", "0", "must be greater than or equal to 1"),
        ("lease_seconds", "0.5", "must be greater"),
        ("lease_seconds", "inf", "must be a finite number"),
        ("max_event_bytes", "0", "must be greater than 0"),
        ("max_waiting", "-1", "must be greater than or equal to 0"),
        ("policies", "{patient: 3}", "not JSON: Expecting property name"),
        ("retention_by_reason", "permanent=90", "not JSON: Expecting value"),
        ("policies", "[]", "must be an object"),
        ("retention_by_reason", '{"odd": 3}', "odd: must be 'permanent', 'exhausted'"),
        ("policies", '{"a": 3}', "a: must be an object"),
        ("policies", '{"a": {"max_atempts": 3}}', "policy 'a' has no field 'max_atempts'"),
        ("policies", '{"a": {"max_attempts": 0}}', "a: max_attempts must be 1 to 1000, not 0"),
        ("policies", '{"a": {"cap": "high"}}', "a: cap: 'high' is not a duration: give"),
        (
            "policies",
            '{"a": {"delays": "5s"}}',
            'a: delays must be a list of durations, such as ["5s", "5m"]',
        ),
        *(
            (
                "policies",
                f'{{"a": {{"delays": [5, {item}]}}}}',
                f"a: delays: item 2: '{said}' is not a duration: give seconds or a unit",
            )
            for item, said in (('"5 minutes"', "5 minutes"), ("true", "True"), ("null", "None"))
        ),
        ("policies", '{"a": {"delays": [5, -1]}}', "a: delays must be finite and not negative"),
        (
            "policies",
            '{"a": {"delays": [5], "base": 1}}',
            "a: delays cannot be combined with base: remove one of them",
        ),
        (
            "policies",
            '{"a": {"delays": ["24h", "48h"]}}',
            "a: max_age must be at least 311040 seconds for these delays",
        ),
        ("policies", '{"a": {"jitter": "some"}}', "a.jitter: must be 'proportional'"),
        ("default_policy", "bold", "no retry policy is named 'bold'; known policies: classic"),
    ],
)
def test_a_malformed_setting_is_one_line_that_names_its_variable(environment, variable, text, problem):
    environment(**{variable: text})
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"RESONANT_{variable.upper()}: {problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"concurrency": "0", "default_policy": "bold"}, r"^RESONANT_CONCURRENCY: [^\n]*$"),
        # not the default policy, which was to be among them
        (
            {"policies": '{"bold": {"cap": -1}}', "default_policy": "bold"},
            r"^RESONANT_POLICIES: bold: cap must be",
        ),
    ],
)
def test_the_first_of_several_malformed_settings_is_named(environment, variables, said):
    environment(**variables)
    with pytest.raises(SettingsError, match=said):
        load_settings()
