"""One agent's day, played on a real database with real cryptography.

A provider key, an agent with $5, a lease, two hundred priced calls, a refresh, a repeated report, an overshoot and a
return; then the ledger, and the books recomputed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.instants import format_instant
from ironcage_core.domain.ledger import Balance, Entry
from ironcage_core.domain.money import Micros, format_usd, parse_usd
from ironcage_core.domain.prices import PriceTable
from ironcage_core.domain.usage import UsageReport
from ironcage_core.ports.lists import EntryFilter, Paging
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_core.ports.storage import Store, UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import CreatedAgent, create_agent
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.leasing import refresh, return_lease
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.reporting import report, report_batch
from ironcage_core.services.verify import Difference, Verification, verify

T = TypeVar("T")

MODEL = "gpt-4o"
CALLS = 200
ONE_BY_ONE = 50
PROVIDER_SECRET = "sk-demo-0123456789abcdefghij"  # noqa: S105 - made up; there is no such key
Unseal = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Cast:
    """Everything the day needs from outside."""

    store: Store
    sealing: Sealing
    signer: TokenSigner
    prices: PriceTable
    unseal: Unseal
    now: Callable[[], int]


class Runtime:
    """The agent's side: it holds the IC token, and calls."""

    def __init__(self, cast: Cast, created: CreatedAgent) -> None:
        self._cast = cast
        self._token = created.ic_token.value
        self.agent_id = created.agent.id

    def call(self, use_case: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Prove the token and run a use case as this agent."""
        presented = self._cast.signer.prove(self._token, now=self._cast.now())

        def as_agent(uow: UnitOfWork) -> T:
            return use_case(uow, authenticate(uow, presented), *args, **kwargs)

        return self._cast.store.write(as_agent)

    def unsealed(self, granted: Granted) -> str:
        """Return the provider key inside the lease's IP token."""
        lease = granted.lease
        return self._cast.unseal(
            granted.ip_token,
            ic_token=self._token,
            agent_id=self.agent_id,
            lease_id=lease.id,
            provider=lease.provider,
        )


def play(cast: Cast, console: Console) -> bool:
    """Play the day and tell whether the books add up at its end."""
    runtime = Runtime(cast, _prepare(cast, console))
    granted = runtime.call(handshake, HandshakeRequest(requested=_usd("1.50")), sealing=cast.sealing)
    is_key = runtime.unsealed(granted) == PROVIDER_SECRET
    console.print(
        f"[bold]handshake[/]   lent {format_usd(granted.new_money)}; "
        f"the IP token opens to the provider key: {'yes' if is_key else 'NO'}"
    )
    lease_id = _spend(cast, runtime, granted, console)
    again = runtime.call(report, _call_of(lease_id, CALLS), prices=cast.prices)
    console.print(
        f"[bold]duplicate[/]   the last report again: counted {'once' if again.booked.duplicate else 'TWICE'}"
    )
    over = _overshoot(runtime, cast, lease_id, again.booked.lease.held)
    console.print(f"[bold]overshoot[/]   a call beyond the lease: {format_usd(over)} booked as overspend")
    last = runtime.call(handshake, HandshakeRequest(requested=_usd("0.50")), sealing=cast.sealing)
    closed = runtime.call(return_lease, last.lease.id)
    console.print(
        f"[bold]return[/]      a third lease of {format_usd(last.new_money)} is {closed.lease.status}; "
        f"{format_usd(closed.returned)} went back"
    )
    checked = cast.store.read(verify)
    _show_ledger(cast, runtime.agent_id, console)
    _show_balance(closed.balance, console)
    show_verification(checked, console)
    return checked.holds and is_key and again.booked.duplicate and over > 0


def _prepare(cast: Cast, console: Console) -> CreatedAgent:
    admin = cast.store.write(partial(add_user, username="admin", email="admin@localhost", role="admin", actor=SYSTEM))
    key = cast.store.write(
        partial(add_provider_key, provider="openai", api_key=PROVIDER_SECRET, actor=SYSTEM, vault=cast.sealing.vault)
    )
    console.print(f"[bold]provider[/]    {key.provider} key {key.masked_key}, encrypted at rest")
    created = cast.store.write(
        partial(
            create_agent,
            name="demo",
            budget=_usd("5"),
            owner_id=admin.id,
            provider_key_ids=[key.id],
            actor=SYSTEM,
            signer=cast.signer,
        )
    )
    console.print(f"[bold]agent[/]       {created.agent.id} may spend {format_usd(created.balance.allocated)}")
    return created


def _spend(cast: Cast, runtime: Runtime, granted: Granted, console: Console) -> str:
    """Report the calls, some one by one, the rest in batches, refreshing when told to; return the last lease."""
    lease_id = granted.lease.id
    for number in track(range(1, ONE_BY_ONE + 1), "calls one by one", console=console, transient=True):
        runtime.call(report, _call_of(lease_id, number), prices=cast.prices)
    refreshed = runtime.call(refresh, lease_id, _usd("2"), sealing=cast.sealing)
    if not isinstance(refreshed, Granted):
        raise TypeError("the refresh was denied")
    lease_id = refreshed.lease.id
    console.print(
        f"[bold]refresh[/]     {format_usd(refreshed.new_money)} new, "
        f"{format_usd(refreshed.rolled_over)} rolled over from the first lease"
    )
    for batch in track(list(_batches()), "calls in batches", console=console, transient=True):
        outcome = runtime.call(report_batch, [_call_of(lease_id, number) for number in batch], prices=cast.prices)
        if outcome.rejected:
            raise ValueError(f"{outcome.rejected} reports were rejected")
    console.print(f"[bold]calls[/]       {CALLS} calls of {MODEL}, priced by the table of {cast.prices.date}")
    return lease_id


def _batches() -> Iterator[range]:
    for start in range(ONE_BY_ONE + 1, CALLS + 1, 50):
        yield range(start, min(start + 50, CALLS + 1))


def _call_of(lease_id: str, number: int) -> UsageReport:
    return UsageReport(
        lease_id=lease_id,
        request_id=f"call-{number:04d}",
        model=MODEL,
        provider="openai",
        input_tokens=1000 + 7 * number,
        output_tokens=300 + 3 * number,
    )


def _overshoot(runtime: Runtime, cast: Cast, lease_id: str, held: Micros) -> Micros:
    too_much = UsageReport(
        lease_id=lease_id,
        request_id="call-beyond",
        model=MODEL,
        provider="openai",
        cost=held + _usd("0.25"),
        tokens=100_000,
    )
    return runtime.call(report, too_much, prices=cast.prices).booked.overspent


def _show_ledger(cast: Cast, agent_id: str, console: Console) -> None:
    page = cast.store.read(lambda uow: uow.ledger.page(EntryFilter(agent_id=agent_id), Paging(1, 10_000)))
    entries = list(reversed(page.rows))
    table = Table(title=f"Ledger: {page.total} entries", title_justify="left")
    for column in ("seq", "time", "kind", "cause", "amount", "spent", "held", "remaining"):
        table.add_column(column, justify="left" if column in {"time", "kind", "cause"} else "right")
    head, tail = 4, 6
    shown = entries if len(entries) <= head + tail else [*entries[:head], None, *entries[-tail:]]
    for entry in shown:
        table.add_row(*(_cells(entry) if entry else ["…"] * 8))
    console.print(table)


def _cells(entry: Entry) -> list[str]:
    remaining = entry.allocated_after - entry.spent_after - entry.held_after
    amounts = (entry.amount, entry.spent_after, entry.held_after, remaining)
    return [str(entry.seq), format_instant(entry.posted_at)[11:-1], entry.kind, entry.cause, *map(format_usd, amounts)]


def _show_balance(balance: Balance, console: Console) -> None:
    console.print(
        f"[bold]balance[/]     allocated {format_usd(balance.allocated)} = spent {format_usd(balance.spent)}"
        f" + held {format_usd(balance.held)} + remaining {format_usd(balance.remaining)}"
    )


def show_verification(checked: Verification, console: Console) -> None:
    """Print what was recomputed and each difference found."""
    console.print(
        f"[bold]verify[/]      {checked.agents} agents, {checked.leases} leases, {checked.entries} ledger entries"
        f" and {checked.audit_rows} audit rows recomputed: "
        + ("[green]everything adds up[/]" if checked.holds else f"[red]{len(checked.differences)} differences[/]")
    )
    if checked.holds:
        return
    table = Table("what", "number", "stored", "recomputed")
    for difference in checked.differences:
        table.add_row(*_difference_cells(difference))
    console.print(table)


def _difference_cells(difference: Difference) -> list[str]:
    return [difference.subject, difference.number, str(difference.stored), str(difference.recomputed)]


def _usd(text: str) -> Micros:
    return parse_usd(text, field="amount")
