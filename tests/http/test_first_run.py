"""The first run: an empty folder becomes a server one can log in to, and a second run finds it as it was.

Contract identity.md 10.
"""

import re
import socket
import stat
from pathlib import Path

import pytest

from ironcage_http.secrets_file import secrets_path
from tests.support.servers import Reply, ServerProcess, run_ironcage

PASSWORD_LINE = re.compile(r"^.*password ([A-Za-z0-9_-]{24})(?![A-Za-z0-9_-]).*$", re.MULTILINE)
NEW_PASSWORD = "what the operator chose"
ADMIN = {
    "IRON_ADMIN_EMAIL": "Root@Example.com",
    "IRON_ADMIN_USERNAME": "root",
    "IRON_ADMIN_PASSWORD": "what the operator set",
}


def log_in(server: ServerProcess, username: str, password: str) -> Reply:
    return server.ask("POST", "/auth/login", {"username": username, "password": password})


def bearing(login: Reply) -> dict[str, str]:
    return {"Authorization": f"Bearer {login.body['access_token']}"}


def test_an_empty_folder_becomes_a_server_with_one_password_to_change(tmp_path: Path) -> None:
    """Nothing is configured: the password is printed once, and a restart keeps the sessions."""
    server = ServerProcess(tmp_path)
    with server:
        found = PASSWORD_LINE.findall(server.said)
        login = log_in(server, "admin", found[0])
        refused = server.ask("GET", "/budget", headers=bearing(login))
        change = {"current_password": found[0], "new_password": NEW_PASSWORD}
        changed = server.ask("POST", "/auth/change-password", change, bearing(login))
        allowed = server.ask("GET", "/budget", headers=bearing(login))
        assert server.terminate(within_s=5) == 0
    said_first = server.said
    with server:
        still = server.ask("GET", "/budget", headers=bearing(login))
        refreshed = server.ask("POST", "/auth/refresh", {"refresh_token": login.body["refresh_token"]})
        old, new = log_in(server, "admin", found[0]), log_in(server, "admin", NEW_PASSWORD)

    assert len(found) == 1
    assert said_first.count(found[0]) == 1
    assert (login.status, login.body["password_change_required"]) == (200, True)
    assert login.body["user"]["email"] == "admin@localhost"
    assert (refused.status, refused.body["code"]) == (403, "PASSWORD_CHANGE_REQUIRED")
    assert (changed.status, allowed.status) == (204, 200)
    assert "password" not in server.said
    assert (still.status, refreshed.status, old.status, new.status) == (200, 200, 401, 200)


def test_the_secrets_that_were_made_up_are_the_owners_alone(tmp_path: Path) -> None:
    """One file beside the database, readable by nobody else, and the same after a restart."""
    server = ServerProcess(tmp_path)
    with server:
        path = secrets_path(tmp_path / "iron.db")
        made = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
        server.terminate()
    with server:
        kept = path.read_bytes()

    assert mode == 0o600
    assert kept == made
    assert (tmp_path / "iron.db").exists()


def test_an_admin_of_the_environment_needs_no_change_and_is_made_once(tmp_path: Path) -> None:
    """With a user present the variables are ignored: a later value resets nothing."""
    server = ServerProcess(tmp_path, **ADMIN)
    with server:
        by_name = log_in(server, "root", ADMIN["IRON_ADMIN_PASSWORD"])
        by_email = server.ask(
            "POST", "/auth/login", {"email": "root@example.com", "password": ADMIN["IRON_ADMIN_PASSWORD"]}
        )
        nobody = log_in(server, "admin", ADMIN["IRON_ADMIN_PASSWORD"])
        first_said = server.said
        server.terminate()
    server.environ |= {"IRON_ADMIN_PASSWORD": "another value", "IRON_ADMIN_USERNAME": "second"}
    with server:
        later = [log_in(server, "root", "another value"), log_in(server, "second", "another value")]
        kept = log_in(server, "root", ADMIN["IRON_ADMIN_PASSWORD"])

    assert (by_name.status, by_email.status, nobody.status) == (200, 200, 401)
    assert by_name.body["password_change_required"] is False
    assert by_name.body["user"]["role"] == "admin"
    assert ADMIN["IRON_ADMIN_PASSWORD"] not in first_said
    assert "first login" not in first_said
    assert [each.status for each in later] == [401, 401]
    assert kept.status == 200


