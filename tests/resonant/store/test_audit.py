"""The audit: noted before the first dead letter is changed, counted with each change, ended when the action ends."""

import asyncio
import contextlib

import pytest

from resonant.store.audit import (
    AuditEntry,
    add_to_audit,
    audited,
    begin_audit,
    has_endpoint,
    read_audit,
    record_change,
)
from support.sqlite import on_sqlite


def test_the_audit_is_read_newest_first_as_it_was_written(desk):
    entries = []
    for number, action in enumerate(["replay", "purge"]):
        selection = {"code": "http_503", "since": 1.5, "text": "Zoë"}
        facts = {"at": desk.clock() + number, "who": "Zoë", "action": action, "selection": selection}
        audit_id = desk.write(begin_audit, **facts)
        desk.write(add_to_audit, audit_id, number)
        entries.append(AuditEntry(**facts, count=number, ended_at=None))
    assert desk.read(read_audit) == entries[::-1]
    assert desk.read(read_audit, limit=1) == entries[1:]


@pytest.mark.parametrize("fails", [False, True])
def test_an_entry_exists_from_the_beginning_and_gets_its_end(desk, fails):
    async def work():
        async with audited(desk.store, who="x", action="purge", selection={}) as audit_id:
            [begun] = await desk.store.read(read_audit)
            assert (begun.count, begun.ended_at) == (0, None)
            await desk.store.write(add_to_audit, audit_id, 7)
            desk.clock.advance(5)
            if fails:
                raise KeyError

    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        desk.run(work())
    [entry] = desk.read(read_audit)
    assert (entry.count, entry.ended_at - entry.at) == (7, 5)


def test_an_operation_cancelled_as_it_begins_gets_an_end_too(desk, monkeypatch):
    write = desk.store.write

    async def cancelled_write(operation, *args, **kwargs):
        written = await write(operation, *args, **kwargs)
        if operation is begin_audit:
            interrupted.cancel()  # as Ctrl-C does
            await asyncio.sleep(0)
        return written

    async def work():
        nonlocal interrupted
        interrupted = asyncio.current_task()
        async with audited(desk.store, who="x", action="purge", selection={}):
            pass

    interrupted = None
    monkeypatch.setattr(desk.store, "write", cancelled_write)
    with pytest.raises(asyncio.CancelledError):
        desk.run(work())
    [entry] = desk.read(read_audit)
    assert entry.ended_at is not None


CRM = {"endpoint": "crm"}


def imported(**names):
    return "import", {"added": [], "changed": [], "removed": []} | names


@on_sqlite
@pytest.mark.parametrize(
    ("changes", "exists"),
    [
        ([], False),
        ([("add", CRM)], True),
        ([("add", CRM), ("remove", CRM)], False),
        ([("remove", CRM), ("update", CRM | {"settings": ["timeout"]})], True),
        ([("remove", CRM), ("rotate-secret", CRM)], True),
        ([imported(added=["crm"]), ("remove", {"endpoint": "crm-2"})], True),
        ([imported(changed=["crm"]), imported(removed=["file-endpoint/crm"])], True),
        ([("update", CRM), imported(added=["shop"], removed=["crm"])], False),
        ([("update", {"endpoint": "shop", "settings": ["crm"]})], False),
        ([("add", {"endpoint": "crm-2"}), ("add", {"endpoint": "file-endpoint/crm"})], False),
    ],
)
def test_an_endpoint_exists_by_the_audit_if_its_last_change_was_not_its_removal(desk, changes, exists):
    for action, selection in changes:
        entry = {"at": 1.0, "who": "x", "action": f"endpoint {action}", "selection": selection}
        desk.write(record_change, **entry)
    assert desk.read(has_endpoint, "crm") is exists
