"""Generated forgeries of each scheme: none passes."""

from itertools import islice

import pytest

from resonant.intake.sources.schemes import Forged
from resonant.intake.sources.source import Stale
from support.desk import START
from support.forging import PROOFS, forgeries, proves
from support.sources import SIGNING, hash_in_query, webhook

BODIES = {"twilio": b"Body=Hi+there&From=%2B1555&MessageSid=SM1&NumMedia=0"}


def outcome(source, given, now=START):
    try:
        source.check(given.received, given.query, now)
    except (Forged, Stale) as error:
        return type(error)
    return None


def distinct(verify, original, number):
    """Return different forgeries, and those that prove the same as the original."""
    found, same = {}, []
    for each in islice(forgeries(verify, original, seed=46), 50_000):
        if proves(verify, original, each):
            same.append(each)
        else:
            found[each] = None
        if len(found) == number:
            return [*found], same
    raise AssertionError(f"only {len(found)} forgeries differ")


@pytest.mark.parametrize("verify", PROOFS)
def test_no_forgery_passes(of, verify):
    source, original = of(verify), webhook(verify, BODIES.get(verify))
    assert outcome(source, original) is None

    forged, same = distinct(verify, original, 1_000 if verify in SIGNING else 100)

    assert [each for each in forged if outcome(source, each) is None] == []
    assert all(outcome(source, each) is not Stale for each in same)


def test_no_forgery_of_twilios_json_passes(of):
    body = b'{"a": 1}'
    original = webhook("twilio", body, kind="application/json", query=hash_in_query(body))
    source = of("twilio")
    assert outcome(source, original) is None

    forged, _ = distinct("twilio", original, 1_000)

    assert [each for each in forged if outcome(source, each) is None] == []


@pytest.mark.parametrize("verify", ["standard-webhooks", "stripe", "slack"])
def test_no_old_request_passes_and_none_under_a_new_time(of, verify):
    source, original = of(verify), webhook(verify)
    later = START + 301
    assert outcome(source, original, later) is Stale
    forged, same = distinct(verify, original, 1_000)
    assert [each for each in (*forged, *same) if outcome(source, each, later) is None] == []
