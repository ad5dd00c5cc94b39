"""Endpoints that are refused, and their text without secrets."""

import base64

import pytest

from resonant.errors import EndpointError
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.signing import check_new_secret, problem_of_secret
from support.http_sinks import SECRET, endpoint


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": "ftp://example.com"}, "must begin with http:// or https://"),
        ({"url": "example.com/hooks"}, "must begin with http:// or https://"),
        ({"url": "https://"}, "has no host"),
        ({"url": "https:///hooks"}, "has no host"),
        ({"url": "https://example.com:0"}, "port 0"),
        ({"url": "https://example.com:65536"}, "port 65536"),
        ({"url": "https://user:s3cret@example.com:s3cret/"}, "not well-formed"),
        ({"url": "https://example.com/s3cret\n"}, "not well-formed"),
        ({"url": "https://exa mple.com/s3cret"}, "invalid host"),
        ({"url": "https://hooks..example.com/s3cret"}, "invalid host"),
        ({"url": f"https://{'a' * 64}.example.com/s3cret"}, "invalid host"),
        ({"headers": {"Authorization: s3cret": "x"}}, "illegal name"),
        ({"headers": {"": "x"}}, "illegal name"),
        ({"headers": {"X-A": "s3cret\r\nX-B: s3cret"}}, "header X-A must be printable ASCII"),
        ({"headers": {"X-A": "s3cret€"}}, "header X-A must be printable ASCII"),
        ({"headers": {"X-A": " s3cret"}}, "header X-A must be printable ASCII"),
        ({"headers": {"CE-Type": "x"}}, "header CE-Type is set by Resonant"),
        ({"headers": {"Webhook-Signature": "x"}}, "header Webhook-Signature is set by Resonant"),
        ({"headers": {"Content-Type": "x"}}, "header Content-Type is set by Resonant"),
        ({"headers": {"content-length": "1"}}, "header content-length is set by Resonant"),
        ({"headers": {"Host": "x"}}, "header Host is set by Resonant"),
        ({"headers": {"traceparent": "x"}}, "header traceparent is set by Resonant"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "header Transfer-Encoding is set by Resonant"),
        (
            {"url": "https://u:s3cret@example.com", "headers": {"authorization": "x"}},
            "both an Authorization header",
        ),
        ({"signing_secrets": ("whsec_s3cret00!",)}, "signing secret must be whsec_ and base64"),
        ({"signing_secrets": (SECRET, "whsec_")}, "signing secret must be whsec_ and base64"),
        ({"signing_secrets": ("whpk_s3cret",)}, "a public key (whpk_) cannot sign: give the private key"),
        ({"signing_secrets": ("whsk_s3cret",)}, "must be whsk_ and base64 of 32 or 64 bytes"),
        ({"signing_secrets": (f"whsk_{base64.b64encode(bytes(33)).decode()}",)}, "base64 of 32 or 64 bytes"),
        (
            {"signing_secrets": (f"whsk_{base64.b64encode(bytes(64)).decode()}",)},
            "a public key that does not belong to it",
        ),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": -1.0}, "timeout must be a positive number"),
        ({"timeout": float("inf")}, "timeout must be a positive number"),
        ({"timeout": float("nan")}, "timeout must be a positive number"),
    ],
)
def test_an_unusable_endpoint_is_refused_with_a_reason_and_no_secret(fields, problem):
    with pytest.raises(EndpointError) as refusal:
        Endpoint("orders", **{"url": "https://example.com"} | fields)
    text = str(refusal.value)
    assert text.startswith("endpoint 'orders': ")
    assert problem in text
    assert "s3cret" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (1, "its signing secret has 1 byte, not 24 to 64"),
        (23, "its signing secret has 23 bytes, not 24 to 64"),
        (24, None),
        (64, None),
        (65, "its signing secret has 65 bytes, not 24 to 64"),
    ],
)
def test_a_new_signing_secret_has_24_to_64_bytes_and_an_existing_one_still_signs(size, problem):
    secret = "whsec_" + base64.b64encode(b"s" * size).decode()

    assert endpoint("https://example.com", signing_secrets=(secret,)).signing_secrets == (secret,)
    assert problem_of_secret(secret) == problem
    if problem is None:
        check_new_secret("orders", secret)
        return
    with pytest.raises(EndpointError) as refused:
        check_new_secret("orders", secret)
    hint = "`(printf whsec_; openssl rand -base64 32)` makes a new one"
    assert str(refused.value) == f"endpoint 'orders': {problem}: {hint}"


def test_an_endpoint_is_printed_without_secrets():
    secretive = endpoint(
        "https://u:s3cret@example.com/s3cret?k=s3cret", headers={"X-Key": "s3cret"}, signing_secrets=(SECRET,)
    )
    assert "name='orders'" in repr(secretive)
    assert "s3cret" not in repr(secretive)
    assert SECRET not in repr(secretive)
