"""`ironcage requests`: larger budgets, asked for by owners of agents and decided by admins."""

from decimal import Decimal
from typing import Final

import click

from ironcage_http.commands.amounts import USD
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, segment, showing
from ironcage_http.commands.screen import Column, instant, money, tell


@click.group(cls=RemoteGroup)
def requests() -> None:
    """Ask for larger budgets, and decide what others ask for."""


_ROW: Final = (
    Column("id", "id"),
    Column("agent", "agent_name"),
    Column("by", "requester_name"),
    Column("status", "status"),
    Column("budget then", "current_budget", money),
    Column("asked for", "requested_budget", money),
    Column("approved", "approved_budget", money),
    Column("at", "created_at", instant),
    Column("why", "justification"),
)
_ONE: Final = (
    *_ROW,
    Column("agent id", "agent_id"),
    Column("requester id", "requester_id"),
    Column("decided by", "reviewed_by_name"),
    Column("decided at", "reviewed_at", instant),
    Column("notes", "review_notes"),
    Column("taken back at", "cancelled_at", instant),
    Column("agent is", "agent_status"),
    Column("budget now", "agent_current_budget", money),
    Column("spent now", "agent_spent", money),
    Column("remaining now", "agent_remaining", money),
)

requests.add_command(
    listing(
        "/budget/requests", _ROW, "List requests: your own and those for your agents; an admin's are all.",
        filters=("status", "agent_id", "requester_id"),
    )
)  # fmt: skip
requests.add_command(
    showing("/budget/requests/{request}", _ONE, "Show REQUEST, and where its agent's budget stands now.")
)


@requests.command()
@click.argument("agent")
@click.argument("amount", type=USD, metavar="USD")
@click.option("--reason", required=True, help="Why, in 20 to 500 characters.")
def create(agent: str, amount: Decimal, reason: str) -> None:
    """Ask that the budget of AGENT become USD."""
    with control_plane() as remote:
        agent_id = identify(remote, "agent", agent)
        made = remote.post("/budget/requests", agent_id=agent_id, requested_budget=amount, justification=reason)
    tell(f"{made['id']} asks for {money(made['requested_budget'])} instead of {money(made['current_budget'])}", **made)


@requests.command()
@click.argument("request")
@click.option("--amount", type=USD, metavar="USD", help="The budget, if it is not to be what was asked for.")
@click.option("--notes", help="Is remembered with it, up to 500 characters.")
def approve(request: str, amount: Decimal | None, notes: str | None) -> None:
    """Approve REQUEST: the agent's budget becomes what is approved."""
    with control_plane() as remote:
        answer = remote.patch(_place(request, "approve"), approved_budget=amount, review_notes=notes)
    agent = answer["agent"]
    tell(f"the budget of {agent['name']} is {money(agent['new_budget'])} now; it was {money(agent['old_budget'])}",
         **answer)  # fmt: skip


@requests.command()
@click.argument("request")
@click.option("--reason", required=True, help="Why, in 20 to 500 characters.")
def reject(request: str, reason: str) -> None:
    """Reject REQUEST."""
    with control_plane() as remote:
        answer = remote.patch(_place(request, "reject"), review_notes=reason)
    tell(f"{answer['id']} is {answer['status']}", **answer)


@requests.command()
@click.argument("request")
def cancel(request: str) -> None:
    """Take REQUEST back."""
    with control_plane() as remote:
        answer = remote.patch(_place(request, "cancel"))
    tell(f"{answer['id']} is {answer['status']}", **answer)


def _place(request: str, decision: str) -> str:
    return f"/budget/requests/{segment(request)}/{decision}"
