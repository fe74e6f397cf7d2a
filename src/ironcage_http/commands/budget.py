"""`ironcage budget`: what agents may spend, what is lent to their runtimes, and every movement of money."""

from decimal import Decimal
from typing import Any, Final

import click

from ironcage_http.answers import AnsweredError
from ironcage_http.commands.amounts import USD
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, segment, showing
from ironcage_http.commands.screen import Column, instant, money, percent, show_record, tell, yes


@click.group(cls=RemoteGroup)
def budget() -> None:
    """Show and set what agents may spend, and follow the money."""


_NOW: Final = (
    Column("agent", "agent_name"),
    Column("agent id", "agent_id"),
    Column("status", "status"),
    Column("budget", "total_allocated", money),
    Column("spent", "total_spent", money),
    Column("lent", "budget_held", money),
    Column("remaining", "budget_remaining", money),
    Column("used", "percent_used", percent),
    Column("spent beyond leases", "overspent", money),
    Column("open leases", "open_leases"),
    Column("risk", "risk_level"),
    Column("owner's month", "bank.period"),
    Column("cap of the month", "bank.cap", money),
    Column("spent in the month", "bank.spent", money),
    Column("left of the month", "bank.available", money),
)
_THEN: Final = (Column("at", "at", instant), *(each for each in _NOW if each.key in {
    "agent_id", "total_allocated", "total_spent", "budget_held", "budget_remaining", "percent_used", "overspent",
}))  # fmt: skip


@budget.command()
@click.argument("agent")
@click.option("--at", help="As it was at this time: RFC 3339, a date, or Unix seconds.")
def show(agent: str, at: str | None) -> None:
    """Show the budget of AGENT, by name or id, and where it stands."""
    with control_plane() as remote:
        answer = remote.get("/budget", agent_id=identify(remote, "agent", agent), at=at)
    show_record(answer, _NOW if at is None else _THEN)


@budget.command("set")
@click.argument("agent")
@click.argument("amount", type=USD, metavar="USD")
@click.option("--reason", help="Is remembered in the history.")
@click.option("--expect", type=USD, help="Only if the budget is this much now.")
@YES
def set_budget(agent: str, amount: Decimal, reason: str | None, expect: Decimal | None, is_sure: bool) -> None:
    """Set the budget of AGENT to USD; you are asked whether a lower one is meant."""
    with control_plane() as remote:
        agent_id = identify(remote, "agent", agent)
        place = f"/limits/agents/{segment(agent_id)}/budget"
        wish: dict[str, Any] = {"budget": amount, "reason": reason, "expected_budget": expect}
        try:
            changed = remote.put(place, **wish, force=is_sure or None)
        except AnsweredError as refused:
            if refused.code != "BUDGET_DECREASE_REQUIRES_CONFIRMATION":
                raise
            confirm(_question(agent, amount, refused.details), is_sure=False)
            wish["expected_budget"] = refused.details["current_budget"]  # nothing but what was asked about
            changed = remote.put(place, **wish, force=True)
    before, after, left = (money(changed[name]) for name in ("previous_budget", "new_budget", "new_remaining"))
    tell(f"the budget of {agent} is {after} now, of which {left} remain; it was {before}", **changed)


def _question(agent: str, amount: Decimal, standing: Any) -> str:  # noqa: ANN401 - JSON
    before, left = money(standing["current_budget"]), money(standing["new_remaining_if_applied"])
    return f"Lower the budget of {agent} from {before} to {money(amount)}, so that {left} remain?"


_PAST: Final = (
    Column("id", "id"),
    Column("at", "modified_at", instant),
    Column("from", "previous_budget", money),
    Column("to", "new_budget", money),
    Column("by", "modified_by_name"),
    Column("request", "request_id"),
    Column("forced", "force_flag", yes),
    Column("reason", "reason"),
)
_ENTRY: Final = (
    Column("seq", "seq"),
    Column("at", "posted_at", instant),
    Column("agent id", "agent_id"),
    Column("kind", "kind"),
    Column("amount", "amount", money),
    Column("cause", "cause"),
    Column("lease", "lease_id"),
    Column("budget then", "allocated_after", money),
    Column("spent then", "spent_after", money),
    Column("lent then", "held_after", money),
)
_STANDING: Final = (
    Column("agent id", "agent_id"),
    Column("agent", "agent_name"),
    Column("status", "status"),
    Column("risk", "risk_level"),
    Column("used", "percent_used", percent),
    Column("budget", "budget", money),
    Column("spent", "spent", money),
    Column("lent", "held", money),
    Column("remaining", "remaining", money),
    Column("not yet reported", "pending_spend", money),
)
_LEASES: Final = (
    Column("id", "id"),
    Column("agent id", "agent_id"),
    Column("status", "status"),
    Column("reason", "status_reason"),
    Column("lent", "budget_granted", money),
    Column("spent", "budget_spent", money),
    Column("left", "held", money),
    Column("provider", "provider"),
    Column("runtime", "runtime_id"),
    Column("expires", "expires_at", instant),
)
_LEASE: Final = (
    *_LEASES,
    Column("spent beyond it", "overspent", money),
    Column("reserved", "reserved", money),
    Column("given back", "returned", money),
    Column("taken back", "reclaimed", money),
    Column("provider key", "provider_key_id"),
    Column("IC token", "ic_token_id"),
    Column("successor", "successor_lease_id"),
    Column("created", "created_at", instant),
    Column("last heard of", "last_activity_at", instant),
    Column("closed", "closed_at", instant),
)

budget.add_command(
    listing(
        "/limits/agents/{agent}/budget/history", _PAST, "Show how the budget of AGENT came to be, newest first.",
        name="history", is_sorted=False,
    )
)  # fmt: skip
budget.add_command(
    listing(
        "/budget/ledger", _ENTRY, "List every movement of money, newest first.", name="ledger",
        filters=("agent_id", "lease_id", "kind", "from", "to"), is_sorted=False,
    )
)  # fmt: skip
budget.add_command(
    listing(
        "/analytics/budget/status", _STANDING, "List agents by how much of their budgets is spent.", name="status",
        filters=("agent_id", "project_id", "user_id", "threshold", "status", "risk_level"),
    )
)  # fmt: skip
budget.add_command(
    listing(
        "/budget/leases", _LEASES, "List what is lent to runtimes, newest first.", name="leases",
        filters=("agent_id", "status"), is_sorted=False,
    )
)  # fmt: skip
budget.add_command(showing("/budget/leases/{lease}", _LEASE, "Show LEASE as it is at this instant.", name="lease"))


@budget.command()
@click.argument("lease")
@click.option("--reason", help="Is remembered in the audit log.")
@YES
def revoke(lease: str, reason: str | None, is_sure: bool) -> None:
    """Take back what LEASE holds; its runtime starts no more calls."""
    confirm(f"Take back what {lease} holds?", is_sure=is_sure)
    with control_plane() as remote:
        answer = remote.post(f"/budget/leases/{segment(lease)}/revoke", reason=reason)
    how = f"{lease} is {answer['status']} ({answer['status_reason']})"
    tell(f"{how}: {money(answer['budget_spent'])} spent, {money(answer['reclaimed'])} taken back", **answer)
