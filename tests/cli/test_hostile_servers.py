"""A control plane that means harm, and a network between: no terminal is steered, and no secret goes elsewhere."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from click.testing import CliRunner

from ironcage_http import remote
from ironcage_http.answers import NoAnswerError
from ironcage_http.cli import main
from ironcage_http.commands.happenings import in_words
from ironcage_http.commands.plain_text import plain_json, plain_lines
from ironcage_http.logins import Login, LoginFile
from ironcage_http.remote import Remote
from tests.support.desk import Desk
from tests.support.web import PASSWORD

HARM = "\x1b]0;title\x07\x9b31m\u202e"
HERE = "http://h/api/v1"


class Odd(BaseHTTPRequestHandler):
    """Answers with texts that a terminal would obey."""

    def do_GET(self) -> None:
        """Answer by what is asked for."""
        status, kind, body = {
            "/api/v1/users/me": (404, "json", {"error": HARM, "code": HARM, "details": {}}),
            "/api/v1/json": (200, "json", {"name": HARM}),
            "/api/v1/agents": (
                200,
                "json",
                {"data": [], "pagination": {"page": HARM, "total_pages": HARM, "total": 5}},
            ),
        }[self.path.partition("?")[0]]
        content = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def odd() -> Iterator[str]:
    """Return the address of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", [("whoami",), ("api", "GET", "/json"), ("agents", "list")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_nothing_that_a_server_says_steers_a_terminal(
    desk: Desk, odd: str, command: tuple[str, ...], form: tuple[str, ...]
) -> None:
    """Neither in a refusal, nor in JSON, nor below a list."""
    done = desk.run(*command, "--url", odd, *form, env={"IRON_API_TOKEN": "at_made_up"})

    assert done.out + done.err
    assert not set(HARM) & set("\x1b\x07\x9b\u202e") & set(done.out + done.err)


ODD: Final[tuple[Any, ...]] = (
    None, True, 5, "a text", [], [5], {}, {"data": 5}, {"data": [5], "pagination": []},
    {"data": [{}], "pagination": {"total_pages": "x", "total": "x"}}, {"error": "e", "code": []},
)  # fmt: skip
"""Answers of which none is that of a control plane."""

_COMMANDS: Final = (
    ("agents", "list", "--all"), ("agents", "show", "worker"), ("agents", "stop", "worker"),
    ("budget", "set", "worker", "5"), ("usage", "by-period"), ("tokens", "create", "ci"),
    ("tokens", "revoke", "t", "--yes"), ("whoami",),
)  # fmt: skip


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bytes], None]:
    """Return what has every request answered with this."""

    def answer(status: int, content: bytes) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
        monkeypatch.setattr(remote, "client_of", lambda _: httpx.Client(transport=transport))

    return answer


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_an_answer_of_another_shape_is_no_traceback(
    tmp_path: Path, answered: Callable[[int, bytes], None], command: tuple[str, ...]
) -> None:
    """Whatever the JSON is, the command says that this is no control plane, unless it needs nothing of it."""
    env = {"IRON_CONFIG_DIR": str(tmp_path), "IRON_URL": "http://127.0.0.1:1", "IRON_API_TOKEN": "at_made_up"}
    for status in (200, 409):
        codes = []
        for odd_one in (*map(json.dumps, ODD), "[" * 100_000, "{", ""):
            answered(status, odd_one.encode())
            result = CliRunner().invoke(main, command, env=env)
            assert isinstance(result.exception, SystemExit | None), (odd_one[:60], result.exception)
            codes.append(result.exit_code)
        assert set(codes) <= ({0, 6} if status == 200 else {6}), codes
        assert 6 in codes


@pytest.mark.parametrize("value", ["1e999999999999", "-1e999999999", '"x"', '"NaN"', "[]"])
def test_an_amount_that_is_none_is_no_traceback(
    tmp_path: Path, answered: Callable[[int, bytes], None], value: str
) -> None:
    """Nor does it fill the memory."""
    env = {"IRON_CONFIG_DIR": str(tmp_path), "IRON_URL": "http://127.0.0.1:1", "IRON_API_TOKEN": "at_made_up"}
    answered(200, f'{{"budget": {value}}}'.encode())

    result = CliRunner().invoke(main, ["agents", "show", f"agent_{'0' * 32}"], env=env)

    assert (result.exit_code, "not one of a control plane" in result.output) == (6, True), result.output


@pytest.mark.parametrize("told", [None, [], {}, {"access_token": 5, "refresh_token": "r"}, {"access_token": "a"}])
def test_a_renewal_that_brings_no_tokens_keeps_the_old_ones(tmp_path: Path, told: object) -> None:
    """What is stored can still be read."""
    file = LoginFile(tmp_path)
    file.save(Login(HERE, "ann", "a1", "r1"))

    with pytest.raises(NoAnswerError, match="not as ironcage"):
        remote_of(file, lambda _: httpx.Response(200, json=told)).renew()

    assert file.load() == Login(HERE, "ann", "a1", "r1")


