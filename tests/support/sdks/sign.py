"""Reads webhooks as JSON on standard input; prints how the libraries of Slack, Stripe and Twilio sign and judge each."""

import base64
import json
import sys
from urllib.parse import parse_qsl

from slack_sdk.signature import SignatureVerifier
from stripe import WebhookSignature
from twilio.request_validator import RequestValidator


class Fields(dict):
    """The fields of a form, as those of Django."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs

    def getlist(self, name):
        return [value for key, value in self.pairs if key == name]


def slack(webhook, body):
    verifier, at = SignatureVerifier(webhook["secret"]), webhook["at"]
    signed = {
        "x-slack-request-timestamp": at,
        "x-slack-signature": verifier.generate_signature(timestamp=at, body=body),
    }
    return signed, lambda: verifier.is_valid_request(body, webhook["headers"])


def stripe(webhook, body):
    secret, at = webhook["secret"], webhook["at"]
    signed = {"stripe-signature": WebhookSignature.generate_signature_header(body, secret, int(at))}
    given = webhook["headers"].get("stripe-signature")
    return signed, lambda: WebhookSignature.verify_header(body, given, secret, tolerance=300)


def twilio(webhook, body):
    validator, url = RequestValidator(webhook["secret"]), webhook["url"]
    is_form = webhook["headers"]["content-type"].startswith("application/x-www-form-urlencoded")
    fields = Fields(parse_qsl(body, keep_blank_values=True)) if is_form else body
    signed = {"x-twilio-signature": validator.compute_signature(url, fields if is_form else {})}
    given = webhook["headers"].get("x-twilio-signature", "")
    return signed, lambda: validator.validate(url, fields, given)


def read(webhook):
    body = base64.b64decode(webhook["body"]).decode()
    signed, verify = {"slack": slack, "stripe": stripe, "twilio": twilio}[webhook["verify"]](webhook, body)
    try:
        verified = bool(verify())
    except Exception:  # noqa: BLE001 - of some forgeries, they raise an error of Python
        verified = False
    return {"signed": signed, "verified": verified}


json.dump([read(webhook) for webhook in json.load(sys.stdin)], sys.stdout)
