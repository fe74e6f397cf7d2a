"""The demo's stage: a temporary database, a control plane on a free port, a provider beside it."""

import tempfile
from pathlib import Path

from rich.console import Console

from ironcage_core.services.verify import verify
from ironcage_http.demo import PROVIDER_SECRET, play
from ironcage_http.fake_provider import FakeProvider
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.serving import make_first_admin
from ironcage_http.verification import show_verification
from ironcage_storage.sealed.ip_tokens import open_ip_token
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore


def rehearse(console: Console) -> bool:
    """Play one agent's day and tell whether it went well and the books add up."""
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
            checked = store.read(verify)
    show_verification(checked, console)
    return went_well and checked.holds
