"""The stories of runtimes, run as they are printed: against a control plane, and a provider that is made up."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ironcage_core.domain.prices import cost_micros
from ironcage_core.services.accounts import add_user
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.serving import make_first_admin
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.fake_llm import FakeLlm
from tests.support.panel import USD, Panel
from tests.support.servers import RunningAgent
from tests.support.web import API_KEY
from tests.support.world import ADMIN

ROOT = Path(__file__).parents[2]
BUDGET = 5 * USD
"""Less than the refused calls of the pages may cost."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader whose home is a folder, with no way out to a provider."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(  # noqa: S603 - the programs of our own pages
        command,
        cwd=folder,
        env={**kept, "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def run_page(name: str, folder: Path, panel: Panel, agent: RunningAgent) -> subprocess.CompletedProcess[str]:
    """Run all Python of a page as one program, beside the file that it shows."""
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    for shown in blocks(text, "json"):
        (folder / "prices.json").write_text(shown)
    (folder / "page.py").write_text("\n\n".join(blocks(text, "python")))
    return run(folder, sys.executable, "-W", "error", "page.py", URL=panel.url, IC_TOKEN=agent.token)


def staffed(store: SqliteStore, llm: FakeLlm) -> Panel:
    """Return a control plane with a key of each provider, both of them good at the one that is made up."""
    settings = embedded_settings()
    assert settings.master_key is not None
    vault = AesGcmVault(settings.master_key)
    store.write(partial(add_user, username="owner", email="owner@test.io", role="user", actor=ADMIN))
    for provider, url in (("openai", llm.url), ("anthropic", llm.root)):
        add = partial(add_provider_key, provider=provider, api_key=API_KEY, base_url=url, actor=ADMIN, vault=vault)
        store.write(add)
    return Panel(store, settings)


def outbox(folder: Path) -> list[Path]:
    """Return what is left in the outbox of whoever did not name another one."""
    return list((folder / ".local" / "state" / "ironcage").iterdir())


@pytest.mark.parametrize(
    ("page", "calls", "by_hand"),
    [("spend-a-lease", 2, 12_300 + 1_520 + 4_800), ("connect-an-sdk", 11, 0)],
)
def test_a_page_for_runtimes_runs(page: str, calls: int, by_hand: int, tmp_path: Path) -> None:
    """It ends well and says nothing to stderr; the books hold the provider's bill and what it committed by hand."""
    with FakeLlm(API_KEY) as llm, SqliteStore(tmp_path / "iron.db") as store:
        panel = staffed(store, llm)
        agent = panel.hire(BUDGET)
        with panel.up():
            done = run_page(page, tmp_path, panel, agent)

        assert (done.returncode, done.stderr) == (0, "")
        balance = panel.balance(agent)
        panel.check()
    prices = bundled_prices()
    billed = [cost_micros(prices[bill.model], bill.counts) for bill in llm.bill.values()]
    assert len(billed) == calls
    assert balance.spent == sum(billed) + by_hand
    assert (balance.held, balance.overspent) == (0, 0)
    assert outbox(tmp_path) == []


def test_the_lease_in_a_runtime_prints_what_the_readme_says(tmp_path: Path) -> None:
    """With the shell of the story before it, and at the server of that story."""
    text = (ROOT / "README.md").read_text()
    (story,) = blocks(text.partition("## A lease with curl")[2].partition("\n## ")[0], "bash")
    section = text.partition("## A lease in a runtime")[2].partition("\n## ")[0]
    (line,), (program,), (expected,) = (blocks(section, language) for language in ("bash", "python", "text"))
    (tmp_path / "runtime.py").write_text(program)
    script = f'{{ {story} }} > /dev/null\n{line}"{sys.executable}" -W error runtime.py'
    settings, password = embedded_settings(), new_password()
    with SqliteStore(tmp_path / "iron.db") as store:
        make_first_admin(store, settings, Argon2PasswordHasher(), generated=password)
        with ApiServer(store, settings=settings) as server:
            done = run(tmp_path, "bash", "-euo", "pipefail", "-c", script, URL=server.url, PASSWORD=password)

    assert (done.stdout, done.returncode) == (expected, 0), done.stderr
    assert outbox(tmp_path) == []
