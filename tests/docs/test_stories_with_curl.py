"""The stories that are told with curl, run as they are printed."""

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest

from ironcage_core.services.accounts import first_admin
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.serving import make_first_admin
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore

ROOT = Path(__file__).parents[2]
STORY = re.compile(r"```bash\n(.*?)```.*?```text\n(.*?)```", re.DOTALL)

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None, reason="the stories are told with curl, which is not here"
)


def run_story(text: str, server: ApiServer, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the first bash block of a text, and return what it prints, with what it should print in `args`."""
    found = STORY.search(text)
    assert found is not None
    script, expected = found.groups()
    done = subprocess.run(  # noqa: S603 - our own text
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607 - the shell of the reader
        env={"URL": server.url, "PATH": "/usr/local/bin:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    done.args = expected
    return done


def test_the_lease_with_curl_prints_what_the_readme_says(tmp_path: Path) -> None:
    """A newcomer can paste it."""
    text = (ROOT / "README.md").read_text().partition("## A lease with curl")[2]
    settings, password = embedded_settings(), new_password()
    with SqliteStore(tmp_path / "iron.db") as store:
        make_first_admin(store, settings, Argon2PasswordHasher(), generated=password)
        with ApiServer(store, settings=settings) as server:
            done = run_story(text, server, PASSWORD=password)

    assert (done.stdout, done.returncode) == (done.args, 0), done.stderr


@pytest.mark.parametrize("page", ["give-access", "limit-spending", "watch-spending"])
def test_a_page_for_admins_prints_what_it_says(page: str, tmp_path: Path) -> None:
    """An admin can paste it."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    with SqliteStore(tmp_path / "iron.db") as store:
        hasher = Argon2PasswordHasher()
        password_hash = hasher.hash("correct horse battery")
        store.write(
            partial(first_admin, email="a@test.io", username="admin", password_hash=password_hash, force_change=False)
        )
        with ApiServer(store) as server:
            body = {"username": "admin", "password": "correct horse battery"}
            admin = httpx.post(f"{server.url}/api/v1/auth/login", json=body).json()["access_token"]
            done = run_story(text, server, ADMIN=admin)

    assert (done.stdout, done.returncode) == (done.args, 0), done.stderr
