"""One agent's day over real HTTP, against a provider of this machine, with real cryptography and a real database.

An admin logs in for the first time, stores a provider key and makes an agent with $5. Its runtime takes a lease, opens
the provider key, makes two hundred calls, reports, refreshes, repeats a report, overshoots and returns; then the
ledger, and the books recomputed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ironcage_http.fake_provider import FakeProvider

MODEL: Final = "gpt-4o"
CALLS: Final = 200
ONE_BY_ONE: Final = 50
BATCH: Final = 50
TIMEOUT_S: Final = 30
PROVIDER_SECRET: Final = "sk-demo-0123456789abcdefghij"  # noqa: S105 - made up; there is no such key
CHOSEN_PASSWORD: Final = "a password for one day"  # noqa: S105 - of a database that lives as long as the demo

_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Api:
    """A client of the control plane with one bearer token.

    Args:
        client: Sends the requests.
        url: Where the server answers.
        token: An access token or an IC token; None for none.
    """

    def __init__(self, client: httpx.Client, url: str, token: str | None = None) -> None:
        self._client = client
        self._base = f"{url}/api/v1"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a GET."""
        params = {name: str(value) for name, value in query.items()}
        return self._read(self._client.get(self._base + path, params=params, headers=self._headers))

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a POST."""
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._read(self._client.post(self._base + path, content=_encode(body), headers=headers))

    @staticmethod
    def _read(response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        if response.is_error:
            raise RuntimeError(f"{response.request.url.path} answered {response.status_code}: {response.text}")
        return _decode(response.content) if response.content else None


@dataclass(frozen=True, slots=True)
class Runtime:
    """The agent's side: it acts with its IC token, and calls the provider with the key of its lease."""

    api: Api
    client: httpx.Client
    provider_url: str

    def call(self, number: int, key: str) -> dict[str, object]:
        """Call the provider and return what it says was used."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "seed": number}
        url = f"{self.provider_url}/chat/completions"
        response = self.client.post(url, json=body, headers={"Authorization": f"Bearer {key}"})
        usage = response.raise_for_status().json()["usage"]
        return {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}


def play(url: str, password: str, provider: FakeProvider, unseal: Callable[..., str], console: Console) -> bool:
    """Play the day and tell whether everything went as it should.

    Args:
        url: Where the control plane answers.
        password: The first admin's, to be changed at once.
        provider: The provider that will be called.
        unseal: Opens an IP token; as `open_ip_token`.
        console: Where to tell about it.
    """
    with httpx.Client(timeout=TIMEOUT_S) as client:
        return _play(client, url, password, provider, unseal, console)


def _play(
    client: httpx.Client, url: str, password: str, provider: FakeProvider, unseal: Callable[..., str], console: Console
) -> bool:
    admin = _log_in(client, url, password, console)
    agent = _prepare(admin, provider, console)
    token = agent["ic_token"]["token"]
    runtime = Runtime(Api(client, url, token), client, provider.url)
    lease = runtime.api.post("/budget/handshake", requested_budget=Decimal("1.50"), runtime_id="demo")
    key = unseal(
        lease["ip_token"], ic_token=token, agent_id=agent["id"], lease_id=lease["lease_id"], provider=lease["provider"]
    )
    is_key = key == PROVIDER_SECRET
    console.print(
        f"[bold]handshake[/]   lent ${lease['budget_granted']}; "
        f"the IP token opens to the provider key: {'yes' if is_key else 'NO'}"
    )
    lease_id = _spend(runtime, lease["lease_id"], key, console)
    again = runtime.api.post("/budget/report", **_report(lease_id, CALLS, runtime.call(CALLS, key)))
    console.print(f"[bold]duplicate[/]   the last report again: counted {'once' if again['duplicate'] else 'TWICE'}")
    over = _overshoot(runtime.api, lease_id, again["lease_remaining_usd"])
    console.print(f"[bold]overshoot[/]   a call beyond the lease: ${over} booked as overspend")
    closed = _lend_and_return(runtime.api, console)
    _show_ledger(admin, agent["id"], console)
    _show_balance(admin.get("/budget", agent_id=agent["id"]), console)
    console.print(f"[bold]provider[/]    accepted {provider.accepted} calls with the key, refused {provider.refused}")
    return is_key and bool(again["duplicate"]) and over > 0 and bool(closed) and provider.refused == 0


def _log_in(client: httpx.Client, url: str, password: str, console: Console) -> Api:
    nobody = Api(client, url)
    first = Api(client, url, nobody.post("/auth/login", username="admin", password=password)["access_token"])
    first.post("/auth/change-password", current_password=password, new_password=CHOSEN_PASSWORD)
    session = nobody.post("/auth/login", username="admin", password=CHOSEN_PASSWORD)
    console.print(f"[bold]login[/]       {session['user']['email']} ({session['user']['role']}), password changed")
    return Api(client, url, session["access_token"])


def _prepare(admin: Api, provider: FakeProvider, console: Console) -> dict[str, Any]:
    key = admin.post("/providers", provider="openai", api_key=PROVIDER_SECRET, base_url=provider.url)
    console.print(f"[bold]key[/]         {key['provider']} key {key['masked_key']}, encrypted at rest")
    agent: dict[str, Any] = admin.post("/agents", name="demo", budget=5, providers=[key["id"]])
    console.print(f"[bold]agent[/]       {agent['id']} may spend ${agent['budget']}")
    return agent


def _spend(runtime: Runtime, lease_id: str, key: str, console: Console) -> str:
    """Make the calls and report them, some one by one, the rest in batches behind a refresh; return the last lease."""
    for number in track(range(1, ONE_BY_ONE + 1), "calls one by one", console=console, transient=True):
        runtime.api.post("/budget/report", **_report(lease_id, number, runtime.call(number, key)))
    refreshed = runtime.api.post("/budget/refresh", lease_id=lease_id, requested_budget=2)
    console.print(
        f"[bold]refresh[/]     ${refreshed['budget_granted']} new, "
        f"${refreshed['rolled_over_usd']} rolled over from the first lease"
    )
    last: str = refreshed["lease_id"]
    for batch in track(list(_batches()), "calls in batches", console=console, transient=True):
        reports = [_report(last, number, runtime.call(number, key)) for number in batch]
        outcome = runtime.api.post("/budget/report", reports=reports)
        if not outcome["success"]:
            raise RuntimeError(f"{outcome['rejected']} reports were rejected")
    console.print(f"[bold]calls[/]       {CALLS} calls of {MODEL}, priced by the server's table")
    return last


def _batches() -> Iterator[range]:
    for start in range(ONE_BY_ONE + 1, CALLS + 1, BATCH):
        yield range(start, min(start + BATCH, CALLS + 1))


def _report(lease_id: str, number: int, usage: dict[str, object]) -> dict[str, object]:
    return {
        "lease_id": lease_id, "request_id": f"call-{number:04d}", "model": MODEL, "provider": "openai", **usage,
    }  # fmt: skip


def _overshoot(api: Api, lease_id: str, held: Decimal) -> Decimal:
    booked = api.post(
        "/budget/report", lease_id=lease_id, request_id="call-beyond", model=MODEL, provider="openai",
        cost_usd=held + Decimal("0.25"), tokens=100_000,
    )  # fmt: skip
    return Decimal(booked["overspent_usd"])


def _lend_and_return(api: Api, console: Console) -> bool:
    last = api.post("/budget/handshake", requested_budget=Decimal("0.50"))
    closed = api.post("/budget/return", lease_id=last["lease_id"])
    console.print(
        f"[bold]return[/]      a third lease of ${last['budget_granted']} is {closed['lease_status']}; "
        f"${closed['returned_usd']} went back"
    )
    return bool(closed["lease_status"] == "closed" and closed["returned_usd"] == last["budget_granted"])


def _show_ledger(admin: Api, agent_id: str, console: Console) -> None:
    newest = admin.get("/budget/ledger", agent_id=agent_id, per_page=6)
    total = newest["pagination"]["total"]
    oldest = admin.get("/budget/ledger", agent_id=agent_id, per_page=4, page=-(-total // 4))
    table = Table(title=f"Ledger: {total} entries", title_justify="left")
    for column in ("seq", "time", "kind", "cause", "amount", "spent", "held"):
        table.add_column(column, justify="left" if column in {"time", "kind", "cause"} else "right")
    for entry in reversed(oldest["data"]):
        table.add_row(*_cells(entry))
    table.add_row(*["…"] * 7)
    for entry in reversed(newest["data"]):
        table.add_row(*_cells(entry))
    console.print(table)


def _cells(entry: dict[str, Any]) -> list[str]:
    amounts = (f"${entry[name]:.6f}" for name in ("amount", "spent_after", "held_after"))
    return [str(entry["seq"]), entry["posted_at"][11:-1], entry["kind"], entry["cause"], *amounts]


def _show_balance(budget: dict[str, Any], console: Console) -> None:
    console.print(
        f"[bold]balance[/]     allocated ${budget['total_allocated']} = spent ${budget['total_spent']}"
        f" + held ${budget['budget_held']} + remaining ${budget['budget_remaining']}"
    )
