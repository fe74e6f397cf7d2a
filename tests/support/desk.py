"""An operator's desk: the command line with a login of its own, before a control plane that runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ironcage_http.cli import main
from ironcage_http.logins import LoginFile
from ironcage_http.server import ApiServer
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import PASSWORD


@dataclass(frozen=True)
class Shown:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the JSON is
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """Everything on standard output with single blanks."""
        return " ".join(self.out.split())


@dataclass
class Desk:
    """A shell with a configuration folder of its own.

    Commands run in this process; the server they ask is `url`.
    """

    folder: Path
    url: str
    store: SqliteStore
    env: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env |= {
            "IRON_CONFIG_DIR": str(self.folder),
            "IRON_URL": None,
            "IRON_API_TOKEN": None,
            "DATABASE_URL": None,
        }

    @property
    def file(self) -> LoginFile:
        return LoginFile(self.folder)

    def run(self, *arguments: object, typed: str | None = None, env: Mapping[str, str | None] | None = None) -> Shown:
        """Run one command line."""
        given = [str(argument) for argument in arguments]
        result = CliRunner().invoke(main, given, input=typed, env={**self.env, **(env or {})})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Shown(result.exit_code, result.stdout, result.stderr)

    def ask(self, *arguments: object) -> Any:  # noqa: ANN401 - whatever the JSON is
        """Run a command that must succeed with `--json`, and return what it says."""
        shown = self.run(*arguments, "--json")
        assert shown.code == 0, shown.err
        return shown.json if shown.out else None

    def log_in(self, username: str, password: str = PASSWORD) -> None:
        """Log in as one of the users of `tests.support.web`."""
        shown = self.run("login", self.url, "-u", username, "--password-file", "-", typed=password)
        assert shown.code == 0, shown.err


@contextmanager
def desk_before(store: SqliteStore, folder: Path) -> Iterator[Desk]:
    """Serve a store, and set a desk up before it that nobody is logged in at."""
    with ApiServer(store) as server:
        yield Desk(folder, server.url, store)
