"""The server that a command uses: never another program in its place."""

import contextlib
import http.server
import json
import os
import sys
import threading

import pytest

from resonant.errors import ServerError
from resonant.local import parts, server, stack
from resonant.local.note import Note, is_held, lock_of_up, note_of_up, running_up
from resonant.local.password import OF_CLIENT, password_file
from resonant.local.paused import ask_what_is_paused
from resonant.local.server import kept_server, known_url, prefect_server
from resonant.settings import Settings
from support.ports import free_port


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "")
    return Settings(home=tmp_path)


@pytest.fixture
def stranger():
    """Another program, which answers every request with yes; yields its port and the paths of the requests."""
    asked = []

    class Yes(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Yes) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1], asked
        listening.shutdown()


def note(settings, port, *, has_password=False) -> str:
    url = f"http://127.0.0.1:{port}/api"
    noted = {"api_url": url, "pid": 1, "has_password": has_password}
    note_of_up(settings).write_text(json.dumps(noted))
    return url


def test_a_program_on_the_port_of_a_killed_up_is_not_asked_even_while_the_next_one_starts(settings, stranger):
    port, asked = stranger
    assert running_up(settings) is None, "there is no note"
    with stack._only_one(settings):
        url = note(settings, port)
        assert running_up(settings) == Note(url, pid=1, has_password=False)
    asked.clear()
    assert note_of_up(settings).exists()
    assert running_up(settings) is None
    with stack._only_one(settings):
        assert running_up(settings) is None
    assert asked == []


@pytest.mark.parametrize(
    ("configured", "used", "is_given"),
    [
        ("", "http://127.0.0.1:PORT/api", True),
        ("http://localhost:PORT/api/", "http://127.0.0.1:PORT/api", True),
        ("https://prefect.example/api", "https://prefect.example/api", False),
    ],
    ids=["no other server", "the same server", "another server"],
)
def test_the_password_of_up_is_used_for_its_own_server_only(
    settings, stranger, monkeypatch, configured, used, is_given
):
    port, _ = stranger
    monkeypatch.setenv("PREFECT_API_URL", configured.replace("PORT", str(port)))
    monkeypatch.setenv(OF_CLIENT, "")
    password_file(settings).write_text("resonant:known")
    with stack._only_one(settings):
        note(settings, port, has_password=True)
        assert known_url(settings) == used.replace("PORT", str(port))
    assert os.environ[OF_CLIENT] == ("resonant:known" if is_given else "")


def test_a_command_waits_for_a_server_that_is_still_starting(settings, stranger, monkeypatch):
    said = []
    monkeypatch.setattr(server.output, "say", lambda line: said.append(line) or note(settings, stranger[0]))
    with stack._only_one(settings):
        assert server._url_to_use(settings) == f"http://127.0.0.1:{stranger[0]}/api"
    assert said == ["waiting for `resonant up`, which starts or stops"]


def test_waiting_for_a_starting_server_has_a_limit(settings, monkeypatch):
    monkeypatch.setattr(server, "START_SECONDS", 0.0)
    monkeypatch.setattr(server, "WORKER_SECONDS", 0.0)
    late = pytest.raises(ServerError, match="its server did not answer within 0 s")
    with stack._only_one(settings), late, prefect_server(settings):
        pass


def test_a_command_continues_once_up_has_stopped(settings, monkeypatch):
    with contextlib.ExitStack() as running:
        running.enter_context(stack._only_one(settings))
        monkeypatch.setattr(server.output, "say", lambda _line: running.close())
        assert server._url_to_use(settings) is None


def test_while_up_restarts_its_server_the_error_says_so(settings):
    with pytest.raises(ServerError, match="set PREFECT_API_URL"):
        ask_what_is_paused(settings, [])
    with stack._only_one(settings), pytest.raises(ServerError, match="it may be restarting"):
        ask_what_is_paused(settings, [])


def test_a_second_up_is_refused_while_the_first_runs(settings):
    with stack._only_one(settings):
        for _ in range(2):
            with pytest.raises(ServerError, match="is already running"), stack._only_one(settings):
                pass
    with stack._only_one(settings):
        pass


def test_commands_that_check_the_lock_do_not_prevent_a_start(settings):
    done = threading.Event()

    def look():
        while not done.is_set():
            is_held(lock_of_up(settings))

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for each in lookers:
        each.start()
    try:
        for _ in range(30):
            with stack._only_one(settings):
                pass
    finally:
        done.set()
        for each in lookers:
            each.join()


@pytest.fixture
def keep_instead(monkeypatch):
    """Let a process with this code replace Prefect's server; it may take this many seconds until it answers."""
    keep = parts.keep

    def choose(code, seconds=60.0):
        command = [sys.executable, "-c", code]
        monkeypatch.setattr(
            parts, "keep", lambda _theirs, *others, **options: keep(command, *others, **options)
        )
        monkeypatch.setattr(server, "START_SECONDS", seconds)

    return choose


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("import time; time.sleep(60)", 0.5, "did not start"),
        ("import socket; socket.create_server(('127.0.0.1', PORT))", 60.0, r"ended \(exit code 1\): see"),
    ],
    ids=["hangs", "fails"],
)
def test_another_program_on_the_port_is_not_taken_for_our_server(
    settings, stranger, keep_instead, code, seconds, said
):
    port, asked = stranger
    keep_instead(code.replace("PORT", str(port)), seconds)
    with pytest.raises(ServerError, match=said), kept_server(settings, port=port, ui=False):
        pass
    assert asked == []


def test_a_descendant_of_our_process_may_serve(settings, keep_instead):
    port = free_port()
    code = (
        "import http.server as h\n"
        "class Yes(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        f"h.HTTPServer(('127.0.0.1', {port}), Yes).serve_forever()"
    )
    # As Prefect's may: by a process of its own.
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    keep_instead(code)
    with kept_server(settings, port=port, ui=False) as kept:
        assert kept.supervisor.poll() is None


OWN_PAGES = "http://127.0.0.1:4200,http://localhost:4200"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "", OWN_PAGES),
        ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "https://a.example", f"{OWN_PAGES},https://a.example"),
        ("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "*", f"{OWN_PAGES},*"),
    ],
    ids=["neither name", "the older name", "the newer name"],
)
def test_the_servers_own_pages_and_those_of_the_user_may_use_it(monkeypatch, name, value, allowed):
    for each in server._ORIGINS:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    assert server._origins_that_may_come(4200) == allowed
