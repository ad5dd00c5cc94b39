"""Commits that PostgreSQL must sync to the disk. ``test_sqlite`` has those of SQLite."""

from __future__ import annotations

from support.sqlite import listening


def test_claims_are_synced_to_the_disk_and_beginnings_and_releases_are_not(open_desk, postgresql_url):
    """Workers may outlive the server: two claims must not get the same token."""
    desk, synced = open_desk(postgresql_url), []

    def look(connection):
        synced.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar())

    with listening("commit", look):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        desk.run(desk.store.renew(lease.owner))
        assert synced == ["on", "on", "on"]
        synced.clear()
        desk.run(desk.store.begin([lease]))
        desk.run(desk.store.release([lease]))
        assert synced == ["off", "off"]
        synced.clear()
        desk.record(desk.delivered(desk.claim_one()))
        assert synced == ["on", "on"]
