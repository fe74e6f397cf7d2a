"""`ironcage usage export`: what calls add up to by day or hour, as CSV or JSON for other programs.

A file is written whole or not at all, and no file is written over unless that is meant.
"""

from pathlib import Path
from typing import Any, Final

import click

from ironcage_http.commands.control_plane import RemoteGroup, control_plane
from ironcage_http.commands.listings import Reading, filled
from ironcage_http.commands.screen import as_json, show_json, show_text, tell
from ironcage_http.commands.shell import Exit, Failure, wants_json
from ironcage_http.commands.usage_filters import QUESTIONS
from ironcage_http.private_files import write_private


@click.group(cls=RemoteGroup)
def export() -> None:
    """Take usage or spending away as CSV or JSON, a row for each day, agent and model."""


def _exporting(what: str, summary: str) -> Reading:
    path = f"/analytics/export/{what}"

    def run(out: Path | None, is_sure: bool, **given: Any) -> None:  # noqa: ANN401 - options
        given["format"] = given["format"] or _format_of(out)
        _check(out, given["format"], is_sure=is_sure)
        with control_plane() as remote:
            answer = remote.ask("GET", filled(remote, path, given), query=given, may_be_text=True)
        if out is not None:
            _write(out, answer if isinstance(answer, str) else as_json(answer))
            tell(f"the {what} is in {out}", file=str(out), format=given["format"])
        elif isinstance(answer, str):
            show_text(answer)
        else:
            show_json(answer)

    return Reading(
        path, name=what, callback=run, params=_OPTIONS, help=summary, filters=(*QUESTIONS, "bucket", "format")
    )


_OPTIONS: Final = (
    click.Option(
        ["--out"],
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write into this file instead of standard output.",
    ),
    click.Option(["--yes", "is_sure"], is_flag=True, help="Write over a file that is there."),
)


def _format_of(out: Path | None) -> str:
    is_json = wants_json() if out is None else out.suffix == ".json"
    return "json" if is_json else "csv"


def _check(out: Path | None, written: str, *, is_sure: bool) -> None:
    """Refuse what would come to nothing before the server is asked, which remembers every export.

    Raises:
        click.UsageError: As its message says.
    """
    if out is None:
        if wants_json() and written != "json":
            raise click.UsageError("--json prints JSON: give --out for another format")
        return
    if out.exists() and not out.is_file():  # a device would be replaced by a file
        raise click.UsageError(f"{out} is no regular file: name another, or leave --out away for standard output")
    if out.exists() and not is_sure:
        raise click.UsageError(f"{out} is there already: give --yes to write over it, or name another file")
    if not out.parent.is_dir():
        raise click.UsageError(f"there is no folder {out.parent}")


def _write(out: Path, text: str) -> None:
    try:
        write_private(out, text.encode())
    except OSError as error:
        message = f"The export cannot be written to {out}: {error.strerror}"
        raise Failure(Exit.CANNOT, message, code="FILE_NOT_WRITTEN") from error


export.add_command(_exporting("usage", "Export calls and tokens."))
export.add_command(_exporting("spending", "Export what calls cost."))
