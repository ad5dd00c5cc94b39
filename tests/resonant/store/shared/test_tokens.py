"""Tokens in the store: by name for operators, by digest for servers."""

from dataclasses import replace

from resonant.store.shared.tokens import Token, add_token, note_use, read_tokens, revoke_token, valid_tokens

SHOP = Token("shop", "d1", source="/shop/*", rate=5.0, created_at=1.0)


def test_a_token_is_read_as_it_was_added(desk):
    crm = Token("crm", "d2", type="user.*", endpoint="crm", can_read=True, created_at=2.0)
    assert [desk.write(add_token, each) for each in (SHOP, crm)] == [True, True]

    assert desk.read(read_tokens) == [crm, SHOP]
    assert desk.read(valid_tokens) == {"d1": SHOP, "d2": crm}


def test_a_revoked_token_is_listed_until_another_has_its_name_and_not_valid(desk):
    again = replace(SHOP, digest="d2", source=None)
    desk.write(add_token, SHOP)
    assert not desk.write(add_token, again)
    assert desk.read(read_tokens) == [SHOP]

    revocations = (("crm", 8.0), ("shop", 9.0), ("shop", 10.0))
    revoked = [desk.write(revoke_token, name, now=at) for name, at in revocations]

    assert revoked == [False, True, False]
    assert desk.read(read_tokens) == [replace(SHOP, revoked_at=9.0)]
    assert desk.read(valid_tokens) == {}
    assert desk.write(add_token, again)
    assert desk.read(read_tokens) == [again]


def test_the_last_use_is_recorded_at_most_once_a_minute(desk):
    desk.write(add_token, SHOP)

    for now, recorded in ((100.0, 100.0), (159.0, 100.0), (160.0, 160.0), (100.0, 160.0)):
        desk.write(note_use, "d1", now=now)
        assert desk.read(read_tokens) == [replace(SHOP, last_used_at=recorded)]
