"""`ironcage watch`: what happens, as it happens, a line each.

Lines go out at once, so that a program may read them; what is to be known of the connection goes to standard error.
"""

import errno
import select
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from ironcage_core.domain.feed_filters import FEED_TYPES, SEVERITIES
from ironcage_core.domain.ids import is_id
from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.commands.control_plane import RemoteCommand, control_plane
from ironcage_http.commands.happenings import in_words
from ironcage_http.commands.listings import identify, place_of
from ironcage_http.commands.plain_text import plain
from ironcage_http.commands.screen import as_json, instant, show_line
from ironcage_http.commands.shell import Exit, Failure, needing, wants_json
from ironcage_http.feed_catalogue import EVENTS

if TYPE_CHECKING:
    from ironcage_http.feed_watching import Event, Note
    from ironcage_http.remote import Remote

_COLOURS: Final[Mapping[str, str]] = {"warning": "yellow", "critical": "red"}
_NAMELESS: Final = frozenset((403, 404))


@click.command(cls=RemoteCommand)
@click.option("--agent", "agents", multiple=True, help="Only of this agent, by name or id; may be repeated.")
@click.option(
    "--type", "types", type=click.Choice(FEED_TYPES, case_sensitive=False), multiple=True,
    help="Only messages of this type; may be repeated.",
)  # fmt: skip
@click.option(
    "--event", "events", type=click.Choice(sorted(EVENTS)), multiple=True,
    help="Of the agents' events only this one; may be repeated.",
)  # fmt: skip
@click.option("--min-severity", type=click.Choice(SEVERITIES), help="Of the alerts only those at least so urgent.")
@click.option("--since", metavar="EVENT_ID", help="Start with what came after this event.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many events.")
def watch(
    agents: Sequence[str],
    types: Sequence[str],
    events: Sequence[str],
    min_severity: str | None,
    since: str | None,
    count: int | None,
) -> None:
    """Follow what happens, as it happens, until Ctrl-C.

    A connection that breaks is opened again, and goes on after the last event.
    """
    if since is not None and not is_id(since, "evt"):
        raise click.UsageError(f"{since} is no id of an event, such as those of ironcage watch --json")
    with control_plane() as remote:
        if remote.login is None:
            raise Failure(Exit.LOGIN, f"You are not logged in to {remote.url}: run ironcage login", code="NO_LOGIN")
        filters: dict[str, object] = {"types": types, "events": events, "min_severity": min_severity}
        filters["agent_ids"] = [identify(remote, "agent", each) for each in agents]
        _follow(remote, {name: value for name, value in filters.items() if value}, since, count)


def _follow(remote: "Remote", filters: Mapping[str, object], since: str | None, count: int | None) -> None:
    with needing("cli"):
        from ironcage_http.feed_watching import FeedWatch  # noqa: PLC0415 - a bare install has no websockets
    feed = FeedWatch(remote, filters, since, note=_tell, idle=_check_that_somebody_reads)
    names = _Names(remote)
    try:
        with closing(feed.events()) as happening:
            for event in islice(happening, count):
                show_line(event) if wants_json() else _show(event, names)
    except KeyboardInterrupt:
        rest = "" if feed.position is None else f" To go on from here: ironcage watch --since {feed.position}"
        raise Failure(
            Exit.INTERRUPTED, f"Stopped.{rest}", code="INTERRUPTED", details={"last_event_id": feed.position}
        ) from None


class _Names:
    """The names of agents, asked for when they are needed."""

    def __init__(self, remote: "Remote") -> None:
        self._remote = remote
        self._known: dict[str, str] = {}

    def of(self, agent_id: str) -> str:
        """Return an agent's name; its id where nobody tells."""
        if agent_id not in self._known:
            try:
                self._known[agent_id] = self._remote.get(place_of(self._remote, "agent", agent_id))["name"]
            except AnsweredError as refused:
                if refused.status in _NAMELESS:
                    self._known[agent_id] = agent_id
            except NoAnswerError:
                pass  # the next event asks again
        return self._known.get(agent_id, agent_id)


def _show(event: "Event", names: _Names) -> None:
    agent_id: Any = event.get("agent_id")
    who = "-" if agent_id is None else names.of(agent_id)
    line = f"{instant(event['timestamp'])}  {who:<20}  {in_words(event)}"
    click.secho(plain(line), fg=_COLOURS.get(event.get("severity", "")))


def _tell(note: "Note") -> None:
    if wants_json():
        click.echo(as_json({"note": note.text, "code": note.code}), err=True)
    else:
        click.echo(plain(note.text), err=True)


def _check_that_somebody_reads() -> None:
    """End as a write would, where the next one may be long in coming.

    Raises:
        BrokenPipeError: Standard output is a pipe that nobody reads.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file
        return
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(0):
        raise BrokenPipeError(errno.EPIPE, "nobody reads")
