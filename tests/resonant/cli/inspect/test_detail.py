"""``detail``: one event with its whole history."""

import base64
import hashlib
import json
import re
from decimal import Decimal

import pytest

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import ABSENT, Attempt, rfc3339
from resonant.store import Outcome
from resonant.store.queue.expiry import expire
from support.desk import at_once

KEYS = (
    "event_id event_type source subject time datacontenttype dataschema extensions "
    "traceparent tracestate webhook_id accepted_at deliveries data"
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def history(worker):
    """Three attempts: retried, parked, given up."""
    with worker.at_work():
        start = worker.clock()
        worker.accept("evt_1", event_type="order.[red]paid[/red]", data={"b": 1, "a": [True, "ü\x1b"]})
        worker.attempt(
            Retry(1.084, start + 1.084), duration=0.123, retry_after=1.0, excerpt="busy\n\x1b[31mnow"
        )
        worker.clock.advance(2)
        no_answer = {"status_code": None, "code": "read_timeout", "error": "no answer"}
        worker.attempt(Park(60.0, start + 62), **no_answer, blame="local", maybe_processed=True)
        worker.clock.advance(60)
        worker.attempt(GiveUp("exhausted"), warning="Retry-After is nonsense")
    return start


def test_json_holds_the_event_its_deliveries_and_every_attempt(resonant, history):
    found = resonant.json("detail", "evt_1")
    assert " ".join(found) == KEYS
    assert (found["event_id"], found["accepted_at"]) == ("evt_1", rfc3339(history))
    assert found["data"] == {"b": 1, "a": [True, "ü\x1b"]}
    (delivery,) = found["deliveries"]
    assert (delivery["status"], delivery["reason"]) == ("dead_letter", "exhausted")
    assert delivery["finished_at"] == rfc3339(history + 62)
    first, second, third = delivery["history"]
    assert [each["number"] for each in (first, second, third)] == [1, 2, 3]
    assert [each["decision"] for each in (first, second, third)] == ["retry", "park", "give_up"]
    assert (first["started_at"], first["delay"]) == (rfc3339(history), 1.084)
    assert first["excerpt"] == "busy\n\x1b[31mnow"
    assert second["next_attempt_at"] == rfc3339(history + 62)
    assert third["late"] is False


def test_text_shows_each_attempt_with_its_error_and_next_step(resonant, history):
    text = resonant("detail", "evt_1").out
    assert "  type      order.[red]paid[/red]\n" in text
    assert '      "b": 1,\n' in text
    assert f"billing: dead letter, exhausted, given up {rfc3339(history + 62)} (" in text
    attempts = text[text.index("billing: ") :].splitlines()[1:]
    second = "took 0.250 s, failed, transient read_timeout, local fault, possibly processed"
    assert attempts == [
        f"    1  {rfc3339(history)}  took 0.123 s, failed, status 503, transient http_503",
        "       error    the endpoint answered 503",
        r"       answer   busy\n\x1b[31mnow",
        "       next     retry in 1.08 s (Retry-After: 1 s)",
        f"    2  {rfc3339(history + 2)}  {second}",
        "       error    no answer",
        f"       next     parked until {rfc3339(history + 62)}",
        f"    3  {rfc3339(history + 62)}  took 0.250 s, failed, status 503, transient http_503",
        "       error    the endpoint answered 503",
        "       warning  Retry-After is nonsense",
        "       next     gave up: exhausted",
    ]


def test_an_attempt_that_came_after_its_lease_had_gone_is_marked(resonant, worker):
    worker.accept("evt_1")

    async def be_late(store):
        (old,) = await store.claim("billing", owner="slow", limit=1)
        worker.clock.advance(61)
        await store.rescue(at_once())
        await store.claim("billing", owner="quick", limit=1)
        late = Attempt(number=1, round=1, started_at=worker.clock(), duration=1.0, result="delivered")
        await store.record([Outcome(old, late, None)])

    worker.do(be_late)
    assert "delivered, late, changed nothing" in resonant("detail", "evt_1").out
    (delivery,) = resonant.json("detail", "evt_1")["deliveries"]
    assert delivery["history"][0]["late"] is True
    assert delivery["status"] == "pending"


def test_every_delivery_of_the_event_is_shown_with_the_reason_of_its_wait(resonant, worker):
    worker.accept("evt_1", endpoint="crm")
    worker.accept("evt_1", endpoint="billing")
    worker.attempt(endpoint="crm")
    text = resonant("detail", "evt_1").out
    assert "\nbilling: pending, due " in text
    assert "\ncrm: delivered " in text
    worker.do(lambda store: store.claim("billing", owner="run-7", limit=1))
    assert "\nbilling: pending, leased by run-7 until " in resonant("detail", "evt_1").out

    worker.accept("evt_2")
    worker.attempt(Retry(45.0, worker.clock() + 45))
    waits = r"\nbilling: retrying, retry due \S+Z \(in \d+ s\), leased by run-1 until "
    assert re.search(waits, resonant("detail", "evt_2").out)


def test_every_json_value_is_shown_and_numbers_keep_all_their_digits(resonant, worker):
    values = [None, 0, "", [], {}, [[]], 1e300]
    worker.accept("evt_1", data=values)
    assert resonant.json("detail", "evt_1")["data"] == values
    size = len(json.dumps(values, separators=(",", ":")))
    assert f"data      {size} bytes\n" in resonant("detail", "evt_1").out
    exact = Decimal("0.12345678901234567890123")
    worker.accept("evt_2", data={"price": exact})
    assert f'"data": {{"price":{exact}}}' in resonant("detail", "evt_2", "--json").out
    assert f'    {{"price":{exact}}}\n' in resonant("detail", "evt_2").out


def test_large_data_is_cut_in_text_and_whole_in_json(resonant, worker):
    worker.accept("evt_1", data=["x" * 100] * 1_000)
    text = resonant("detail", "evt_1").out
    assert len(text) < 10_000
    assert "resonant detail evt_1 --json shows all of it" in text
    assert resonant.json("detail", "evt_1")["data"] == ["x" * 100] * 1_000
    worker.accept("evt_1", source="/a b", data="x" * 10_000)
    shown = resonant("detail", "evt_1", "--source", "/a b").out
    assert "    ... (resonant detail evt_1 --source '/a b' --json shows all of it)\n" in shown


def test_a_unique_prefix_of_an_id_is_enough(resonant, worker):
    worker.accept("evt_1a", "evt_1b", "evt_1c", "evt_1d", "EVT_2")
    assert resonant.json("detail", "evt_1a")["event_id"] == "evt_1a"
    assert resonant.json("detail", "EVT")["event_id"] == "EVT_2"
    said = resonant("detail", "evt_1", code=1).err
    assert said == "resonant: several events begin with 'evt_1': evt_1a, evt_1b, evt_1c ...\n"
    worker.accept("evt_1")
    assert resonant.json("detail", "evt_1")["event_id"] == "evt_1"


def test_an_unknown_id_is_one_line_with_the_store_and_a_similar_id_of_the_given_source(resonant, worker, url):
    worker.accept("evt_1", source="/crm")
    worker.accept("evt_22", source="/shop")
    lists = "`resonant deliveries` and `resonant dlq` list ids"
    for argv, hint in (
        (["evt_1x"], ": did you mean evt_1?"),
        (["evt_2x", "--source", "/shop"], ": did you mean evt_22?"),
        (["evt%"], ";"),
    ):
        answer = resonant("detail", *argv, "--json", code=1)
        said = f"resonant: no event {argv[0]!r} is stored in {url}{hint} {lists}\n"
        assert (answer.out, answer.err, answer.store) == ("", said, "")


def test_on_a_terminal_attempts_fit_its_width_and_data_is_not_wrapped(resonant, worker):
    worker.accept("evt_1", data={"text": "x" * 100})
    worker.attempt(GiveUp("permanent"), error="no " * 60, excerpt="answer " * 30)

    lines = resonant.on_a_terminal("detail", "evt_1").splitlines()

    [data] = [line for line in lines if "xxx" in line]
    assert len(data) > 100
    assert max(len(line) for line in lines if line != data) <= 80


def test_an_early_attempt_is_marked_and_the_own_backoff_is_shown(resonant, worker):
    worker.accept("evt_1")
    own = worker.clock() + 3_600
    worker.attempt(Park(1.0, worker.clock() + 1, backoff_until=own))
    worker.clock.advance(1)
    worker.attempt(Park(1.0, worker.clock() + 1, backoff_until=own, charged=False))

    text = resonant("detail", "evt_1").out
    assert f", own backoff until {rfc3339(own)}, 2 attempts\n" in text
    assert text.count("not counted in max_attempts") == 1
    (delivery,) = resonant.json("detail", "evt_1")["deliveries"]
    assert delivery["backoff_until"] == rfc3339(own)
    assert [each["early"] for each in delivery["history"]] == [False, True]

    worker.accept("evt_2")
    over = worker.clock() + 1
    worker.attempt(Park(1.0, over, backoff_until=over))
    assert "own backoff" not in resonant("detail", "evt_2").out


def test_an_attempt_without_a_token_is_a_local_fault_that_is_not_counted(resonant, worker):
    worker.accept("evt_1")
    parked = Park(1.0, worker.clock() + 1, charged=False)
    worker.attempt(parked, blame="local", code="oauth_token")
    text = resonant("detail", "evt_1").out
    assert "transient oauth_token, local fault, not counted in max_attempts\n" in text


def test_a_due_delivery_of_a_paused_endpoint_is_shown_as_held(resonant, worker):
    worker.accept("evt_1")
    resonant("endpoint", "pause", "billing")
    assert "\nbilling: pending, held because the endpoint is paused, due " in resonant("detail", "evt_1").out
    resonant("endpoint", "resume", "billing")
    assert "\nbilling: pending, due " in resonant("detail", "evt_1").out


def data_lines(text: str) -> list[str]:
    """Return the lines between the size of the data and the first delivery."""
    return text.partition("\n  data ")[2].partition("\n\n")[0].splitlines()[1:]


def test_all_attributes_are_shown_and_are_in_json(resonant, worker):
    extensions = {"partitionkey": "c\u202e7", "sampled": True, "size": 3, "accepted": "never"}
    worker.accept(
        "evt.1",
        subject="order/1",
        time="2026-01-31T12:00:00Z",
        datacontenttype="application/problem+json",
        dataschema="https://example.com/order.json",
        extensions=extensions | {"traceparent": TRACE, "tracestate": "a=1"},
    )

    found = resonant.json("detail", "evt.1")
    attributes = found["event_id"], found["subject"], found["time"], found["datacontenttype"]
    assert attributes == ("evt.1", "order/1", "2026-01-31T12:00:00Z", "application/problem+json")
    assert found["dataschema"] == "https://example.com/order.json"
    assert found["extensions"] == extensions
    assert (found["traceparent"], found["tracestate"]) == (TRACE, "a=1")
    assert re.fullmatch("evt_[a-z2-7]{26}", found["webhook_id"]), "a dot is not allowed in it"

    shown = resonant("detail", "evt.1").out.splitlines()
    assert shown[5:13] == [
        "  content   application/problem+json",
        "  schema    https://example.com/order.json",
        "  extension accepted: never",
        r"  extension partitionkey: c\u202e7",
        "  extension sampled: true",
        "  extension size: 3",
        f"  trace     {TRACE} a=1",
        f"  sent as   {found['webhook_id']}, its webhook-id",
    ]


def test_an_event_without_the_optional_attributes_shows_none_of_them(resonant, worker):
    worker.accept("evt_1")
    names = [line.split()[0] for line in resonant("detail", "evt_1").out.splitlines()[1:7]]
    assert names == ["type", "source", "time", "accepted", "data", "null"]
    found = resonant.json("detail", "evt_1")
    empty = " ".join(name for name, value in found.items() if value in (None, {}))
    assert empty == "subject datacontenttype dataschema extensions traceparent tracestate data"
    assert found["webhook_id"] == "evt_1"


def test_text_is_shown_as_text(resonant, worker):
    text = 'a,"b"\r\n\x1b[31m1,ü\n'
    worker.accept("evt_1", datacontenttype="text/csv", data=text)

    shown = resonant("detail", "evt_1").out
    assert f"\n  data      {len(text.encode())} bytes of text\n" in shown
    assert data_lines(shown) == ['    a,"b"\\r', r"    \x1b[31m1,ü", "    "]
    assert resonant.json("detail", "evt_1")["data"] == text


def test_bytes_are_shown_by_their_beginning_in_hexadecimal(resonant, worker):
    data = b"\x89PNG\r\n\x1b[31m~\x7f\xff" + bytes(range(256))
    worker.accept("evt_1", data=data)
    worker.accept("evt_2", data=b"\x00\x9b")

    shown = resonant.on_a_terminal("detail", "evt_1")
    first, *_, last, more = data_lines(shown)
    assert f"  data      270 bytes, binary, sha256 {hashlib.sha256(data).hexdigest()[:16]}\n" in shown
    assert first == "    0000  89 50 4e 47 0d 0a 1b 5b 33 31 6d 7e 7f ff 00 01  .PNG...[31m~...."
    assert last.startswith("    0070  62 63 ")
    assert more == "    ... (resonant detail evt_1 --json shows all of it)"
    assert max(map(len, shown.splitlines())) <= 80
    assert all(character == "\n" or character.isprintable() for character in shown)
    found = resonant.json("detail", "evt_1")
    assert base64.b64decode(found["data_base64"]) == data
    assert "data" not in found
    assert data_lines(resonant("detail", "evt_2").out) == [f"    0000  00 9b{' ' * 44}.."]


def test_absent_data_is_shown_as_none_and_not_as_null(resonant, worker):
    worker.accept("evt_1", data=ABSENT)
    shown = resonant("detail", "evt_1").out
    assert "\n  data      none\n" in shown
    assert data_lines(shown) == []
    assert not {"data", "data_base64"} & resonant.json("detail", "evt_1").keys()


@pytest.fixture
def two_sources(worker):
    """Two sources with the same ids."""
    with worker.at_work():
        worker.accept("evt_1", "evt_2", source="/crm", event_type="user.created")
        worker.accept("evt_1", source="/shop", data={"total": 1})
    return worker


def test_an_expired_event_says_why_it_was_not_sent(resonant, worker):
    worker.accept("evt_1", extensions={"expirytime": "2020-01-01T00:00:00Z"})
    leases = worker.claim_all()
    worker.do(lambda store: store.write(expire, leases, now=worker.clock()))
    assert resonant("detail", "evt_1").out.endswith(
        "0 attempts\n       error    not sent: the event's expirytime has passed\n"
    )


def test_an_id_or_a_prefix_of_two_sources_needs_the_source(resonant, two_sources):
    at = rfc3339(two_sources.clock())
    known = f"evt_1 of '/crm' (user.created, accepted {at}), evt_1 of '/shop' (order.paid, accepted {at})"
    for argv in (["evt_1"], ["evt_1", "--json"]):
        answer = resonant("detail", *argv, code=2)
        said = f"resonant: several sources use the same id: {known}: give --source\n"
        assert (answer.out, answer.err) == ("", said)
    for event_id in ("evt_1", "evt"):
        found = resonant.json("detail", event_id, "--source", "/shop")
        assert (found["source"], found["event_type"], found["data"]) == ("/shop", "order.paid", {"total": 1})
    assert resonant.json("detail", "evt_1", "--source", "/crm")["event_type"] == "user.created"
    assert resonant.json("detail", "evt_2")["source"] == "/crm"
    for source in ("/crm", "/shop"):
        two_sources.accept("order-1", source=source)
    assert "several sources use the same id: order-1 of '/crm'" in resonant("detail", "ord", code=2).err

    said = resonant("detail", "evt_2", "--source", "/shop", code=2).err
    known = "evt_2 of '/crm' ("
    assert said.startswith(f"resonant: no event with this id is of the source '/shop'; known: {known}")
    assert "no event 'evt_9' is stored" in resonant("detail", "evt_9", "--source", "/shop", code=1).err


def test_an_event_is_found_by_the_id_that_its_receiver_knows(resonant, two_sources):
    crm, shop = (
        resonant.json("detail", "evt_1", "--source", source)["webhook_id"] for source in ("/crm", "/shop")
    )
    assert crm == "evt_1", "the first keeps the plain id"
    assert shop != "evt_1"
    assert resonant.json("detail", shop)["source"] == "/shop"
