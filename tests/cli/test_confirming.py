"""The question before what cannot be undone, at a terminal; and a token that cannot be kept."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from ironcage_http.commands import confirming, shown_once
from ironcage_http.commands.shell import Failure
from tests.support.desk import Desk


@pytest.fixture
def _at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


@click.command()
def delete() -> None:
    confirming.confirm("Delete \x1b[8mit?", is_sure=False)
    click.echo("deleted")


@pytest.mark.usefixtures("_at_a_terminal")
@pytest.mark.parametrize("typed", ["y\n", "yes\n"])
def test_a_yes_is_needed_and_asked_for_beside_the_answer(typed: str) -> None:
    """On standard error, in plain text whatever a name holds."""
    result = CliRunner().invoke(delete, input=typed)

    assert (result.exit_code, result.stdout) == (0, "deleted\n")
    assert "Delete \N{REPLACEMENT CHARACTER}[8mit? [y/N]: " in result.stderr


@pytest.mark.usefixtures("_at_a_terminal")
@pytest.mark.parametrize("typed", ["n\n", "\n", ""], ids=["no", "enter", "end"])
def test_whatever_else_is_typed_nothing_is_done(typed: str) -> None:
    """Exit 130, like Ctrl-C; what is said next begins a line."""
    result = CliRunner().invoke(delete, input=typed, standalone_mode=False)

    assert isinstance(result.exception, Failure)
    assert (result.exception.exit_code, result.exception.code, result.stdout) == (130, "NOT_CONFIRMED", "")
    assert result.stderr.endswith("\n")


def test_a_token_that_cannot_be_written_says_to_make_another(
    admin_desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3: it is there, and nobody will ever see it; the empty file does not stay."""

    def full(_: Path, __: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shown_once, "write_private", full)
    file = tmp_path / "token"

    told = admin_desk.run("tokens", "create", "ci", "--token-out", file, "--json")

    assert (told.code, told.out, file.exists()) == (3, "", False)
    assert json.loads(told.err)["code"] == "TOKEN_NOT_WRITTEN"
    assert "(No space left on device): make another in its place" in json.loads(told.err)["error"]
