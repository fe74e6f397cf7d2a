"""Logging in from a shell: what is stored, who may read it, when it renews itself, and what is said when it is over."""

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ironcage_http import remote
from ironcage_http.answers import AnsweredError
from ironcage_http.logins import Login, LoginFile
from ironcage_http.remote import Remote, refusal
from ironcage_storage.system import SystemClock
from tests.support.desk import Desk
from tests.support.web import PASSWORD

MINUTES_16 = 16 * 60 * 1000
WRITTEN_OTHERWISE = '[2, {"url": "http://a", "username": null, "access_token": "at_x", "refresh_token": null}]'
"""A login as some other version might store it."""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what moves the server's clock on by so many milliseconds."""
    real = SystemClock.now

    def move(by: int) -> None:
        monkeypatch.setattr(SystemClock, "now", lambda clock: real(clock) + by)

    return move


def test_a_login_is_stored_for_its_owner_alone_and_without_the_password(desk: Desk) -> None:
    """The file is of mode 600 in a folder of mode 700."""
    shown = desk.run("login", desk.url, "-u", "admin", typed=f"{PASSWORD}\n")

    assert (shown.code, shown.out) == (0, f"logged in to {desk.url}/api/v1 as admin (admin)\n")
    assert [path.stat().st_mode & 0o777 for path in (desk.folder, desk.file.path)] == [0o700, 0o600]
    assert PASSWORD not in desk.file.path.read_text() + shown.err


def test_whoami_names_the_user_and_the_server(admin_desk: Desk) -> None:
    """As a table, and as JSON."""
    told = admin_desk.ask("whoami")

    assert (told["username"], told["role"], told["url"]) == ("admin", "admin", f"{admin_desk.url}/api/v1")
    assert "user admin" in admin_desk.run("whoami").words


def test_a_user_is_known_by_his_email_too(desk: Desk) -> None:
    """As over HTTP."""
    ann = desk.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann is not None

    desk.log_in(ann.email)

    assert desk.ask("whoami")["username"] == "ann"


def test_a_wrong_password_stores_nothing_and_keeps_the_login_that_was(admin_desk: Desk) -> None:
    """Exit 5, and the message of the server."""
    before = admin_desk.file.load()

    shown = admin_desk.run("login", admin_desk.url, "-u", "ann", "--password-file", "-", typed="wrong password")

    assert (shown.code, "AUTH_INVALID_CREDENTIALS" in shown.err) == (5, True)
    assert admin_desk.file.load() == before


def test_a_password_that_must_be_changed_is_changed_on_the_way(admin_desk: Desk, later: Callable[[int], None]) -> None:
    """The new one is typed twice, and the session is one of the new password, which can be renewed."""
    user = admin_desk.ask("api", "POST", "/users", "-f", "username=new", "-f", "email=new@test.io", "-f", "role=user",
                          "-f", f"password={PASSWORD}", "-F", "force_password_change=true")  # fmt: skip
    chosen = "another correct horse"

    shown = admin_desk.run("login", admin_desk.url, "-u", "new", typed=f"{PASSWORD}\n{chosen}\n{chosen}\n")

    assert shown.code == 0, shown.err
    assert admin_desk.ask("whoami")["id"] == user["id"]
    assert admin_desk.run("login", admin_desk.url, "-u", "new", typed=f"{PASSWORD}\n").code == 5
    assert admin_desk.run("agents", "list").code == 0
    later(MINUTES_16)
    assert admin_desk.ask("whoami")["id"] == user["id"]


def test_a_new_password_that_is_mistyped_is_not_taken(admin_desk: Desk) -> None:
    """It is typed twice, and as long as both differ the old one holds."""
    admin_desk.ask("api", "POST", "/users", "-f", "username=new", "-f", "email=new@test.io", "-f", "role=user",
                   "-f", f"password={PASSWORD}", "-F", "force_password_change=true")  # fmt: skip

    shown = admin_desk.run("login", admin_desk.url, "-u", "new", typed=f"{PASSWORD}\nanother horse\nanother hose\n")

    assert (shown.code, "do not match" in shown.err) == (2, True)
    assert admin_desk.ask("api", "POST", "/auth/login", "-f", "username=new", "-f", f"password={PASSWORD}")["user"]


