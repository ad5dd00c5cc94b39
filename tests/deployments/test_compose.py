"""compose.yaml is safe to start unread: every name is known, every image pinned, no port open, and no secret in it."""

import re
from pathlib import Path

import prefect_redis.cleanup_queue
import prefect_redis.client
import prefect_redis.messaging
import pytest
import yaml
from dotenv import dotenv_values
from prefect.settings.models.root import Settings as PrefectSettings
from pydantic import TypeAdapter
from pydantic_settings import BaseSettings

from resonant.settings import Settings

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
REDIS_SETTINGS = (
    prefect_redis.cleanup_queue.RedisWorkerCleanupQueueSettings,
    prefect_redis.client.RedisMessagingSettings,
    prefect_redis.messaging.RedisMessagingPublisherSettings,
    prefect_redis.messaging.RedisMessagingConsumerSettings,
)
# Of the images of PostgreSQL and Redis.
OTHERS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "REDISCLI_AUTH"}


def fields_of(model: type[BaseSettings]) -> dict[str, object]:
    """The environment's names of all settings, those of groups within too, and the annotation of each."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            found |= fields_of(field.annotation)
        else:
            found[f"{model.model_config['env_prefix']}{name}".upper()] = field.rebuild_annotation()
    return found


KNOWN = fields_of(PrefectSettings) | fields_of(Settings)
for model in REDIS_SETTINGS:
    KNOWN |= fields_of(model)


def env_file(name: str) -> dict[str, str]:
    return {key: value or "" for key, value in dotenv_values(DEPLOYMENTS / name).items()}


def of_service(name: str) -> dict[str, str]:
    """All that a service's environment is set to."""
    service = SERVICES[name]
    files = [env_file(each) for each in service.get("env_file", [])]
    return {key: value for given in [*files, service.get("environment", {})] for key, value in given.items()}


def runs(name: str, words: str) -> bool:
    return str(SERVICES[name].get("command", "")).startswith(words)


@pytest.mark.parametrize("file", ["server.env", "scale-out.env"])
def test_every_setting_of_a_file_is_one_that_prefect_knows_with_a_value_that_it_takes(file):
    given = env_file(file)
    assert given
    assert given.keys() <= KNOWN.keys()
    for name, value in given.items():
        if "Timedelta" not in str(KNOWN[name]).title():
            TypeAdapter(KNOWN[name]).validate_strings(value)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_known_settings_a_pinned_image_no_open_port_and_no_secret_of_its_own(name):
    assert of_service(name).keys() <= KNOWN.keys() | OTHERS
    assert re.fullmatch(r"[a-z]+:\d+(\.\d+)+", SERVICES[name]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))
    for key, value in of_service(name).items():
        if re.search("PASSWORD|AUTH|_URL$", key) and "$" not in value:
            assert value.startswith("http://"), f"{key} of {name}"
        assert all(needed.endswith(":?") for needed in re.findall(r"\$\{([^}]+)\}", value))


def test_the_base_of_our_image_is_pinned_and_the_copied_files_exist():
    image = (DEPLOYMENTS / "Dockerfile").read_text()
    [base] = re.findall(r"^FROM (\S+)", image, re.MULTILINE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base)
    copied = re.findall(r"^COPY (.+) \S+$", image, re.MULTILINE)
    assert all((DEPLOYMENTS.parent / path).exists() for path in " ".join(copied).split())


def test_services_wait_for_the_health_of_those_they_need():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], f"{name} waits for {needed}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[needed]["restart"] == "on-failure"


def test_servers_leave_the_services_to_one_process_and_share_its_settings():
    servers = [name for name in SERVICES if runs(name, "prefect server start")]
    services = [name for name in SERVICES if runs(name, "prefect server services start")]
    assert len(servers) == 2
    assert len(services) == 1
    assert all("--no-services" in SERVICES[name]["command"] for name in servers)
    assert len({tuple(sorted(of_service(name).items())) for name in [*servers, *services, "upgrade"]}) == 1
    settings = of_service(services[0])
    assert settings["PREFECT_SERVER_EVENTS_MESSAGING_BROKER"] == "prefect_redis.messaging"
    assert settings["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"


def test_each_server_has_a_worker():
    workers = [name for name in SERVICES if runs(name, "prefect worker start")]
    urls = {of_service(name)["PREFECT_API_URL"] for name in workers}
    assert urls == {"http://server-1:4200/api", "http://server-2:4200/api"}


def test_the_connections_that_all_may_open_are_fewer_than_the_database_takes():
    settings = of_service("server-1")
    of_prefect = sum(
        int(settings[f"PREFECT_SERVER_DATABASE_SQLALCHEMY_{part}"]) for part in ("POOL_SIZE", "MAX_OVERFLOW")
    )
    of_runs = 10
    runs_at_once = 4
    workers = sum(runs(name, "prefect worker start") for name in SERVICES)
    needed = 3 * of_prefect + workers * runs_at_once * of_runs
    limit = int(re.search(r"max_connections=(\d+)", SERVICES["postgres"]["command"])[1])
    assert needed <= limit - 3  # which are the superuser's
