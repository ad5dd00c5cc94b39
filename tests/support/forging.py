"""Generated forgeries of a webhook: what an attacker could send who has captured it, but has no secret."""

import random
import string
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

from resonant.intake.sources.templates import FORM
from support.desk import START
from support.sources import SECRET, Webhook, webhook

# The header with the signature, token or password, and those that it signs.
PROOFS = {
    "standard-webhooks": "webhook-signature",
    "github": "x-hub-signature-256",
    "stripe": "stripe-signature",
    "slack": "x-slack-signature",
    "shopify": "x-shopify-hmac-sha256",
    "twilio": "x-twilio-signature",
    "hmac": "x-signature",
    "token": "x-token",
    "gitlab": "x-gitlab-token",
    "basic": "authorization",
}
_SIGNED = {
    "standard-webhooks": ("webhook-id", "webhook-timestamp"),
    "slack": ("x-slack-request-timestamp",),
}
_OLD, _NEW = str(int(START)).encode(), str(int(START) + 60).encode()


def proves(verify: str, original: Webhook, given: Webhook) -> bool:
    """Return whether a request has the signature of the original for all that it signs, and so is no forgery."""
    names = (PROOFS[verify], *_SIGNED.get(verify, ()))
    if any([name for name, _ in given.headers].count(each) != 1 for each in names):
        return False
    if any(given[name] != original[name] for name in names[1:]):
        return False
    return _signs_the_same(verify, original, given) and _has_proof(
        verify, original[names[0]], given[names[0]]
    )


def _signs_the_same(verify: str, original: Webhook, given: Webhook) -> bool:
    if verify == "twilio":
        return _signed_by_twilio(original) == _signed_by_twilio(given)
    return original.body == given.body or verify in ("token", "gitlab", "basic")


def _has_proof(verify: str, expected: bytes, proof: bytes) -> bool:
    match verify:
        case "basic":
            scheme, _, encoded = proof.partition(b" ")
            return scheme.lower() == b"basic" and encoded.strip(b" ") == expected.partition(b" ")[2]
        case "standard-webhooks":
            return expected in proof.split(b" ")
        case "stripe":
            [time, signature], pairs = expected.split(b","), proof.split(b",")
            return signature in pairs and [each for each in pairs if each.partition(b"=")[0] == b"t"] == [
                time
            ]
    return proof == expected


def _signed_by_twilio(given: Webhook) -> tuple[str, object]:
    if given.received.kind != FORM or "bodySHA256" in given.query:
        return given.query, given.body
    fields = parse_qsl(given.body.decode("latin-1"), keep_blank_values=True)
    return given.query, "".join(map("".join, sorted(set(fields))))


def forgeries(verify: str, original: Webhook, seed: int) -> Iterator[Webhook]:
    """Yield changed requests without end; some of them prove the same as the original."""
    generator = random.Random(seed)
    changes = [_change_proof, _change_proof, _repeat, _sign_anew, _replace_type]
    if verify not in ("token", "gitlab", "basic"):
        changes += [_change_body, _change_body, _change_query]
    if verify in ("standard-webhooks", "slack", "stripe"):
        changes += [_change_time, _shift]
    while True:
        forged = original
        for _ in range(generator.choice((1, 1, 1, 2))):
            forged = generator.choice(changes)(verify, forged, generator)
        yield forged


def _change_body(_verify: str, given: Webhook, generator: random.Random) -> Webhook:
    return given.changed(body=_changed(given.body, generator))


def _change_query(_verify: str, given: Webhook, generator: random.Random) -> Webhook:
    return given.changed(
        query=generator.choice(("a=1", "bodySHA256=" + "0" * 64, "bodySHA256=", "%00", "&")),
        body=b"" if generator.random() < 0.5 else b"{}",
    )


def _replace_type(_verify: str, given: Webhook, generator: random.Random) -> Webhook:
    kind = generator.choice(
        (FORM, FORM.upper(), "application/json", "text/plain", "", "multipart/form-data; boundary=x")
    )
    return given.changed(
        content_type=kind, body=given.body if generator.random() < 0.5 else _changed(given.body, generator)
    )


def _change_proof(verify: str, given: Webhook, generator: random.Random) -> Webhook:
    name = PROOFS[verify]
    spelled = generator.choice(_SPELLINGS)
    proof = given[name] if name in dict(given.headers) else b""
    value = spelled(proof) if generator.random() < 0.6 else _changed(proof, generator)
    return given.changed(**{name: value})


def _repeat(verify: str, given: Webhook, generator: random.Random) -> Webhook:
    name = generator.choice((PROOFS[verify], *_SIGNED.get(verify, ())))
    value = generator.choice((b"", given[name], _changed(given[name], generator)))
    return given.with_also(name, value, first=generator.random() < 0.5)


