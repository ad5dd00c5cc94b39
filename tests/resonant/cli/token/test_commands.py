"""``token``: create, list and revoke."""

from resonant.store.shared.tokens import note_use, valid_tokens


def test_a_token_is_printed_once_and_alone_on_standard_output(resonant):
    answer = resonant("token", "create", "shop")

    text = answer.out.removesuffix("\n")
    assert len(text) == 36
    assert text.startswith("rsn_")
    assert "the only time" in answer.err
    assert text not in answer.err + resonant("token", "list").out + resonant("audit").out


def test_a_token_without_a_source_is_created_with_a_warning(resonant):
    for number, scopes in enumerate(([], ["--type", "order.*"], ["--source", "*"])):
        answer = resonant("token", "create", f"wide-{number}", *scopes)
        assert "take the ids of other producers" in answer.err
        assert answer.out.startswith("rsn_")
    assert "--source" not in resonant("token", "create", "narrow", "--source", "/shop/*").err


def test_the_list_shows_scopes_and_times(resonant):
    assert resonant.json("token", "list") == []
    assert resonant("token", "list").err == "no tokens; `resonant token create NAME` creates one\n"
    resonant("token", "create", "shop", "--source", "/shop/*", "--type", "order.*", "--rate", "2.5", "--read")
    resonant("token", "create", "crm")
    resonant("token", "revoke", "crm")

    crm, shop = resonant.json("token", "list")

    names = "name source type endpoint rate can_read created_at last_used_at revoked_at"
    assert " ".join(crm) == names
    assert (shop["source"], shop["type"], shop["rate"], shop["can_read"]) == ("/shop/*", "order.*", 2.5, True)
    assert (shop["last_used_at"], shop["revoked_at"]) == (None, None)
    assert crm["revoked_at"] > crm["created_at"]
    header, first, second = resonant("token", "list").out.splitlines()
    assert header.split("  ")[0] == "NAME"
    assert "source /shop/*, type order.*, 2.5 events/s, read" in second
    assert first.startswith("crm ")


def test_a_terminal_shows_cards_with_the_last_use(resonant, worker):
    resonant("token", "create", "shop")

    async def use(store):
        [digest] = await store.read(valid_tokens)
        await store.write(note_use, digest, now=store.clock() - 6_000)

    worker.do(use)
    shown = resonant.on_a_terminal("token", "list").split("\n\n")[0]
    assert [line.strip() for line in shown.split("\n")] == ["shop", "all events", "last used 2 h ago"]


def test_a_token_may_be_for_one_endpoint(resonant, stored):
    resonant("token", "create", "shop", "--endpoint", "webhook-endpoint/billing")
    assert [each["endpoint"] for each in resonant.json("token", "list")] == ["billing"]


def test_the_name_of_another_token_is_refused(resonant):
    resonant("token", "create", "shop")
    assert resonant.refused("token", "create", "shop", code=2).startswith("a token is named 'shop'")


def test_revoking_a_token_suggests_a_similar_name(resonant):
    resonant("token", "create", "shop")
    unknown = resonant.refused("token", "revoke", "shpo", code=2)
    assert unknown.startswith("no valid token is named 'shpo': did you mean shop?")


def test_changes_of_tokens_are_in_the_audit_without_their_text(resonant):
    resonant("token", "create", "shop", "--type", "order.*", "--read")
    resonant("token", "revoke", "shop")
    resonant("token", "revoke", "shop", code=2)

    revoked, created = resonant.json("audit")

    scopes = {"token": "shop", "type": "order.*", "can_read": True}
    assert (created["action"], created["selection"]) == ("token create", scopes)
    assert (revoked["action"], revoked["selection"]) == ("token revoke", {"token": "shop"})
    assert revoked["count"] == 0
    assert revoked["who"].endswith("the command line")
    assert "token create, took" in resonant.on_a_terminal("audit")
