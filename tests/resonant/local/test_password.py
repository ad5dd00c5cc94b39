"""The generated password: one for each home, readable by its owner only."""

import os
import stat

import pytest

from resonant.errors import ResonantError
from resonant.local.password import (
    OF_CLIENT,
    OF_SERVER,
    password_file,
    protect_temporary_server,
    protect_up,
    use_password_of_up,
)
from resonant.settings import Settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in (OF_CLIENT, OF_SERVER):
        monkeypatch.setenv(name, "")
    return Settings(home=tmp_path)


def test_the_password_is_generated_once_and_kept(settings):
    assert protect_up(settings)
    first = os.environ[OF_SERVER]
    assert first.startswith("resonant:")
    assert os.environ[OF_CLIENT] == first == password_file(settings).read_text()

    os.environ[OF_SERVER] = ""
    assert protect_up(settings)
    assert os.environ[OF_SERVER] == first


def test_an_existing_file_becomes_private_and_commands_use_its_password(settings):
    password_file(settings).write_text("resonant:known\n")
    password_file(settings).chmod(0o644)
    use_password_of_up(settings)
    assert os.environ[OF_CLIENT] == "resonant:known"
    protect_up(settings)
    assert os.environ[OF_SERVER] == "resonant:known"
    assert stat.S_IMODE(password_file(settings).stat().st_mode) == 0o600


def test_the_users_own_password_takes_precedence(settings, monkeypatch):
    monkeypatch.setenv(OF_SERVER, "me:mine")
    assert not protect_up(settings)
    assert os.environ[OF_SERVER] == "me:mine"
    assert not password_file(settings).exists()


@pytest.mark.parametrize("use", [protect_up, use_password_of_up])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"\xff"), "it is not text"),
    ],
    ids=["folder", "unreadable", "not text"],
)
def test_a_file_that_cannot_be_read_is_an_error_on_one_line(settings, use, make, problem):
    path = password_file(settings)
    make(path)
    with pytest.raises(ResonantError) as caught:
        use(settings)
    assert str(caught.value) == (
        f"cannot read {path}, the password of `resonant up --auth`: {problem}: make the file readable, or remove it"
    )


def test_every_temporary_server_gets_its_own_password(settings):
    passwords = set()
    for _ in range(2):
        protect_temporary_server()
        assert os.environ[OF_SERVER] == os.environ[OF_CLIENT]
        passwords.add(os.environ[OF_SERVER])
    assert len(passwords) == 2
    assert not password_file(settings).exists()
