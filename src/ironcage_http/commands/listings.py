"""Lists and single records of the interface as commands: a path, its columns and its filters make one.

Whoever adds a list writes a line; paging, sorting and JSON are the same everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from ironcage_core.domain.ids import Prefix, is_id
from ironcage_http.commands.control_plane import RemoteCommand, control_plane
from ironcage_http.commands.screen import Column, console, show_record, show_rows
from ironcage_http.commands.shell import Exit, Failure, wants_json

if TYPE_CHECKING:
    from ironcage_http.remote import Remote

_PART: Final = re.compile(r"{(\w+)}")
_MOST: Final = 100
_PER_PAGE: Final = 50

BY_NAME: Final[Mapping[str, tuple[Prefix, str, str]]] = {
    "agent": ("agent", "/agents", "agent"),
    "project": ("proj", "/projects", "project"),
}
"""What may be named by its name as well as its id: the prefix of its ids, where it is listed, what it is."""


def listing(
    path: str,
    columns: Sequence[Column],
    summary: str,
    *,
    name: str = "list",
    filters: Sequence[str] = (),
    is_sorted: bool = True,
) -> click.Command:
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
            place = _filled(remote, path, given)
            if take_all:
                answer = _all_of(remote, place, given)
            else:
                answer = remote.get(place, page=page, per_page=per_page, **given)
        show_rows(answer["data"], columns, whole=answer)
        told = answer.get("pagination")
        if told and not wants_json() and told["total"] > len(answer["data"]):
            console().print(f"page {told['page']} of {told['total_pages']}, {told['total']} in all")

    params: list[click.Parameter] = [click.Argument([part]) for part in _PART.findall(path)]
    params += [_option(each) for each in filters]
    if is_sorted:
        params.append(click.Option(["--sort"], help="The order: a field, with - before it from the last to the first."))
    params += [
        click.Option(["--page"], type=click.IntRange(1), default=1, show_default=True),
        click.Option(["--per-page"], type=click.IntRange(1, _MOST), default=_PER_PAGE, show_default=True),
        click.Option(["--all", "take_all"], is_flag=True, help="Every page."),
    ]
    return RemoteCommand(name, callback=run, params=params, help=summary)


def showing(
    path: str, columns: Sequence[Column], summary: str, *, name: str = "show", filters: Sequence[str] = ()
) -> click.Command:
    """Return a command that shows one record.

    Args:
        path: Of the record, below the base path; each `{part}` is an argument, `{agent}` and `{project}` by name or id.
        columns: What is shown of it.
        summary: What the command does, one sentence.
        name: Of the command.
        filters: Query parameters of the route; each becomes an option of that name.
    """

    def run(**given: Any) -> None:  # noqa: ANN401 - options
        with control_plane() as remote:
            answer = remote.get(_filled(remote, path, given), **given)
        show_record(answer, columns)

    params: list[click.Parameter] = [click.Argument([part]) for part in _PART.findall(path)]
    params += [_option(each) for each in filters]
    return RemoteCommand(name, callback=run, params=params, help=summary)


def _option(name: str) -> click.Option:
    return click.Option([f"--{name.replace('_', '-')}"], multiple=name == "tag")


def _filled(remote: "Remote", path: str, given: dict[str, Any]) -> str:
    """Return the path with its parts taken out of what was given, ids in the place of names."""
    for part in _PART.findall(path):
        value = given.pop(part)
        path = path.replace(f"{{{part}}}", segment(identify(remote, part, value)))
    for part in BY_NAME:
        if given.get(f"{part}_id"):
            given[f"{part}_id"] = identify(remote, part, given[f"{part}_id"])
    return path


def segment(text: str) -> str:
    """Return a text as one part of a path, whatever it holds."""
    return quote(text, safe="")


def identify(remote: "Remote", what: str, text: str) -> str:
    """Return the id of what somebody named by its name or its id.

    Args:
        remote: Whom to ask.
        what: A key of `BY_NAME`; anything else goes by its id alone.
        text: The id or the name.

    Raises:
        Failure: Nothing, or more than one thing, has that name.
    """
    if what not in BY_NAME or is_id(text, BY_NAME[what][0]):
        return text
    _, path, word = BY_NAME[what]
    named = [each["id"] for each in _all_of(remote, path, {"name": text})["data"] if each["name"] == text]
    if len(named) == 1:
        return str(named[0])
    if named:
        raise Failure(Exit.USAGE, f"{len(named)} {word}s are named {text}: {' '.join(named)}", code="AMBIGUOUS_NAME")
    raise Failure(Exit.REFUSED, f"There is no {word} {text}", code=f"{word.upper()}_NOT_FOUND")


def _all_of(remote: "Remote", path: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """Return every record of a list as one answer."""
    data: list[Any] = []
    page = 0
    while True:
        page += 1
        answer = remote.get(path, page=page, per_page=_MOST, **query)
        data += answer["data"]
        if page >= answer["pagination"]["total_pages"]:
            count = len(data)
            return {"data": data, "pagination": {"page": 1, "per_page": count, "total": count, "total_pages": 1}}
