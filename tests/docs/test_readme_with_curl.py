"""The README's lease with curl, run as it is printed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.serving import make_first_admin
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the story is told with curl, which is not here")
def test_the_lease_with_curl_prints_what_the_readme_says(tmp_path: Path) -> None:
    """A newcomer can paste it."""
    found = re.search(r"## A lease with curl.*?```bash\n(.*?)```.*?```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    script, expected = found.groups()
    settings, password = embedded_settings(), new_password()
    with SqliteStore(tmp_path / "iron.db") as store:
        make_first_admin(store, settings, Argon2PasswordHasher(), generated=password)
        with ApiServer(store, settings=settings) as server:
            done = subprocess.run(  # noqa: S603 - the README's own text
                ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607 - the shell of the README's reader
                env={"URL": server.url, "PASSWORD": password, "PATH": "/usr/local/bin:/usr/bin:/bin"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

    assert (done.stdout, done.returncode) == (expected, 0), done.stderr
