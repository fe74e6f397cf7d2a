"""`ironcage projects`: projects made, looked at, changed and removed, and the provider keys they have."""

from typing import Any, Final

import click

from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_http.commands.changes import Clearable, changed, given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import identify, listing, place_of, segment, showing
from ironcage_http.commands.screen import Column, instant, money, show_record, tell

_FEW: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("agents", "agent_count"),
    Column("users", "user_count"),
    Column("provider keys", "provider_count"),
    Column("created", "created_at", instant),
)
_ALL: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("description", "description"),
    Column("owner", "owner_id"),
    Column("agents", "agent_count"),
    Column("users", "user_count"),
    Column("provider keys", "provider_count"),
    Column("budget of its agents", "total_budget", money),
    Column("spent by its agents", "total_spent", money),
    Column("counted", "scope"),
    Column("created", "created_at", instant),
    Column("changed", "updated_at", instant),
)
_KEY: Final = (
    Column("project", "project_id"),
    Column("provider key", "provider_key_id"),
    Column("provider", "provider"),
    Column("assigned", "assigned_at", instant),
    Column("in the place of", "replaced_key_id"),
)


@click.group(cls=RemoteGroup)
def projects() -> None:
    """Make, look at, change and remove projects, and give them provider keys.

    PROJECT is a name or an id.
    """


projects.add_command(listing("/projects", _FEW, "List the projects that you may see.", filters=("name",)))
projects.add_command(showing("/projects/{project}", _ALL, "Show a project, with what is in it."))


@projects.command()
@click.argument("name")
@click.option("--description")
@click.option("--owner", help="A user, by name or id; you if there is none.")
def create(name: str, owner: str | None, **rest: Any) -> None:  # noqa: ANN401 - options
    """Make a project NAME."""
    with control_plane() as remote:
        owner_id = None if owner is None else identify(remote, "user", owner)
        made = remote.post("/projects", name=name, owner_id=owner_id, **given(rest))
    show_record(made, _ALL)


@projects.command()
@click.argument("project")
@click.option("--name")
@click.option("--description", type=Clearable(), help="An empty text takes it away.")
@click.option("--owner", help="A user, by name or id.")
def update(project: str, owner: str | None, **rest: Any) -> None:  # noqa: ANN401 - options
    """Change a project; what is not given stays as it is."""
    fields = changed({**rest, "owner_id": owner})
    with control_plane() as remote:
        path = place_of(remote, "project", project)
        if owner is not None:
            fields["owner_id"] = identify(remote, "user", owner)
        show_record(remote.ask("PUT", path, body=fields), _ALL)


@projects.command()
@click.argument("project")
@YES
def delete(project: str, is_sure: bool) -> None:
    """Remove a project that has no agent and no active API token."""
    confirm(f"Remove project {project}, its assignments of provider keys and its limits?", is_sure=is_sure)
    with control_plane() as remote:
        project_id = identify(remote, "project", project)
        remote.delete(f"/projects/{segment(project_id)}")
    tell(f"project {project} is deleted", project_id=project_id, deleted=True)


@projects.command()
@click.argument("project")
@click.argument("key", metavar="PROVIDER")
def assign(project: str, key: str) -> None:
    """Give a project a provider key, in the place of the one it has of that provider.

    PROVIDER is the name or the id of a key.
    """
    with control_plane() as remote:
        path = f"{place_of(remote, 'project', project)}/provider"
        answer = remote.post(path, provider_key_id=identify(remote, "provider_key", key))
    show_record(answer, _KEY)


@projects.command()
@click.argument("project")
@click.option("--provider", type=click.Choice(KNOWN_PROVIDERS), help="Only the one of this provider.")
@click.option("--provider-key", help="Only this one, by name or id.")
def unassign(project: str, provider: str | None, provider_key: str | None) -> None:
    """Take a project's provider keys away: all, if you do not say which."""
    with control_plane() as remote:
        project_id = identify(remote, "project", project)
        key_id = None if provider_key is None else identify(remote, "provider_key", provider_key)
        remote.delete(f"/projects/{segment(project_id)}/provider", provider=provider, provider_key_id=key_id)
    which = "every provider key" if provider is None and provider_key is None else f"the key {provider_key or provider}"
    tell(f"project {project} has lost {which}", project_id=project_id, unassigned=True)
