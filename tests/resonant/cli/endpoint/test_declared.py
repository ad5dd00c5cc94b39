"""Endpoints declared in a file."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from resonant.blocks import DeploymentEndpoint, WebhookEndpoint
from resonant.cli.endpoint import declared
from resonant.cli.endpoint.declared import as_written, check_new_secrets, compare, exported, parse
from resonant.cli.endpoint.importing import import_
from resonant.cli.options import Misuse
from resonant.endpoint_settings import SETTINGS
from resonant.errors import EndpointError
from resonant.settings import load_settings

OLD, NEW = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xk", "whsec_bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3"
NOW = datetime(2026, 11, 28, tzinfo=UTC)
URL = "https://hooks.example.com/shop"
SHOP = f"name: shop, url: {URL!r}"
DEPLOYMENT = "resonant-deployment/retrain"
JSON_SHOP = f'{{"name": "shop", "url": "{URL}"}}'


def read(text, folder=Path(), **options):
    return parse(declared.read(text, "f.yaml"), "f.yaml", folder, load_settings(), **options)


def shop(fields="", folder=Path(), **options) -> WebhookEndpoint:
    return read(f"- {{{SHOP}, {fields}}}", folder, **options)["shop"]


@pytest.mark.parametrize(
    "text",
    [
        f"endpoints:\n- {{{SHOP}}}\n",
        f"- {{{SHOP}}}\n",
        f"\n{JSON_SHOP}\n\n",
        f'{{"endpoints": [{JSON_SHOP}]}}\n',
        f'{{"endpoints": [\n{JSON_SHOP}\n]}}\n',
        f'{{\n\t"endpoints": [\n\t\t{JSON_SHOP}\n\t]\n}}\n',
    ],
    ids=["a mapping", "a list", "JSON lines", "JSON", "JSON on several lines", "JSON with tabs"],
)
def test_a_file_is_yaml_or_json(text):
    assert read(text) == {"shop": WebhookEndpoint(url=SecretStr(URL))}


def test_the_help_of_import_names_every_setting():
    assert {*SETTINGS, *DeploymentEndpoint.model_fields} <= set(re.findall(r"\w+", import_.__doc__))


def test_a_file_without_endpoints_declares_none():
    assert read("") == read("endpoints:\n") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- name: [", "invalid YAML or JSON in line 1"),
        ("- created: 2026-99-99", "invalid YAML or JSON"),
        ("\x00", "invalid YAML or JSON"),
        ("[" * 5000, "invalid YAML or JSON"),
        (f'{JSON_SHOP}\n{{"name": "shop"\n', "invalid YAML or JSON in line 2"),
        ("shop", "must be a list of endpoints"),
        ("endpoint: []", "must be a list of endpoints"),
        ("[shop]", "endpoint 1 must have a name"),
        ("- {name: 7}", "endpoint 1 must have a name"),
        (f"[{{{SHOP}}}, {{{SHOP}}}]", "endpoint 'shop' is declared twice"),
        (f"- name: a\n  url: {URL}\n  name: b\n", "the key 'name' is repeated in line 3"),
        (f'{JSON_SHOP}\n{{"name": "b", "name": "c"}}', "the key 'name' is repeated in line 2"),
        ("- {name: slack/a}", "endpoint 'slack/a' is not of type webhook-endpoint, and has no deployment"),
        ("[{name: a, deployment: a/b}, {name: resonant-deployment/a, deployment: c/d}]", "is declared twice"),
        ("- {name: shop}", "'shop': its url: is missing"),
        ("- {name: shop, url: 'http://127.0.0.1/'}", "'shop': 127.0.0.1 is a private"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(text, problem):
    with pytest.raises(Misuse, match=f"^f.yaml: .*{problem}"):
        read(text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("tiemout: 3", "unknown setting 'tiemout': did you mean timeout"),
        ("previous_signing_secret: a", "unknown setting 'previous_signing_secret'"),
        ("timeout: 0", "its timeout: must be greater than 0"),
        ("policy: pateint", "no retry policy is named 'pateint'"),
        ("status_overrides: {404: maybe}", "its status_overrides: must be"),
        ("allow_private: maybe", "its allow_private: must be true or false"),
        ("status_overrides: 5", "its status_overrides: must be an object"),
        ("ca_file: 5", "its ca_file: must be text"),
        ("mode: both", "its mode: must be 'binary' or 'structured'"),
        ("status_overrides: {99: transient}", "its status_overrides: 99 is not a status from 100 to 599"),
        ("status_overrides: {600: transient}", "its status_overrides: 600 is not"),
        ("headers: 'x: y'", "its headers must map names to text"),
        ("headers: {x: true}", "its headers must map names to text"),
        (f"signing_secret: {OLD}", "its signing_secret must be env:NAME or file:PATH"),
        (f"client_key: {OLD}", "its client_key must be env:NAME or file:PATH"),
        (f"proxy: 'socks5://me:{OLD}@proxy'", "its proxy must be http:// or https://, a host and a port"),
        ("client_certificate: chain", "its client certificate needs both a certificate and its key"),
        ("signing_secret: env:NOT_SET", "the environment variable NOT_SET is not set"),
        ("headers: {x: file:absent}", "absent: No such file"),
        ("headers: {x: file:empty}", "the file empty is empty"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_without_its_secret(fields, problem, tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(Misuse, match=f"^f.yaml: endpoint 'shop': {problem}") as refused:
        shop(fields, tmp_path)
    assert OLD not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("deployment: retrain", "its deployment: "),
        ("deployment: a/b, url: https://a.example", "unknown setting 'url'"),
        ("deployment: a/b, taggs: [a]", "unknown setting 'taggs': did you mean tags"),
        ("deployment: a/b, parameters: {n: data}", "its parameters: "),
        ("deployment: a/b, api_key: s3cret", "its api_key must be env:NAME or file:PATH"),
        ("deployment: a/b, auth_string: 'me:s3cret'", "its auth_string must be env:NAME or file:PATH"),
        ("deployment: a/b, auth_string: file:password", "its API key or password needs an api_url"),
        ("deployment: a/b, policy: pateint", "no retry policy is named 'pateint'"),
    ],
)
def test_a_deployment_that_cannot_be_used_is_refused_without_its_secret(fields, problem, tmp_path):
    (tmp_path / "password").write_text("me:s3cret")
    with pytest.raises(Misuse, match=f"^f.yaml: endpoint '{DEPLOYMENT}': {problem}") as refused:
        read(f"- {{name: retrain, {fields}}}", tmp_path)
    assert "s3cret" not in str(refused.value)


def test_a_deployment_is_declared_exported_and_compared_as_a_webhook_endpoint_is(monkeypatch):
    monkeypatch.setenv("ENDPOINT_RETRAIN__AUTH_STRING", "me:s3cret")
    text = (
        "- {name: retrain, deployment: retrain/main, parameters: {order: /data/order}, as_text: true, tags: [a], rate: 2, "
        "work_queue: fast, api_url: 'https://prefect.example/api', auth_string: env:ENDPOINT_RETRAIN__AUTH_STRING}"
    )
    retrain = read(text)
    assert retrain == {
        DEPLOYMENT: DeploymentEndpoint(
            deployment="retrain/main",
            parameters={"order": "/data/order"},
            as_text=True,
            tags=["a"],
            rate=2,
            work_queue="fast",
            api_url="https://prefect.example/api",
            auth_string=SecretStr("me:s3cret"),
        )
    }
    written = exported(retrain, {}, with_urls=False)
    assert "s3cret" not in written
    assert read(written) == retrain
    monkeypatch.setenv("ENDPOINT_RETRAIN__AUTH_STRING", "me:other")
    [change] = compare(read(text.replace("fast", "slow")), retrain, prune=False, now=NOW)
    assert (change.name, change.kind) == (DEPLOYMENT, "changed")
    assert change.fields == {"work_queue": 'work_queue "fast" → "slow"', "auth_string": "auth_string changed"}
    [row] = declared.read(text, "f.yaml")
    assert as_written(row) == {
        "deployment": "retrain/main",
        "api_url": "https://prefect.example/api",
        "auth_string": "env:ENDPOINT_RETRAIN__AUTH_STRING",
    }


def test_secrets_come_from_the_environment_and_from_files_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_SECRET", NEW)
    (tmp_path / "token").write_text("Bearer abc\n")
    block = shop("signing_secret: env:SHOP_SECRET, headers: {authorization: file:token, x-team: 7}", tmp_path)
    assert block.signing_secret == SecretStr(NEW)
    assert block.header_values("shop") == {"authorization": "Bearer abc", "x-team": "7"}


@pytest.mark.parametrize("where", ["{outside}", "../outside", "inner/../../outside", "link"])
def test_a_reference_reads_a_file_outside_the_folder_only_if_that_is_allowed(where, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("another secret")
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "link").symlink_to(outside)
    where = where.format(outside=outside)

    with pytest.raises(Misuse, match=f"^f.yaml: endpoint 'shop': {where} is not below the folder of f.yaml"):
        shop(f"headers: {{x: 'file:{where}'}}", folder)

    allowed = shop(f"headers: {{x: 'file:{where}'}}", folder, any_file=True)
    assert allowed.header_values("shop") == {"x": "another secret"}


def test_certificates_are_found_in_the_folder_of_the_file_by_processes_in_other_folders(tmp_path):
    certificates = tmp_path / "below" / "ca.pem"
    certificates.parent.mkdir()
    with pytest.raises(Misuse, match=r"'shop': its ca_file below/ca.pem: No such file or directory$"):
        shop("ca_file: below/ca.pem", tmp_path)
    trustme.CA().cert_pem.write_to_path(certificates)
    assert shop("ca_file: below/ca.pem", tmp_path).ca_file == str(certificates)
    assert shop(f"ca_file: {certificates}").ca_file == str(certificates)


def test_aliases_may_repeat_a_value_but_not_multiply_it():
    shared = f"common: &common {{rate: 5}}\nendpoints:\n- {{{SHOP}, <<: *common}}\n"
    assert read(shared)["shop"].rate == 5
    levels = [f"a{each}: &a{each} [{', '.join([f'*a{each - 1}'] * 9)}]" for each in range(1, 10)]
    bomb = "\n".join(["a0: &a0 [x]", *levels, f"endpoints: [{{{SHOP}, signing_secret: *a9}}]"])
    for text in (bomb, f"- &itself {{{SHOP}, signing_secret: [*itself]}}"):
        assert len(text) < 700
        with pytest.raises(Misuse, match=r"^f.yaml: aliases .* in line \d+$"):
            read(text)


def one_change(declared, saved, *, now=NOW):
    (change,) = compare({"shop": declared}, {"shop": saved}, prune=False, now=now)
    return change


def test_a_change_names_each_setting_and_shows_no_secret(monkeypatch):
    monkeypatch.setenv("SECRET", OLD)
    saved, declared = shop("signing_secret: env:SECRET, timeout: 30"), shop("headers: {x: '1'}, rate: 5")
    said = ["timeout 30.0 → 15.0", "rate null → 5.0", "headers added", "signing_secret removed"]
    assert list(one_change(declared, saved).fields.values()) == said
    same = declared.model_copy(update={"headers": SecretStr('{"x":"1"}')})
    assert one_change(declared, same).kind == "unchanged", "the headers mean the same"


def test_a_dry_run_shows_where_secrets_are_sent():
    where = {
        "url": "https://hooks.example.com/in",
        "proxy": "http://me:t0ken@proxy.example:3128",
        "oauth_token_url": "https://auth.example.com/token?key=t0ken",
        "oauth_client_secret": "env:SECRET",
    }
    assert declared.as_written({"name": "shop", **where, "signing_secret": None}) == where | {
        "proxy": "http://proxy.example:3128",
        "oauth_token_url": "https://auth.example.com/token?***",
    }
    for proxy in ("none", "env:PROXY"):
        assert declared.as_written({"proxy": proxy}) == {"proxy": proxy}


def test_a_new_secret_begins_a_rotation_that_later_imports_keep(monkeypatch):
    monkeypatch.setenv("SECRET", OLD)
    saved = shop("signing_secret: env:SECRET")
    monkeypatch.setenv("SECRET", NEW)
    declared = shop("signing_secret: env:SECRET, timeout: 30")
    rotated = one_change(declared, saved).block
    ends = NOW + timedelta(hours=24)
    assert (rotated.previous_signing_secret, rotated.previous_signing_secret_until) == (SecretStr(OLD), ends)
    assert one_change(declared, rotated).kind == "unchanged"
    assert one_change(shop("signing_secret: env:SECRET"), rotated).block.previous_signing_secret_until == ends

    monkeypatch.setenv("SECRET", OLD)
    with pytest.raises(EndpointError, match="a rotation is under way"):
        one_change(saved, rotated)
    assert one_change(saved, rotated, now=ends).block.previous_signing_secret == SecretStr(NEW)


def test_only_a_new_secret_or_certificate_is_checked(tmp_path):
    issued = trustme.CA().issue_cert("shop.example", not_after=NOW - timedelta(days=1))
    (tmp_path / "cert").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "short").write_text("whsec_YQ==")
    for fields, problem in (
        ("signing_secret: file:short", "its signing secret has 1 byte"),
        ("client_certificate: file:cert, client_key: file:key", "its client certificate .* is not valid now"),
    ):
        bad = {"shop": shop(fields, tmp_path)}
        check_new_secrets(bad, saved=bad, source="f.yaml")
        with pytest.raises(Misuse, match=f"^f.yaml: endpoint 'shop': {problem}"):
            check_new_secrets(bad, saved={}, source="f.yaml")


def test_an_export_can_be_imported_once_its_variables_are_set(monkeypatch):
    issued = trustme.CA().issue_cert("shop.example")
    secrets = {
        "SIGNING_SECRET": OLD,
        "PROXY": "http://me:s3cret@proxy:3128",
        "CLIENT_CERTIFICATE": issued.cert_chain_pems[0].bytes().decode(),
        "CLIENT_KEY": issued.private_key_pem.bytes().decode(),
    }
    for name, value in (secrets | {"X_KEY": "1"}).items():
        monkeypatch.setenv(f"ENDPOINT_SHOP__{name}", value)
    fields = ", ".join(f"{name.lower()}: env:ENDPOINT_SHOP__{name}" for name in secrets)
    others = "headers: {x-key: '1'}, status_overrides: {404: transient}, rate: 5, mode: structured"
    block = shop(f"{fields}, {others}")
    text = exported({"shop": block}, {}, with_urls=True)
    for secret in (OLD, "s3cret", "PRIVATE KEY"):
        assert secret not in text
    assert read(text) == {"shop": block}
    assert "hooks.example.com" not in exported({"shop": block}, {}, with_urls=False)
    assert one_change(
        shop(f"{others}, signing_secret: env:ENDPOINT_SHOP__SIGNING_SECRET, proxy: none"), block
    ).fields == {
        "proxy": "proxy changed",
        "client_certificate": "client_certificate removed",
        "client_key": "client_key removed",
    }
    assert "proxy: none\n" in exported({"shop": shop("proxy: none")}, {}, with_urls=False)


def test_pruning_removes_only_undeclared_endpoints_of_kinds_that_can_be_declared():
    unusable = dict.fromkeys(("crm", "shop", DEPLOYMENT), EndpointError("unusable"))
    changes = compare({"shop": shop()}, unusable | {"file-endpoint/log": object()}, prune=True, now=NOW)
    assert {each.name: each.kind for each in changes} == {
        "shop": "changed",
        "crm": "removed",
        DEPLOYMENT: "removed",
    }