def test_a_session_that_is_over_renews_itself_once(admin_desk: Desk, later: Callable[[int], None]) -> None:
    """Commands that find it over at the same time all go on, with one new session: a refresh token works once."""
    before = admin_desk.file.load()
    assert before is not None
    later(MINUTES_16)
    names: list[str] = []

    def work() -> None:
        with httpx.Client() as client:
            names.append(Remote(client, before.url, before, admin_desk.file).get("/users/me")["username"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    after = admin_desk.file.load()
    assert names == ["admin"] * 4
    assert after is not None
    assert after.refresh_token != before.refresh_token
    assert admin_desk.run("whoami").code == 0


def test_a_command_asks_as_nobody_else_than_it_began_as(admin_desk: Desk, later: Callable[[int], None]) -> None:
    """Whoever logs in elsewhere meanwhile: neither his session nor this one is sent to the other's server."""
    began_as = admin_desk.file.load()
    assert began_as is not None
    elsewhere = Login("http://127.0.0.1:9/api/v1", began_as.username, "at_elsewhere", "rt_elsewhere")
    later(MINUTES_16)

    with httpx.Client() as client:
        asking = Remote(client, began_as.url, began_as, admin_desk.file)
        admin_desk.file.save(elsewhere)
        with pytest.raises(AnsweredError) as refused:
            asking.get("/users/me")

    assert (refused.value.code, asking.login) == ("AUTH_TOKEN_EXPIRED", began_as)
    assert admin_desk.file.load() == elsewhere


def test_ctrl_c_while_a_session_is_renewed_loses_no_session(tmp_path: Path) -> None:
    """The old refresh token is spent by then: the new one is stored before the command ends."""
    file = LoginFile(tmp_path / "own")
    old = Login("http://127.0.0.1:9/api/v1", "admin", "at_old", "rt_old")
    file.save(old)

    def answer(_: httpx.Request) -> httpx.Response:
        signal.raise_signal(signal.SIGINT)
        return httpx.Response(200, json={"access_token": "at_new", "refresh_token": "rt_new"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client, pytest.raises(KeyboardInterrupt):
        Remote(client, old.url, old, file).renew()

    assert file.load() == Login(old.url, "admin", "at_new", "rt_new")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_login_does_not_show_what_is_secret_in_it() -> None:
    """Wherever a program prints it."""
    assert repr(Login("http://a", "ann", "at_1", "rt_2")) == "Login(url='http://a', username='ann')"


def test_a_session_that_cannot_be_renewed_says_to_log_in_again(admin_desk: Desk, later: Callable[[int], None]) -> None:
    """Exit 5; with `--json` the one shape of errors on standard error, and nothing else."""
    later(MINUTES_16 * 1000)

    shown = admin_desk.run("whoami")
    told = admin_desk.run("whoami", "--json")

    assert (shown.code, "run ironcage login again" in shown.err) == (5, True)
    assert (told.code, told.out, json.loads(told.err)["code"]) == (5, "", "AUTH_TOKEN_EXPIRED")


def test_a_session_whose_password_must_be_changed_says_to_log_in(admin_desk: Desk) -> None:
    """Exit 5: another login asks for the new one."""
    admin_desk.ask("api", "POST", "/users", "-f", "username=new", "-f", "email=new@test.io", "-f", "role=user",
                   "-f", f"password={PASSWORD}", "-F", "force_password_change=true")  # fmt: skip
    session = admin_desk.ask("api", "POST", "/auth/login", "-f", "username=new", "-f", f"password={PASSWORD}")

    shown = admin_desk.run("agents", "list", env={"IRON_API_TOKEN": session["access_token"]})

    assert (shown.code, "(PASSWORD_CHANGE_REQUIRED): run ironcage login and choose one" in shown.err) == (5, True)


def test_the_token_of_the_environment_goes_before_the_login(admin_desk: Desk) -> None:
    """As for a script on somebody's own machine."""
    session = admin_desk.ask("api", "POST", "/auth/login", "-f", "username=vera", "-f", f"password={PASSWORD}")

    shown = admin_desk.run("whoami", "--json", env={"IRON_API_TOKEN": session["access_token"]})

    assert shown.json["username"] == "vera"


def test_a_token_that_opens_nothing_is_not_stored(admin_desk: Desk) -> None:
    """The login that was there stays."""
    before = admin_desk.file.load()

    shown = admin_desk.run("login", admin_desk.url, "--token-file", "-", typed="at_" + "x" * 43)

    assert (shown.code, admin_desk.file.load()) == (5, before)


def test_who_is_not_logged_in_is_told_where_to(desk: Desk) -> None:
    """In the words of a command that does it."""
    shown = desk.run("agents", "list", "--url", desk.url)

    assert (shown.code, shown.err.endswith(f": run ironcage login {desk.url}\n")) == (5, True), shown.err


def test_an_address_on_the_command_line_goes_before_that_of_the_environment(admin_desk: Desk) -> None:
    """And that one goes before the one of the login."""
    elsewhere = {"IRON_URL": "http://127.0.0.1:9"}

    assert admin_desk.run("whoami", env=elsewhere).code == 5
    assert admin_desk.run("whoami", "--url", admin_desk.url, env=elsewhere).code == 0


def test_logging_out_ends_the_session_on_the_server_too(admin_desk: Desk) -> None:
    """What was stored opens nothing any more; a second logout has nothing to do."""
    stored = admin_desk.file.load()
    assert stored is not None

    told = admin_desk.ask("logout")

    assert (told, admin_desk.file.load()) == ({"ended": True}, None)
    assert admin_desk.run("whoami", env={"IRON_API_TOKEN": stored.access_token, "IRON_URL": admin_desk.url}).code == 5
    assert admin_desk.ask("logout") == {"ended": False}


@pytest.mark.parametrize("refresh_token", ["rt_x", None])
def test_logging_out_forgets_the_login_though_no_server_answers(desk: Desk, refresh_token: str | None) -> None:
    """And an API token, which is no session: it is not the server's to end."""
    desk.file.save(Login("http://127.0.0.1:9/api/v1", "ann", "at_x", refresh_token))

    assert (desk.ask("logout"), desk.file.load()) == ({"ended": False}, None)


def test_only_the_answer_of_a_login_is_on_standard_output(desk: Desk) -> None:
    """What asks for the name and the password is not."""
    shown = desk.run("login", desk.url, "--json", typed=f"admin\n{PASSWORD}\n")

    assert (shown.code, shown.json["user"]["username"]) == (0, "admin")
    assert ("Username" in shown.err, "Password" in shown.err) == (True, True)


@pytest.mark.parametrize("option", ["--username", "--password-file", "--new-password-file"])
def test_an_api_token_is_stored_alone(desk: Desk, option: str) -> None:
    """It says by itself whose it is: anything else would be overlooked."""
    shown = desk.run("login", desk.url, "--token-file", "-", option, "/dev/null", typed="at_x")

    assert (shown.code, "comes alone" in shown.err, desk.file.load()) == (2, True, None)


def test_a_login_goes_to_no_other_address_than_its_own(admin_desk: Desk) -> None:
    """Another control plane is asked as nobody."""
    shown = admin_desk.run("whoami", "--url", "http://localhost:9")

    assert (shown.code, "You are not logged in to http://localhost:9" in shown.err) == (5, True)


def test_an_api_token_may_be_stored_or_come_from_the_environment(admin_desk: Desk, tmp_path: Path) -> None:
    """It speaks for its user, and is never shown."""
    token = admin_desk.ask("api", "POST", "/api-tokens", "-f", "name=ci")["token"]
    file = tmp_path / "token"
    file.write_text(f"{token}\n")

    listed = admin_desk.run("api", "GET", "/agents", env={"IRON_API_TOKEN": token, "IRON_URL": admin_desk.url})
    stored = admin_desk.run("login", admin_desk.url, "--token-file", file)

    assert [listed.code, stored.code] == [0, 0], stored.err
    assert token not in stored.out + stored.err
    assert admin_desk.run("api", "GET", "/agents").code == 0


@pytest.mark.parametrize(
    "content", ["", "{}", "[1, {}]", '[2, {"url": "a", "username": null}]', WRITTEN_OTHERWISE, "\0"]
)
def test_a_damaged_login_file_says_what_to_do(desk: Desk, content: str) -> None:
    """No traceback, and another login mends it."""
    desk.folder.mkdir()
    desk.file.path.write_text(content)
    desk.file.path.chmod(0o600)

    shown = desk.run("whoami")
    desk.log_in("admin")

    assert (shown.code, "is damaged: run ironcage login again" in shown.err) == (5, True)
    assert desk.run("whoami").code == 0


def test_a_login_file_that_others_may_read_is_not_used(admin_desk: Desk) -> None:
    """As a key of ssh."""
    admin_desk.file.path.chmod(0o640)

    shown = admin_desk.run("whoami")

    assert (shown.code, "run chmod 600" in shown.err) == (5, True)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write_into_is_not_used(admin_desk: Desk, mode: int) -> None:
    """They could put a login of theirs there, to a server of theirs."""
    before = admin_desk.file.path.read_bytes()
    admin_desk.folder.chmod(mode)

    shown = admin_desk.run("whoami")
    assert (shown.code, "chmod go-w" in shown.err) == (5, True)
    shown = admin_desk.run("login", admin_desk.url, "-u", "ann", "--password-file", "-", typed=PASSWORD)
    assert (shown.code, "chmod go-w" in shown.err, admin_desk.file.path.read_bytes()) == (5, True, before)

    admin_desk.folder.chmod(0o755)
    assert admin_desk.run("whoami").code == 0


def test_a_bare_install_says_what_to_install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3; what is missing is a library that the program does not need to cap an agent."""
    monkeypatch.delitem(sys.modules, "ironcage_http.remote")
    monkeypatch.setitem(sys.modules, "httpx", None)

    told = desk.run("whoami", "--json")

    assert (told.code, json.loads(told.err)["code"]) == (3, "NOT_INSTALLED")
    assert "httpx is missing: pip install 'ironcage[cli]'" in json.loads(told.err)["error"]


def test_a_server_that_takes_too_long_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 6, and for how long it was waited."""
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        shown = desk.run("api", "GET", "/health", "--url", url)

    assert (shown.code, "took longer than 0 s" in shown.err) == (6, True), shown.err


def test_a_refusal_without_details_has_none() -> None:
    """Left out or null, by whatever server."""
    for details in (b"", b', "details": null'):
        assert refusal(503, b'{"error": "e", "code": "C"%s}' % details).details == {}


def test_a_server_that_does_not_answer_has_an_exit_code_of_its_own(desk: Desk) -> None:
    """Nothing listens there."""
    shown = desk.run("login", "http://127.0.0.1:9", "-u", "a", "--password-file", "-", typed="secret password")

    assert (shown.code, "does not answer" in shown.err, "secret" in shown.err) == (6, True, False)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"user": {}}',
        b"HTTP/1.1 302 Found\r\nLocation: http://a/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{]}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
    ids=["text", "other json", "redirect", "proxy", "no json", "no http", "nothing"],
)
def test_somebody_else_s_answer_is_no_control_plane(desk: Desk, answer: bytes) -> None:
    """Whatever it is, it is said in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, answer))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        shown = desk.run("login", url, "-u", "a", "--password-file", "-", typed="b")
        thread.join()

    assert (shown.code, "does not answer as a control plane" in shown.err) == (6, True), shown.err


def test_a_refusal_for_now_says_for_how_long(desk: Desk) -> None:
    """Exit 4, with the seconds of the server."""
    body = b'{"error": "Too many requests", "code": "RATE_LIMIT_EXCEEDED", "details": {"retry_after": 7}}'
    answer = b"HTTP/1.1 429 Slow\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, answer))
        thread.start()
        shown = desk.run("api", "GET", "/agents", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()

    assert (shown.code, "(RATE_LIMIT_EXCEEDED); try again in 7 s" in shown.err) == (4, True), shown.err


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(answer)


@pytest.mark.parametrize("flags", [("--url", "http://ironcage.example.com"), ()])
def test_a_token_does_not_travel_for_everybody_to_read(desk: Desk, flags: tuple[str, ...]) -> None:
    """However the address was given; to log in is the only way to say that its network is trusted."""
    env = {"IRON_API_TOKEN": "at_x", "IRON_URL": "http://ironcage.example.com"}

    shown = desk.run("whoami", *flags, env=env)

    assert (shown.code, "use https://" in shown.err, "at_x" in shown.err) == (2, True, False)


def test_plain_http_to_another_machine_is_refused(desk: Desk) -> None:
    """A password would travel for everybody to read."""
    shown = desk.run("login", "http://ironcage.example.com", "-u", "a", "--password-file", "-", typed="b")

    assert (shown.code, "use https://" in shown.err) == (2, True)