def _sign_anew(verify: str, given: Webhook, generator: random.Random) -> Webhook:
    """Sign with a secret that is nearly the right one."""
    at = generator.randrange(1, len(SECRET))
    other = generator.choice(
        (
            "",
            " ",
            SECRET[:at],
            SECRET[at:],
            SECRET.upper(),
            SECRET[::-1],
            f"{SECRET}\n",
            f" {SECRET}",
            "whsec_",
            "None",
            "null",
        )
    )
    query = given.query if verify == "twilio" else ""
    event_id = f"evt_{generator.randrange(10**9)}"
    at_time = START + generator.randrange(-200, 200)
    return webhook(verify, event_id=event_id, secret=other, at=at_time, query=query)


def _change_time(verify: str, given: Webhook, generator: random.Random) -> Webhook:
    time = generator.choice(
        (
            _NEW,
            b"0" + _OLD,
            b"+" + _OLD,
            _OLD + b".0",
            _OLD + b" ",
            b"",
            b"-" + _OLD,
            b"%d" % generator.randrange(10**10),
        )
    )
    name = PROOFS["stripe"] if verify == "stripe" else _SIGNED[verify][-1]
    return given.changed(**{name: given[name].replace(_OLD, time)})


def _shift(verify: str, given: Webhook, generator: random.Random) -> Webhook:
    """Move bytes between the parts of what is signed."""
    at = generator.randrange(len(given.body) + 1)
    moved, rest = given.body[:at], given.body[at:]
    if verify == "stripe":
        return given.changed(
            body=rest, stripe_signature=given["stripe-signature"].replace(_OLD, _OLD + b"." + moved)
        )
    if verify == "slack":
        return given.changed(body=rest, x_slack_request_timestamp=_OLD + b":" + moved)
    return given.changed(body=rest, webhook_id=given["webhook-id"] + b"." + _OLD, webhook_timestamp=moved)


def _changed(text: bytes, generator: random.Random) -> bytes:
    """Change some bytes."""
    if not text:
        return generator.randbytes(5)
    at = generator.randrange(len(text))
    one = generator.choice((bytes([generator.randrange(256)]), *(each.encode() for each in string.printable)))
    return generator.choice(
        (
            text[:at] + bytes([text[at] ^ (1 << generator.randrange(8))]) + text[at + 1 :],
            text[:at] + one + text[at + 1 :],
            text[:at] + one + text[at:],
            text[:at] + text[at + 1 :],
            text[:at],
            text[at:],
            text + one,
            one + text,
            text + text,
            b"",
        )
    )


_SPELLINGS: tuple[Callable[[bytes], bytes], ...] = (
    bytes.upper,
    bytes.lower,
    bytes.swapcase,
    bytes.title,
    lambda proof: proof.rstrip(b"="),
    lambda proof: proof + b"=",
    lambda proof: proof.replace(b"+", b"-").replace(b"/", b"_"),
    lambda proof: proof.replace(b"=", b"%3D"),
    lambda proof: proof.rpartition(b"=")[2] or proof.rpartition(b",")[2],
    lambda proof: proof.replace(b"v1", b"v0"),
    lambda proof: proof.replace(b"sha256=", b"sha1="),
    lambda proof: proof.replace(b"sha256=", b"sha256=sha256="),
    lambda proof: proof + b"," + proof,
    lambda proof: proof + b" " + proof,
    lambda proof: proof + b";" + proof,
    lambda proof: b'"' + proof + b'"',
    lambda proof: b" " + proof,
    lambda proof: proof + b"\t",
    lambda proof: proof[:9] + b" " + proof[9:],
    lambda proof: proof[:9] + b"\n" + proof[9:],
    lambda proof: proof + b"\0",
    lambda proof: proof[:9] + b"\0" + proof[9:],
    lambda proof: proof + "\u00e9".encode(),
    lambda proof: proof.decode("latin-1").translate({ord("a"): "\u0430", ord("1"): "\uff11"}).encode(),
    lambda proof: proof.decode("latin-1").encode("utf-16"),
    lambda _: b"",
    lambda _: b"   ",
    lambda _: b"\xff" * 64,
    lambda _: b"0" * 64,
    lambda _: b"None",
    lambda _: b"sha256=",
    lambda _: b"v1,",
    lambda _: b"t=,v1=",
    lambda _: b"Basic ",
    lambda proof: proof * 1_000,
    lambda proof: b"v1=0," * 1_000 + proof,
    lambda proof: b"v1,x " * 1_000 + proof,
)
