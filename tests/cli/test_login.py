"""Logging in from a shell: what is stored, who may read it, when it renews itself, and what is said when it is over."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ironcage_http.remote import Remote
from ironcage_storage.system import SystemClock
from tests.support.desk import Desk
from tests.support.web import PASSWORD

MINUTES_16 = 16 * 60 * 1000


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


def test_a_password_that_must_be_changed_is_changed_on_the_way(admin_desk: Desk) -> None:
    """The new one is typed twice, and the session is one of the new password."""
    user = admin_desk.ask("api", "POST", "/users", "-f", "username=new", "-f", "email=new@test.io", "-f", "role=user",
                          "-f", f"password={PASSWORD}", "-F", "force_password_change=true")  # fmt: skip
    chosen = "another correct horse"

    shown = admin_desk.run("login", admin_desk.url, "-u", "new", typed=f"{PASSWORD}\n{chosen}\n{chosen}\n")

    assert shown.code == 0, shown.err
    assert admin_desk.ask("whoami")["id"] == user["id"]
    assert admin_desk.run("login", admin_desk.url, "-u", "new", typed=f"{PASSWORD}\n").code == 5


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


def test_a_session_that_cannot_be_renewed_says_to_log_in_again(admin_desk: Desk, later: Callable[[int], None]) -> None:
    """Exit 5; with `--json` the one shape of errors on standard error, and nothing else."""
    later(MINUTES_16 * 1000)

    shown = admin_desk.run("whoami")
    told = admin_desk.run("whoami", "--json")

    assert (shown.code, "run ironcage login again" in shown.err) == (5, True)
    assert (told.code, told.out, json.loads(told.err)["code"]) == (5, "", "AUTH_TOKEN_EXPIRED")


def test_logging_out_ends_the_session_on_the_server_too(admin_desk: Desk) -> None:
    """What was stored opens nothing any more; a second logout has nothing to do."""
    stored = admin_desk.file.load()
    assert stored is not None

    told = admin_desk.ask("logout")

    assert (told, admin_desk.file.load()) == ({"ended": True}, None)
    assert admin_desk.run("whoami", env={"IRON_API_TOKEN": stored.access_token, "IRON_URL": admin_desk.url}).code == 5
    assert admin_desk.ask("logout") == {"ended": False}


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


@pytest.mark.parametrize("content", ["", "{}", "[1, {}]", '[2, {"url": "a", "username": null}]', "\0"])
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


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(answer)


def test_plain_http_to_another_machine_is_refused(desk: Desk) -> None:
    """A password would travel for everybody to read."""
    shown = desk.run("login", "http://ironcage.example.com", "-u", "a", "--password-file", "-", typed="b")

    assert (shown.code, "use https://" in shown.err) == (2, True)