def test_the_admins_password_may_come_from_a_file(tmp_path: Path) -> None:
    """So that it stands in no process list."""
    (tmp_path / "password").write_text("what the file says\n")
    with ServerProcess(tmp_path, IRON_ADMIN_EMAIL="root@example.com", IRON_ADMIN_PASSWORD_FILE="password") as server:
        login = log_in(server, "admin", "what the file says")

    assert (login.status, login.body["password_change_required"]) == (200, False)


@pytest.mark.parametrize(
    ("environ", "told", "hidden"),
    [
        ({"DATABASE_URL": "postgres://iron:hidden-word@db/iron"}, "PostgreSQL is not supported yet", "hidden-word"),
        ({"DATABASE_URL": "mysql://iron:hidden-word@db/iron"}, "DATABASE_URL", "hidden-word"),
        ({"SERVER_PORT": "hidden-word"}, "SERVER_PORT", "hidden-word"),
        ({**ADMIN, "IRON_ADMIN_PASSWORD": "hidden"}, "IRON_ADMIN_PASSWORD", "hidden"),
        (
            {"IRON_DEPLOYMENT_MODE": "production", "DATABASE_URL": "sqlite:///iron.db", "JWT_SECRET": "hidden-word"},
            "JWT_SECRET",
            "hidden-word",
        ),
        ({"SERVER_HOST": "192.0.2.1", "JWT_SECRET": "hidden-word"}, "JWT_SECRET", "hidden-word"),
    ],
)
def test_an_environment_that_cannot_be_used_ends_the_start(
    tmp_path: Path, environ: dict[str, str], told: str, hidden: str
) -> None:
    """Exit code 3 and the variable's name, never its value."""
    done = run_ironcage(tmp_path, "serve", **environ)

    assert done.returncode == 3
    assert told in done.stderr
    assert hidden not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_secrets_file_others_may_read_ends_the_start(tmp_path: Path) -> None:
    """It says what to do about it."""
    path = secrets_path(tmp_path / "iron.db")
    path.write_text("{}")
    path.chmod(0o644)

    done = run_ironcage(tmp_path, "serve")

    assert done.returncode == 3
    assert "chmod 600" in done.stderr


def test_production_without_an_admin_starts_without_a_user_and_warns_each_time(tmp_path: Path) -> None:
    """Nothing is made up there."""
    master_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    server = ServerProcess(
        tmp_path,
        IRON_DEPLOYMENT_MODE="production",
        SERVER_HOST="127.0.0.1",
        DATABASE_URL="sqlite:///iron.db",
        JWT_SECRET="a secret of the operator that is long enough",
        IC_TOKEN_SECRET="another secret that is just as long as that",
        IRON_SECRETS_MASTER_KEY=master_key,
    )
    said = []
    for _ in range(2):
        with server:
            said.append(server.said)
            server.terminate()

    assert all("there is no user" in each for each in said)
    assert not any(PASSWORD_LINE.search(each) for each in said)
    assert not any(master_key in each for each in said)
    assert not secrets_path(tmp_path / "iron.db").exists()


def test_a_port_in_use_ends_the_start_before_anything_is_made(tmp_path: Path) -> None:
    """Exit code 3, and no password that nobody would see again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_ironcage(tmp_path, "serve", SERVER_PORT=str(taken.getsockname()[1]))

    assert (done.returncode, "SERVER_PORT" in done.stderr, "Traceback" in done.stderr) == (3, True, False)
    assert "password" not in done.stderr + done.stdout
    assert not (tmp_path / "iron.db").exists()


@pytest.mark.parametrize(
    "sent", [b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", b"GET / HT"]
)
def test_a_request_that_never_ends_does_not_keep_the_process(tmp_path: Path, sent: bytes) -> None:
    """It is given a few seconds, then the server goes."""
    with ServerProcess(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(sent)

        assert server.terminate(within_s=8) == 0
