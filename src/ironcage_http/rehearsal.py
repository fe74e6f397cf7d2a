"""The demo's stage: a temporary database, a control plane on a free port, a provider beside it."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ironcage_core.services.verify import Verification, verify
from ironcage_http.demo import PROVIDER_SECRET, play
from ironcage_http.fake_provider import FakeProvider
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.serving import make_first_admin
from ironcage_storage.sealed.ip_tokens import open_ip_token
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore


class Rehearsed(NamedTuple):
    """Whether everything went as it should, and the books recomputed."""

    went_well: bool
    books: Verification


def rehearse(console: Console) -> Rehearsed:
    """Play one agent's day and recompute the books."""
    settings = embedded_settings()
    with tempfile.TemporaryDirectory(prefix="ironcage-demo-") as folder:
        file = Path(folder) / "demo.db"
        console.print(f"[bold]database[/]    {file} (removed at the end)")
        with SqliteStore(file) as store, FakeProvider(PROVIDER_SECRET) as provider:
            password = new_password()
            make_first_admin(store, settings, Argon2PasswordHasher(), generated=password)
            with ApiServer(store, settings=settings) as server:
                console.print(f"[bold]server[/]      {server.url}")
                went_well = play(server.url, password, provider, open_ip_token, console)
            return Rehearsed(went_well, store.read(verify))
