"""`ironcage providers`: the keys of providers, taken in from a file or a prompt and never shown again."""

from typing import Any, Final, TextIO

import click

from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_http.commands.changes import Clearable, changed, given
from ironcage_http.commands.confirming import YES, confirm
from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import listing, place_of, showing
from ironcage_http.commands.screen import Column, instant, money, several, show_record, tell, yes
from ironcage_http.commands.secret_files import secret_of

_FEW: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("provider", "provider"),
    Column("status", "status"),
    Column("key", "masked_key"),
    Column("agents", "agent_count"),
    Column("last used", "last_used_at", instant),
)
_ALL: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("provider", "provider"),
    Column("key", "masked_key"),
    Column("enabled", "is_enabled", yes),
    Column("description", "description"),
    Column("base URL", "base_url"),
    Column("models", "models", several),
    Column("projects", "assigned_projects", several),
    Column("agents", "agent_count"),
    Column("created by", "created_by"),
    Column("created", "created_at", instant),
    Column("changed", "updated_at", instant),
    Column("last used", "last_used_at", instant),
)
_USED: Final = (
    *_ALL,
    Column("requests", "usage.total_requests"),
    Column("requests today", "usage.requests_today"),
    Column("spent", "usage.total_spend", money),
    Column("spent today", "usage.spend_today", money),
)
_PROVIDER: Final = click.argument("key", metavar="PROVIDER")
_KEY_FILE: Final = click.option(
    "--key-file", type=click.File(encoding="utf-8"), help="Read the API key from this file, - for standard input."
)
_WORD: Final = "API key"


@click.group(cls=RemoteGroup)
def providers() -> None:
    """Take in, change, renew and delete the API keys of providers.

    PROVIDER is the name or the id of a key. The key itself is never an argument, and never shown.
    """


providers.add_command(
    listing(
        "/providers",
        _FEW,
        "List provider keys, as far as your role may see them.",
        filters=("name", "provider", "status", "is_enabled"),
    )
)
providers.add_command(showing("/providers/{provider_key}", _USED, "Show a provider key and what it was used for."))


@providers.command()
@click.argument("provider", type=click.Choice(KNOWN_PROVIDERS))
@_KEY_FILE
@click.option("--name", help="Small letters, digits and hyphens; made up if not given.")
@click.option("--base-url", help="Where the provider is, if not where it always is.")
@click.option("--description")
@click.option("--model", "models", multiple=True, help="Only for this model; may be given again. Any if not given.")
@click.option("--disabled", is_flag=True, help="Lend it to nobody yet.")
def add(provider: str, key_file: TextIO | None, disabled: bool, **rest: Any) -> None:  # noqa: ANN401 - options
    """Take in an API key of a provider; without --key-file you are asked for it."""
    key = secret_of(key_file, _WORD, "--key-file")
    fields = {"provider": provider, "api_key": key, "is_enabled": not disabled, **given(rest)}
    with control_plane() as remote:
        show_record(remote.ask("POST", "/providers", body=fields), _ALL)


@providers.command()
@_PROVIDER
@click.option("--name")
@click.option("--description", type=Clearable(), help="An empty text takes it away.")
@click.option("--base-url", type=Clearable(), help="An empty text takes it away.")
@click.option("--model", "models", multiple=True, help="All its models from now on; an empty text alone means any.")
@click.option("--enabled/--disabled", "is_enabled", default=None, help="What is disabled is lent to nobody.")
def update(key: str, **options: Any) -> None:  # noqa: ANN401 - options
    """Change a provider key; what is not given stays as it is. Disabling it revokes the leases on it."""
    fields = changed(options)
    with control_plane() as remote:
        show_record(remote.ask("PUT", place_of(remote, "provider_key", key), body=fields), _ALL)


@providers.command()
@_PROVIDER
@_KEY_FILE
def rotate(key: str, key_file: TextIO | None) -> None:
    """Put a new API key in the place of an old one; without --key-file you are asked for it."""
    value = secret_of(key_file, _WORD, "--key-file")
    with control_plane() as remote:
        show_record(remote.put(place_of(remote, "provider_key", key), api_key=value), _ALL)


@providers.command()
@_PROVIDER
@YES
def delete(key: str, is_sure: bool) -> None:
    """Delete a provider key; nothing is assigned it any more, and the leases on it are revoked."""
    confirm(f"Delete provider key {key} from every agent and project, and revoke the leases on it?", is_sure=is_sure)
    with control_plane() as remote:
        gone = remote.delete(place_of(remote, "provider_key", key))
    counts = f"{gone['agents_count']} agents and {len(gone['projects_affected'])} projects had it"
    tell(f"provider key {gone['name']} is deleted; {counts}", **gone)