def test_a_list_without_an_end_is_given_up(tmp_path: Path, answered: Callable[[int, bytes], None]) -> None:
    """A page of nothing is the last one, whatever is said of those that follow."""
    env = {"IRON_CONFIG_DIR": str(tmp_path), "IRON_URL": "http://127.0.0.1:1", "IRON_API_TOKEN": "at_made_up"}
    answered(200, b'{"data": [], "pagination": {"page": 1, "total_pages": 1e300, "total": 0}}')

    assert CliRunner().invoke(main, ["agents", "list", "--all"], env=env).exit_code == 0


def test_a_text_keeps_its_lines_and_json_its_meaning() -> None:
    """Only what a terminal obeys is another character."""
    assert plain_lines("a,b\r\nc\td\n\x1b[2J") == "a,b\nc\td\n\N{REPLACEMENT CHARACTER}[2J"
    assert json.loads(plain_json(json.dumps([HARM, "\u00e4"], ensure_ascii=False).encode())) == [HARM, "\u00e4"]


@pytest.mark.parametrize("form", ["{x:>50000000}", "{x.__class__}", "{", "{0}"])
def test_a_name_that_a_server_makes_up_is_no_form_to_be_filled_in(form: str) -> None:
    """It is shown as it is."""
    assert in_words({"type": "X", "event": form}) == form.replace("_", " ")
    assert form in in_words({"type": "COST_ALERT", "data": {"scope": form}})


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Set a proxy for everything up in the environment, and return what it was sent."""
    got: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                got.append(connection.recv(65_536))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield got
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_what_is_for_this_machine_does_not_leave_it_by_way_of_a_proxy(admin_desk: Desk, proxied: list[bytes]) -> None:
    """Requests, a login, a logout and the feed all go straight: there is no TLS that would hide what is in them."""
    assert admin_desk.run("whoami").code == 0
    admin_desk.log_in("admin")
    assert admin_desk.run("watch", "--url", "http://127.0.0.1:1").code != 0
    assert admin_desk.run("watch", "--url", "http://127.0.0.1:1", env={"IRON_API_TOKEN": "at_made_up"}).code == 6
    assert admin_desk.ask("logout") == {"ended": True}

    assert proxied == []


@pytest.mark.parametrize("token", ["at_hush hush", "at_hush\nhush", "at_hush\u20achush", "at_hush\x00"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_told(desk: Desk, tmp_path: Path, token: str) -> None:
    """A library's own message would have the whole header in it."""
    (tmp_path / "token").write_text(token)

    done = desk.run("login", desk.url, "--token-file", tmp_path / "token")

    assert (done.code, "hush" in done.out + done.err, desk.file.load()) == (2, False, None)


def test_blanks_around_a_token_are_none_of_it(desk: Desk, tmp_path: Path) -> None:
    """As in a variable; what is left is asked with."""
    (tmp_path / "token").write_text("at_made_up \r\n")

    assert desk.run("login", desk.url, "--token-file", tmp_path / "token").code == 5


def test_a_stored_token_that_cannot_be_sent_is_not_told(desk: Desk) -> None:
    """Nor one that a file holds already."""
    desk.file.save(Login(f"{desk.url}/api/v1", None, "at_hush hush ", None))

    done = desk.run("whoami")

    assert (done.code, "hush" in done.out + done.err) == (6, False)


def remote_of(file: LoginFile, answer: Callable[[httpx.Request], httpx.Response]) -> Remote:
    return Remote(httpx.Client(transport=httpx.MockTransport(answer)), HERE, file.load(), file)


def test_who_logged_in_meanwhile_as_somebody_else_lends_nobody_his_session(tmp_path: Path) -> None:
    """A command goes on as whoever began it, or not at all."""
    file = LoginFile(tmp_path)
    file.save(Login(HERE, "ann", "a1", "r1"))
    ours = remote_of(file, lambda _: httpx.Response(500))
    file.save(Login(HERE, "admin", "a2", "r2"))

    assert ours.renew() is False
    assert ours.login == Login(HERE, "ann", "a1", "r1")


@pytest.mark.parametrize("command", ["login", "logout"])
def test_a_renewal_under_way_does_not_undo_what_comes_after_it(admin_desk: Desk, command: str) -> None:
    """The old login would be back, and commands would go on as somebody who has gone."""
    with admin_desk.file.locked():
        held = admin_desk.file.load()
        assert held is not None
        rest = (admin_desk.url, "-u", "ann", "--password-file", "-") if command == "login" else ()
        other = threading.Thread(target=admin_desk.run, args=(command, *rest), kwargs={"typed": PASSWORD})
        other.start()
        other.join(1)
        assert other.is_alive()
        assert admin_desk.file.load() == held
    other.join()


def test_an_export_does_not_take_the_place_of_a_device(admin_desk: Desk) -> None:
    """Root would otherwise put a file there, and the machine would miss the device."""
    done = admin_desk.run("usage", "export", "usage", "--out", os.devnull, "--yes")

    assert (done.code, Path(os.devnull).is_char_device()) == (2, True)
