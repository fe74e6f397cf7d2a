"""The explanations say what the code does: states of a lease, effects of entries, a day's ledger, what a file tells."""

import re
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import httpx
import pytest

from ironcage_core.domain.leases import TRANSITIONS, LeaseStatus
from ironcage_core.domain.ledger import EFFECTS, Entry
from ironcage_core.domain.money import MICROS_PER_USD, parse_usd
from ironcage_core.services.accounts import first_admin
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_http.server import ApiServer
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import SetClock, World

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "explanation"
ACCOUNTING: Final = (FOLDER / "accounting.md").read_text()
PAGES: Final = sorted(FOLDER.glob("*.md"))
ARROW: Final = re.compile(r"^ *(\S+) --> (\S+)(?:: (.+))?$", re.MULTILINE)


def test_the_picture_of_a_lease_has_the_transitions_of_the_code_and_no_other() -> None:
    """Arrow by arrow, event by event."""
    (picture,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", ACCOUNTING, re.DOTALL)

    drawn = {
        (start, event): end
        for start, end, events in ARROW.findall(picture)
        if "[*]" not in {start, end}
        for event in events.split(", ")
    }
    ends = {start for start, end, _ in ARROW.findall(picture) if end == "[*]"}

    assert drawn == TRANSITIONS
    assert ends == set(get_args(LeaseStatus)) - {start for start, _ in TRANSITIONS}


@pytest.mark.parametrize("kind", EFFECTS)
def test_the_table_of_entries_says_what_each_kind_moves(kind: str) -> None:
    """The numbers are those by which the books count."""
    effect = EFFECTS[kind]  # type: ignore[index]  # a key of it
    moved = (effect.allocated, effect.spent, effect.held, effect.allocated - effect.spent - effect.held)
    numbers = " | ".join(f"{each:+d}" if each else "0" for each in moved)

    assert f"| `{kind}` | {numbers} | {effect.lease_column or '-'} |" in ACCOUNTING


def test_the_day_in_the_ledger_is_what_the_books_say() -> None:
    """The story of the page, played: each row, its cause and the balance after it."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock) as store:
        world = World(store, clock)
        agent = world.agent(usd("5"))
        first = agent.handshake(usd("1.50")).lease.id
        agent.report(first, "call-1", usd("0.60"))
        refreshed = agent.refresh(first, usd("1"))
        assert isinstance(refreshed, Granted)
        second = refreshed.lease.id
        agent.report(second, "call-2", usd("2.00"))
        third = agent.handshake(usd("1")).lease.id
        agent.return_lease(third, usd("0.25"))
        agent.report(third, "call-3", usd("0.25"))
        fourth = agent.handshake(usd("0.40")).lease.id
        clock.pass_s(3600 + 60)
        store.write(sweep)
        names = {None: "-", first: "first", second: "second", third: "third", fourth: "fourth"}

        played = [row_of(entry, names[entry.lease_id]) for entry in agent.entries()]
        (shown,) = re.findall(r"```text\nkind .*?\n(.*?)```", ACCOUNTING, re.DOTALL)

        assert played == [line.split() for line in shown.splitlines()]
        assert world.verify().holds


def usd(amount: str) -> int:
    return parse_usd(amount, field="amount")


def row_of(entry: Entry, lease: str) -> list[str]:
    """Return an entry as the page shows it."""
    remaining = entry.allocated_after - entry.spent_after - entry.held_after
    after = (entry.allocated_after, entry.spent_after, entry.held_after, remaining)
    return [entry.kind, two_digits(entry.amount), lease, entry.cause, *map(two_digits, after)]


def two_digits(micros: int) -> str:
    return f"{micros / MICROS_PER_USD:.2f}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_an_explanation_names_only_what_is_there(path: Path) -> None:
    """Tests by their files, modules by their names, and codes as somebody raises or writes them."""
    text = path.read_text()
    code = "\n".join(each.read_text() for each in (ROOT / "src").rglob("*.py"))

    files = [name for name in re.findall(r"`(tests/[\w/.]+)`", text) if not (ROOT / name).exists()]
    modules = [
        name
        for name in re.findall(r"\b(ironcage_(?:core|storage|http)(?:\.\w+)*)\b", text)
        if not any((ROOT / "src" / (name.replace(".", "/") + end)).exists() for end in (".py", ""))
    ]
    words = [word for word in re.findall(r"`(?:\d{3} )?([A-Z]+(?:_[A-Z]+)+)`", text) if word not in code]

    assert (files, modules, words) == ([], [], [])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_link_of_an_explanation_leads_to_a_heading(path: Path) -> None:
    """Where it names a part of a page."""
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text())

    lost = [(page, part) for page, part in links if part not in parts_of(path.parent / page if page else path)]

    assert lost == []


def parts_of(path: Path) -> set[str]:
    """Return the names of a page's parts, as links spell them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_a_copy_of_the_file_holds_no_secret_of_a_day(tmp_path: Path) -> None:
    """Read byte by byte, while the server runs and after it: no key, no token, no password."""
    file, password, chosen = tmp_path / "iron.db", "correct horse battery", "a horse of my own"
    made = Argon2PasswordHasher().hash(password)
    with SqliteStore(file) as store:
        store.write(partial(first_admin, email="a@test.io", username="admin", password_hash=made, force_change=False))
        with ApiServer(store) as server, httpx.Client(base_url=f"{server.url}/api/v1") as client:
            secrets = [password, chosen, *a_day(client, password, chosen)]
            during = b"".join(each.read_bytes() for each in tmp_path.glob("iron.db*"))
    after = file.read_bytes()

    assert len(set(secrets)) == 10
    assert [secret for secret in secrets if secret.encode() in during + after] == []
    assert b"researcher" in during  # what is no secret is there, so that would be
    assert b"researcher" in after


def a_day(client: httpx.Client, password: str, chosen: str) -> list[str]:
    """Use every kind of secret, and return their values."""

    def post(path: str, token: str = "", **body: object) -> Any:  # noqa: ANN401 - whatever the JSON is
        answer = client.post(path, json=body, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer.raise_for_status()
        return answer.json() if answer.content else None

    session = post("/auth/login", username="admin", password=password)
    admin = session["access_token"]
    post("/auth/change-password", admin, current_password=password, new_password=chosen)
    session = post("/auth/login", username="admin", password=chosen)
    renewed = post("/auth/refresh", refresh_token=session["refresh_token"])
    admin = renewed["access_token"]
    api_key = "sk-proj-0123456789abcdefghij"
    key = post("/providers", admin, provider="openai", api_key=api_key)["id"]
    agent = post("/agents", admin, name="researcher", budget=5, providers=[key])
    ic_token = agent["ic_token"]["token"]
    api_token = post("/api-tokens", admin, name="dashboard", scopes=["agents:read"])["token"]
    client.get("/agents", headers={"X-API-Token": api_token}).raise_for_status()
    lease = post("/budget/handshake", ic_token, requested_budget=1)
    call = {"request_id": "call-1", "model": "gpt-4o", "provider": "openai", "input_tokens": 1200, "output_tokens": 350}
    post("/budget/report", ic_token, lease_id=lease["lease_id"], **call)
    return [
        session["access_token"], session["refresh_token"], admin, renewed["refresh_token"], api_key, ic_token,
        api_token, lease["ip_token"],
    ]  # fmt: skip
