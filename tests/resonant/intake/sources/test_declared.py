"""The file of sources: what it may have, and which mistake each message names."""

import json

import pytest

from resonant.intake.sources.declared import read_sources
from support.sources import BASE64_SECRET, declare, row


def read(tmp_path, *rows):
    return read_sources(declare(tmp_path, *rows))


def test_a_file_in_yaml_has_references_to_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_SECRET", "of the environment")
    (tmp_path / "stripe-secret").write_text("of a file\n")
    (tmp_path / "sources.yaml").write_text(
        """
sources:
  - name: github
    verify: github
    secret: [env:GITHUB_SECRET, file:stripe-secret]
    type: com.github.{header.x-github-event}.{data/action|none}
    id: "{header.x-github-delivery}"
    subject: "{data/number|}"
    max_bytes: 1000
    rate: 5
    on_conflict: keep
    unrouted: refuse
    endpoint: orders
  - name: billing
    verify: stripe
    secret: file:stripe-secret
    tolerance: 60
"""
    )
    found = read_sources(tmp_path / "sources.yaml")
    github, billing = found["github"], found["billing"]
    assert github.options.secrets == ("of the environment", "of a file")
    assert (github.tolerance, github.max_bytes, github.rate, github.endpoint) == (300, 1_000, 5, "orders")
    assert (github.keeps_conflicts, github.keeps_unrouted) == (True, False)
    assert (billing.tolerance, billing.max_bytes, billing.rate, billing.endpoint) == (60, None, None, None)
    assert (billing.keeps_conflicts, billing.keeps_unrouted) == (False, True)
    assert (billing.type.text, billing.source.text) == ("com.stripe.{data/type}", "/billing")


def test_a_file_may_declare_no_source(tmp_path):
    assert read(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be a list of sources under the key sources"),
        (b"sources: 5", "must be a list of sources under the key sources"),
        (b"sources: []\nmore: 1", "must be a list of sources under the key sources"),
        (b"- name: a", "must be a list of sources under the key sources"),
        (b"sources:\n  - name: [", "invalid YAML or JSON in line"),
        (b"sources: []\nsources: []", "the key 'sources' is repeated in line 2"),
        (b"sources: \xff", "not UTF-8 text"),
        (b"sources: [5]", "source 1 must have a name"),
        (b"sources: [{verify: github}]", "source 1 must have a name"),
        (b"sources: [{name: A_b}]", "lower case letters, digits and single dashes"),
        (b"sources: [{name: 5}]", "source 1 must have a name"),
        (b"sources: [{name: ../x}]", "source 1 must have a name"),
    ],
)
def test_a_file_that_is_none_of_sources_is_refused_by_its_name(tmp_path, content, said):
    path = tmp_path / "sources.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        read_sources(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"No such file|Is a directory"):
        read_sources(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (row("github", verfy=1), "unknown setting 'verfy': did you mean verify"),
        (row("github") | {"verify": "githb"}, "verify must be one of .*did you mean"),
        ({"name": "a"}, "verify"),
        (row("github", secret=[]), "secret"),
        ({"name": "a", "verify": "github"}, "verify: github needs a secret"),
        (row("github", rate=0), "rate"),
        (row("github", rate=".nan"), "rate"),
        (row("github", rate="5"), "rate"),
        (row("stripe", tolerance=0), "tolerance"),
        (row("stripe", tolerance=86_401), "tolerance"),
        (row("stripe", max_bytes=0), "max_bytes"),
        (row("stripe", on_conflict="drop"), "on_conflict"),
        (row("stripe", unrouted=True), "unrouted"),
        (row("stripe", endpoint="https://user:pass@example.com"), "endpoint must be the name of an endpoint"),
        (row("stripe", type="{data"), "type: .* a value is"),
        (row("stripe", id="{x}"), "id: .* a value is"),
        (row("stripe", subject="}"), "subject: .* a value is"),
        (row("stripe", extensions={"zone": "{"}), "zone: .* a value is"),
        (row("stripe", extensions={"Bad-Name": "x"}), "'Bad-Name' is not the name of an attribute"),
        (row("stripe", extensions={"id": "x"}), "id is not an extension attribute"),
        (row("stripe", type="resonant.delivery.dead"), "are reserved"),
        (row("stripe", source="/resonant"), "are reserved"),
        (row("stripe", source="resonant/x"), "are reserved"),
        (row("stripe", name="resonant"), "are reserved"),
        (row("stripe", header="x"), "verify: stripe takes no header"),
        (row("github", url="https://example.com"), "verify: github takes no url"),
        (row("github", tolerance=60), "verify: github takes no tolerance"),
        (row("twilio", url=""), "verify: twilio needs the setting url"),
        (row("hmac", id=""), "verify: hmac needs the setting id"),
        ({"name": "a", "verify": "hmac", "secret": "x", "id": "1"}, "verify: hmac needs the setting header"),
        ({"name": "a", "verify": "token", "secret": "x", "header": "x"}, "verify: token needs the setting id"),
        ({"name": "a", "verify": "basic", "secret": "x:y"}, "verify: basic needs the setting id"),
        (row("hmac", algorithm="md5"), "algorithm"),
        (row("hmac", encoding="base32"), "encoding"),
        (row("basic", secret="no colon"), "the secret must be USER:PASSWORD"),
        (row("standard-webhooks", secret="whsec_not base64"), "the secret must be whsec_ and base64"),
        ({"name": "a", "verify": "none", "id": "1", "secret": "x"}, "verify: none takes no secret"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_source_and_no_secret(tmp_path, given, said):
    with pytest.raises(ValueError, match=said) as raised:
        read(tmp_path, row("github", name="first"), given)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'sources.yaml'}: source {given['name']!r}: ")
    assert not any(each in message for each in ("\n", "pass@", "no colon", "not base64", BASE64_SECRET))


def test_a_name_may_be_declared_once(tmp_path):
    with pytest.raises(ValueError, match="source 'github' is declared twice"):
        read(tmp_path, row("github"), row("github"))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("plain-secret", "must be env:NAME or file:PATH"),
        ("env:NOT_SET_HERE", "the environment variable NOT_SET_HERE is not set"),
        ("file:missing", "missing: No such file"),
        ("file:empty", "the file empty is empty"),
        ("file:../outside", "is not below the folder of sources.yaml"),
        ("file:binary", "not UTF-8 text"),
    ],
)
def test_a_secret_is_a_reference_that_leads_to_one(tmp_path, reference, said):
    folder = tmp_path / "etc"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret")
    (folder / "empty").write_text("\n")
    (folder / "binary").write_bytes(b"\xff")
    path = folder / "sources.yaml"
    path.write_text(
        json.dumps({"sources": [{"name": "a", "verify": "github", "secret": reference}]}, indent=1)
    )
    with pytest.raises(ValueError, match=said) as raised:
        read_sources(path)
    assert "plain-secret" not in str(raised.value)
