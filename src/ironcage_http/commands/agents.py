"""`ironcage agents`: agents made, looked at, changed, stopped and deleted, and the provider keys they may be lent."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ironcage_http.commands.agent_tokens import token
from ironcage_http.commands.amounts import USD
from ironcage_http.commands.changes import Clearable, changed, given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, place_of, segment, showing
from ironcage_http.commands.screen import (
    Column,
    instant,
    milliseconds,
    money,
    percent,
    several,
    show_record,
    show_rows,
    tell,
    yes,
)
from ironcage_http.commands.shown_once import TOKEN_OUT, token_place

if TYPE_CHECKING:
    from ironcage_http.remote import Remote

_FEW: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("runtime", "runtime_status"),
    Column("budget", "budget", money),
    Column("remaining", "remaining", money),
)
_ALL: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("description", "description"),
    Column("tags", "tags", several),
    Column("owner", "owner_id"),
    Column("project", "project_id"),
    Column("provider keys", "providers", several),
    Column("status", "status"),
    Column("runtime", "runtime_status"),
    Column("budget", "budget", money),
    Column("spent", "spent", money),
    Column("held by leases", "held", money),
    Column("remaining", "remaining", money),
    Column("used", "percent_used", percent),
    Column("IC token", "ic_token.id"),
    Column("IC token used", "ic_token.last_used_at", instant),
    Column("created", "created_at", instant),
    Column("changed", "updated_at", instant),
)
_STATUS: Final = (
    Column("agent", "agent_id"),
    Column("status", "status"),
    Column("runtime", "runtime_status"),
    Column("held by a stop", "stop_hold", yes),
    Column("failure", "failure_reason"),
    Column("in this state since", "state_changed_at", instant),
    Column("budget", "budget.total", money),
    Column("spent", "budget.spent", money),
    Column("held by leases", "budget.held", money),
    Column("remaining", "budget.remaining", money),
    Column("used", "budget.percent_used", percent),
    Column("requests", "requests.total"),
    Column("requests today", "requests.today"),
    Column("requests of the last hour", "requests.last_hour"),
    Column("last request", "last_request_at", instant),
)
_METRICS: Final = (
    Column("agent", "agent_id"),
    Column("status", "status"),
    Column("runtime", "runtime_status"),
    Column("requests", "requests.total"),
    Column("succeeded", "requests.succeeded"),
    Column("failed", "requests.failed"),
    Column("input tokens", "tokens.input"),
    Column("output tokens", "tokens.output"),
    Column("tokens", "tokens.total"),
    Column("cost of its calls", "cost_usd", money),
    Column("spent of its budget", "budget_spent", money),
    Column("average duration", "avg_duration_ms", milliseconds),
    Column("personal data found", "pii_detections"),
)
_KEYS: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("provider", "provider"),
    Column("status", "status"),
    Column("models", "models", several),
    Column("base URL", "base_url"),
)
_API_TOKENS: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("user", "user_id"),
    Column("active", "is_active", yes),
    Column("last used", "last_used_at", instant),
    Column("expires", "expires_at", instant),
)
_FILTERS: Final = ("name", "status", "runtime_status", "tag", "owner_id", "project_id", "provider_id")


@click.group(cls=RemoteGroup)
def agents() -> None:
    """Make, look at, change, stop and delete agents.

    AGENT is a name or an id.
    """


agents.add_command(listing("/agents", _FEW, "List agents: an admin's are all.", filters=_FILTERS))
agents.add_command(showing("/agents/{agent}", _ALL, "Show an agent and its budget."))
agents.add_command(
    showing("/agents/{agent}/status", _STATUS, "Show how an agent stands: budget and latest calls.", name="status")
)
agents.add_command(
    showing("/agents/{agent}/metrics", _METRICS, "Show what an agent's calls add up to.", name="metrics")
)
agents.add_command(
    listing(
        "/agents/{agent}/tokens",
        _API_TOKENS,
        "List the API tokens that are bound to an agent.",
        name="api-tokens",
        is_sorted=False,
    )
)
agents.add_command(token)


@agents.command()
@click.argument("name")
@click.option("--budget", type=USD, required=True, help="What it may spend, in USD, such as 25 or 2.50.")
@click.option("--provider", "providers", multiple=True, help="A provider key, by name or id; the first is the primary.")
@click.option("--project", help="A project, by name or id; the master project if there is none.")
@click.option("--owner", help="A user, by name or id; you if there is none.")
@click.option("--description")
@click.option("--tag", "tags", multiple=True, help="May be given again.")
@TOKEN_OUT
def create(
    name: str,
    budget: Decimal,
    providers: tuple[str, ...],
    project: str | None,
    owner: str | None,
    token_out: Path | None,
    **rest: Any,  # noqa: ANN401 - options
) -> None:
    """Make an agent NAME with its budget and its IC token, which is shown this once."""
    with token_place(token_out) as place:
        with control_plane() as remote:
            fields = {"name": name, "budget": budget, **given(rest), **_references(remote, project, owner)}
            fields["providers"] = _key_ids(remote, providers)
            made = remote.ask("POST", "/agents", body=fields)
        place.show(made, _ALL, made["ic_token"]["token"])


def _references(remote: "Remote", project: str | None, owner: str | None) -> dict[str, str]:
    """Return the fields of a body that refer to a project and a user, where they are given."""
    found = (("project_id", "project", project), ("owner_id", "user", owner))
    return {field: identify(remote, what, text) for field, what, text in found if text is not None}


def _key_ids(remote: "Remote", texts: tuple[str, ...]) -> list[str]:
    return [identify(remote, "provider_key", text) for text in texts if text]


@agents.command()
@click.argument("agent")
@click.option("--name")
@click.option("--description", type=Clearable(), help="An empty text takes it away.")
@click.option("--tag", "tags", multiple=True, help="All its tags from now on; an empty text alone takes them away.")
@click.option("--project", help="A project, by name or id.")
@click.option("--owner", help="A user, by name or id.")
@click.option("--status", type=click.Choice(["active", "inactive"]), help="What is inactive gets no money.")
def update(agent: str, project: str | None, owner: str | None, **rest: Any) -> None:  # noqa: ANN401 - options
    """Change an agent; what is not given stays as it is.

    Only an admin changes project, owner and status. The budget is changed by `ironcage budget set`, the provider keys
    by `ironcage agents providers`.
    """
    fields = changed({**rest, "project_id": project, "owner_id": owner})
    with control_plane() as remote:
        path = place_of(remote, "agent", agent)
        answer = remote.ask("PUT", path, body={**fields, **_references(remote, project, owner)})
    show_record(answer, _ALL)


@agents.command()
@click.argument("agent")
@click.option("--reason", help="Why, for the audit log.")
def stop(agent: str, reason: str | None) -> None:
    """Stop an agent until somebody starts it; its leases are revoked."""
    with control_plane() as remote:
        answer = remote.post(f"{place_of(remote, 'agent', agent)}/stop", reason=reason)
    what = f"agent {agent} is {answer['runtime_status']}, and gets no lease until it is started"
    tell(f"{what}; {answer['leases_revoked']} leases were revoked", **answer)


@agents.command()
@click.argument("agent")
def start(agent: str) -> None:
    """Let an agent get leases again; starts no process."""
    with control_plane() as remote:
        answer = remote.ask("POST", f"{place_of(remote, 'agent', agent)}/start")
    tell(f"agent {agent} is {answer['runtime_status']}, and may get a lease", **answer)


@agents.command()
@click.argument("agent")
@YES
def delete(agent: str, is_sure: bool) -> None:
    """Delete an agent and its tokens; its leases are revoked, its books stay."""
    confirm(f"Delete agent {agent} and its tokens, and revoke its leases?", is_sure=is_sure)
    with control_plane() as remote:
        agent_id = identify(remote, "agent", agent)
        remote.delete(f"/agents/{segment(agent_id)}")
    tell(f"agent {agent} is deleted", agent_id=agent_id, deleted=True)


@agents.command()
@click.argument("agent")
@click.option(
    "--set",
    "keys",
    multiple=True,
    help="All its keys from now on, by name or id, the primary one first; an empty text alone takes them away.",
)
@click.option("--remove", "removed", help="Take this one away, by name or id.")
def providers(agent: str, keys: tuple[str, ...], removed: str | None) -> None:
    """List the provider keys that an agent may be lent, the primary one first, or change them."""
    if keys and removed is not None:
        raise click.UsageError("give --set or --remove, not both")
    with control_plane() as remote:
        path = f"{place_of(remote, 'agent', agent)}/providers"
        if removed is not None:
            remote.delete(f"{path}/{segment(identify(remote, 'provider_key', removed))}")
        elif keys:
            remote.put(path, providers=_key_ids(remote, keys))
        answer = remote.get(path)
    show_rows(answer["providers"], _KEYS, whole=answer)
