"""`ironcage api`: any request of the interface, with the stored login."""

import re
from typing import Any, Final, TextIO
from urllib.parse import parse_qsl

import click
import msgspec

from ironcage_http.commands.control_plane import RemoteCommand, control_plane
from ironcage_http.commands.screen import show_json, show_text

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BASE: Final = re.compile(r"^/?(api/v1/|api/)?")


@click.command(cls=RemoteCommand)
@click.argument("method", type=click.Choice(METHODS, case_sensitive=False))
@click.argument("path")
@click.option("-q", "--query", "queries", multiple=True, metavar="NAME=VALUE", help="A parameter of the query.")
@click.option(
    "-f",
    "--field",
    "texts",
    multiple=True,
    metavar="NAME=TEXT",
    help="A field of the body, as a text; a secret comes by --input.",
)
@click.option("-F", "--json-field", "values", multiple=True, metavar="NAME=JSON", help="A field of the body, as JSON.")
@click.option("--input", "source", type=click.File("rb"), help="The whole body, JSON, from a file; - standard input.")
@click.option("--idempotency-key", help="Makes repeating the request harmless, where the route takes one.")
def api(
    method: str,
    path: str,
    queries: tuple[str, ...],
    texts: tuple[str, ...],
    values: tuple[str, ...],
    source: TextIO | None,
    idempotency_key: str | None,
) -> None:
    """Send METHOD to PATH, such as /agents, and print the answer.

    The routes are those of docs/reference/http.md; a running server describes them at /api/docs. The base path may be
    left out.
    """
    body: Any = _body(source, texts, values)
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    place, _, in_path = path.partition("?")
    query: dict[str, list[str]] = {}
    for name, value in [*parse_qsl(in_path, keep_blank_values=True), *map(_pair, queries)]:
        query.setdefault(name, []).append(value)
    with control_plane() as remote:
        answer = remote.ask(
            method.upper(), _BASE.sub("/", place, count=1), query=query, body=body, headers=headers, may_be_text=True
        )
    if isinstance(answer, str):
        show_text(answer)
    elif answer is not None:
        show_json(answer)


def _body(source: Any, texts: tuple[str, ...], values: tuple[str, ...]) -> object:  # noqa: ANN401 - a binary file
    fields: dict[str, object] = dict(map(_pair, texts))
    fields |= {name: _json(value.encode(), name) for name, value in map(_pair, values)}
    if source is None:
        return fields or None
    if fields:
        raise click.UsageError("a body comes from --input or from fields, not from both")
    return _json(source.read(), "--input")


def _json(text: bytes, what: str) -> object:
    try:
        return msgspec.Raw(text) if msgspec.json.decode(text) is not None else None
    except ValueError as error:  # also bytes that are no text
        raise click.UsageError(f"{what}: not JSON ({error})") from None
    except RecursionError:
        raise click.UsageError(f"{what}: nests too deep") from None


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value
