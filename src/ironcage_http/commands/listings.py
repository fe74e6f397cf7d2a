"""Lists and single records of the interface as commands: a path, its columns and its filters make one.

Whoever adds a list writes a line; paging, sorting and JSON are the same everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import click

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT, Prefix, is_id
from ironcage_http.commands.control_plane import RemoteCommand, control_plane
from ironcage_http.commands.plain_text import plain
from ironcage_http.commands.screen import Column, note, show_record, show_rows
from ironcage_http.commands.shell import Exit, Failure

if TYPE_CHECKING:
    from ironcage_http.remote import Remote

_PART: Final = re.compile(r"{(\w+)}")
_MOST: Final = 100
_PER_PAGE: Final = 50
_WELL_KNOWN: Final = frozenset((MASTER_PROJECT, ORPHANED_PROJECT))


class Named(NamedTuple):
    """What may be named by its name as well as by its id.

    Args:
        prefix: Of its ids.
        path: Where it is listed.
        word: What it is, for a person.
        code: Of the refusal that there is none.
        field: Which field its name is.
        parameter: Which parameter of the list finds names.
    """

    prefix: Prefix
    path: str
    word: str
    code: str
    field: str = "name"
    parameter: str = "name"


BY_NAME: Final[Mapping[str, Named]] = {
    "agent": Named("agent", "/agents", "agent", "AGENT_NOT_FOUND"),
    "project": Named("proj", "/projects", "project", "PROJECT_NOT_FOUND"),
    "provider_key": Named("prov", "/providers", "provider key", "PROVIDER_NOT_FOUND"),
    "user": Named("user", "/users", "user", "USER_NOT_FOUND", "username", "search"),
}
"""What may be named by name, by the name of its part in a path."""

_NAMED_IN_A_FILTER: Final[Mapping[str, str]] = {
    "agent_id": "agent",
    "project_id": "project",
    "provider_id": "provider_key",
    "provider_key_id": "provider_key",
    "user_id": "user",
    "owner_id": "user",
    "requester_id": "user",
}

_ABOUT: Final[Mapping[str, str]] = {
    "name": "Only names that have this text in them.",
    "tag": "Only with this tag; several are all wanted.",
    "is_enabled": "true or false.",
    "period": "A stretch of time such as today, last-7-days or this-month.",
    "start_date": "From this date or RFC 3339 time on.",
    "end_date": "Until the end of this date, or before this time.",
    "from": "From this date or RFC 3339 time on.",
    "to": "Until the end of this date, or before this time.",
    "bucket": "How much time a row is about, such as hour or day.",
    "group_by": "What the rows are split by.",
    "format": "csv or json.",
    "threshold": "Only agents that spent more than so many percent.",
}


class Reading(RemoteCommand):
    """A command that is one GET.

    Attributes:
        path: Of the route, below the base path, with its parts in braces.
        filters: The parameters of the route that are options.
        is_list: Whether it takes a page of a list.
        is_sorted: Whether it takes an order.
    """

    def __init__(
        self,
        path: str,
        *,
        filters: Sequence[str],
        is_list: bool = False,
        is_sorted: bool = False,
        **options: Any,  # noqa: ANN401 - click's
    ) -> None:
        arguments: list[click.Parameter] = [_argument(part) for part in _PART.findall(path)]
        own = options.pop("params", ())
        super().__init__(params=[*arguments, *(_filter(each, filters) for each in filters), *own], **options)
        self.path = path
        self.filters = tuple(filters)
        self.is_list = is_list
        self.is_sorted = is_sorted


def listing(
    path: str,
    columns: Sequence[Column],
    summary: str,
    *,
    name: str = "list",
    filters: Sequence[str] = (),
    is_sorted: bool = True,
) -> Reading:
    """Return a command that lists records.

    Args:
        path: Of the list, below the base path; `{agent}` in it is an argument, by name or id.
        columns: What is shown of each record.
        summary: What the command does, one sentence.
        name: Of the command.
        filters: Query parameters of the route; each becomes an option of that name.
        is_sorted: Whether the route takes an order.
    """

    def run(page: int, per_page: int, take_all: bool, **given: Any) -> None:  # noqa: ANN401 - options
        with control_plane() as remote:
            place = filled(remote, path, given)
            if take_all:
                answer = _all_of(remote, place, given)
            else:
                answer = remote.get(place, page=page, per_page=per_page, **given)
        show_rows(answer["data"], columns, whole=answer)
        told = answer.get("pagination")
        if told and told["total"] > len(answer["data"]):
            note(f"page {told['page']} of {told['total_pages']}, {told['total']} in all")

    params = []
    if is_sorted:
        params.append(click.Option(["--sort"], help="The order: a field, with - before it from the last to the first."))
    params += [
        click.Option(["--page"], type=click.IntRange(1), default=1, show_default=True),
        click.Option(["--per-page"], type=click.IntRange(1, _MOST), default=_PER_PAGE, show_default=True),
        click.Option(["--all", "take_all"], is_flag=True, help="Every page."),
    ]
    return Reading(
        path, name=name, callback=run, params=params, help=summary, filters=filters, is_list=True, is_sorted=is_sorted
    )


def showing(
    path: str, columns: Sequence[Column], summary: str, *, name: str = "show", filters: Sequence[str] = ()
) -> Reading:
    """Return a command that shows one record.

    Args:
        path: Of the record, below the base path; each `{part}` is an argument, those of `BY_NAME` by name or id.
        columns: What is shown of it.
        summary: What the command does, one sentence.
        name: Of the command.
        filters: Query parameters of the route; each becomes an option of that name.
    """

    def run(**given: Any) -> None:  # noqa: ANN401 - options
        with control_plane() as remote:
            answer = remote.get(filled(remote, path, given), **given)
        show_record(answer, columns)

    return Reading(path, name=name, callback=run, help=summary, filters=filters)


def _argument(part: str) -> click.Argument:
    return click.Argument([part], metavar="PROVIDER" if part == "provider_key" else None)


def _filter(name: str, beside: Sequence[str]) -> click.Option:
    """Return the option of a filter; one that names something is also spelled without its `_id`."""
    what = _NAMED_IN_A_FILTER.get(name)
    short = name.removesuffix("_id")
    spellings = [f"--{name.replace('_', '-')}"]
    if what is not None and short not in beside:
        spellings.insert(0, f"--{short.replace('_', '-')}")
    about = _ABOUT.get(name) if what is None else f"Only of this {BY_NAME[what].word}, by name or id."
    return click.Option([*spellings, name], multiple=name == "tag", help=about)


def filled(remote: "Remote", path: str, given: dict[str, Any]) -> str:
    """Return the path with its parts taken out of what was given, ids in the place of names."""
    for part in _PART.findall(path):
        value = given.pop(part)
        path = path.replace(f"{{{part}}}", segment(identify(remote, part, value)))
    for name, what in _NAMED_IN_A_FILTER.items():
        if given.get(name):
            given[name] = identify(remote, what, given[name])
    return path


def segment(text: str) -> str:
    """Return a text as one part of a path, whatever it holds; not even two dots lead out of it.

    Raises:
        click.UsageError: There is nothing in it.
    """
    if not text:
        raise click.UsageError("an id is needed, not an empty text")
    return quote(text, safe="").replace(".", "%2E")


def identify(remote: "Remote", what: str, text: str) -> str:
    """Return the id of what somebody named by its name or its id.

    Args:
        remote: Whom to ask.
        what: A key of `BY_NAME`; anything else goes by its id alone.
        text: The id or the name.

    Raises:
        Failure: Nothing, or more than one thing, has that name.
    """
    if what not in BY_NAME or is_id(text, BY_NAME[what].prefix) or (what == "project" and text in _WELL_KNOWN):
        return text
    kind = BY_NAME[what]
    found = _all_of(remote, kind.path, {kind.parameter: text})["data"] if text else ()
    named = list(dict.fromkeys(str(each["id"]) for each in found if each[kind.field] == text))
    if len(named) == 1:
        return named[0]
    if named:
        message = f"{len(named)} {kind.word}s are named {plain(text)}: {' '.join(named)}"
        raise Failure(Exit.USAGE, message, code="AMBIGUOUS_NAME", details={"ids": named})
    raise Failure(Exit.REFUSED, f"There is no {kind.word} {plain(text)}", code=kind.code)


def place_of(remote: "Remote", what: str, text: str) -> str:
    """Return the path of what somebody named by its name or its id."""
    return f"{BY_NAME[what].path}/{segment(identify(remote, what, text))}"


def _all_of(remote: "Remote", path: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """Return every record of a list as one answer."""
    data: list[Any] = []
    page = 0
    while True:
        page += 1
        answer = remote.get(path, page=page, per_page=_MOST, **query)
        data += answer["data"]
        if not answer["data"] or page >= answer["pagination"]["total_pages"]:
            count = len(data)
            return {"data": data, "pagination": {"page": 1, "per_page": count, "total": count, "total_pages": 1}}
