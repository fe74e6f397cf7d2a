"""The site of a fault: a folder with a database, its server, and commands on both, each a process of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ironcage_core.domain.money import MICROS_PER_USD
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.settings import read_settings
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from tests.faults.hands import Hands
from tests.support.processes import ENVIRONMENT
from tests.support.provider_keys import OLD
from tests.support.servers import PATIENCE_S, RunningAgent, ServerProcess, free_port
from tests.support.web import API_KEY, people
from tests.support.world import ADMIN

SECRETS: Final = {
    "JWT_SECRET": "the signing secret of these tests, long enough",
    "IC_TOKEN_SECRET": "another signing secret, just as long as that",
    "IRON_SECRETS_MASTER_KEY": OLD.to_base64(),
}
ENVIRON: Final = {
    "DATABASE_URL": "sqlite:///iron.db",
    "IRON_RATE_LIMIT_ENABLED": "false",
    "IRON_METRICS_TOKEN": "",
    "PATH": os.defpath,
    **SECRETS,
}
START_S: Final = 80
BUDGET: Final = 1000 * MICROS_PER_USD
Environ = Mapping[str, str] | None


class Done(NamedTuple):
    """How a command has ended."""

    code: int
    said: str


class Forked(subprocess.Popen[bytes]):
    """A fork of the forge, to be handled as if it had been started here."""

    def __init__(self, forge: "Forge", pid: int) -> None:
        self._forge = forge
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = self.stdout = self.stderr = None
        self.args = ()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forge.ask({"poll": self.pid})["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (PATIENCE_S if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("ironcage", timeout or PATIENCE_S)
            time.sleep(0.005)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def __del__(self, _warn: object = None) -> None:
        """Leave it to the forge."""


class Forge:
    """Starts processes; use it as a context manager, and one for many scenarios."""

    def __init__(self) -> None:
        self._smith = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forge"],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, job: Mapping[str, object]) -> Any:  # noqa: ANN401 - what the forge answers
        assert self._smith.stdin is not None
        assert self._smith.stdout is not None
        self._smith.stdin.write(json.dumps(job) + "\n")
        self._smith.stdin.flush()
        answer = self._smith.stdout.readline()
        assert answer, "the forge has ended"
        return json.loads(answer)

    def start(
        self, argv: list[str], folder: Path, environ: Mapping[str, str], output: Path, **trouble: object
    ) -> Forked:
        """Start `ironcage` with these arguments, and with trouble that `forge.befall` knows."""
        job = {"argv": argv, "folder": str(folder), "environ": dict(environ), "output": str(output)}
        return Forked(self, self.ask({**job, "trouble": trouble})["pid"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._smith.communicate(timeout=PATIENCE_S)  # its forks die with it


class Server(ServerProcess):
    """`ironcage serve`, forged; use it as a context manager, again for a restart.

    `trouble` is what every start of it meets, see `forge.befall`. With `is_fresh` it is an interpreter of its own, and
    meets none.
    """

    def __init__(self, forge: Forge, folder: Path, **environ: str) -> None:
        super().__init__(folder, **{**ENVIRON, **environ})
        self._forge = forge
        self.is_fresh = False
        self.trouble: dict[str, object] = {}

    @property
    def _output(self) -> Path:
        return said_of(self.folder) / f"server-{self._starts}.txt"

    def launch(self) -> subprocess.Popen[bytes]:
        if self.is_fresh:
            return super().launch()
        self._starts += 1
        self._process = self._forge.start(["serve"], self.folder, self.environ, self._output, **self.trouble)
        return self._process

    def wait_until_it_answers(self) -> None:
        """Be patient: the machine may have much else to do."""
        until = time.monotonic() + START_S
        while True:
            try:
                return super().wait_until_it_answers()
            except AssertionError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise

    def with_hands(self) -> Hands:
        """Let every further start have hands inside, and return their other end."""
        self.trouble["hands"] = port = free_port()
        return Hands(port)

    def stop(self) -> None:
        """End it as an operator does; it must end well."""
        assert self.terminate() == 0, self.said


def said_of(folder: Path) -> Path:
    """Return where the output of a site's processes goes: beside it, for nobody may be able to write to it."""
    return folder.with_name(f"{folder.name}-said")


class Site:
    """A folder with a database, agents and a server to be.

    Args:
        forge: Starts its processes.
        folder: One that is not there yet.
        agents: How many there are.
    """

    def __init__(self, forge: Forge, folder: Path, *, agents: int = 2) -> None:
        said_of(folder).mkdir(parents=True)
        folder.mkdir()
        self.folder, self.forge = folder, forge
        self.database = folder / "iron.db"
        self.server = Server(forge, folder)
        self._commands = 0
        with SqliteStore(self.database) as store:
            people(store)
            self.agents = self._people(store, agents)

    def _people(self, store: SqliteStore, count: int) -> list[RunningAgent]:
        settings = read_settings(ENVIRON, folder=self.folder)
        assert settings.master_key is not None
        vault, signer = AesGcmVault(settings.master_key), IcTokenSigner(settings.ic_token_secret)
        owner = store.write(partial(add_user, username="owner", email="owner@test.io", role="user", actor=ADMIN))
        key = store.write(partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=vault))
        agents = []
        for number in range(count):
            create = partial(create_agent, name=f"worker-{number}", budget=BUDGET, owner_id=owner.id)
            made = store.write(partial(create, provider_key_ids=[key.id], actor=ADMIN, signer=signer))
            agents.append(RunningAgent(made.agent.id, made.ic_token.value))
        return agents

    # --- commands ------------------------------------------------------------

    def start(self, *arguments: object, environ: Environ = None, **trouble: object) -> tuple[Forked, Path]:
        """Start a command, and say where its output goes."""
        self._commands += 1
        output = said_of(self.folder) / f"command-{self._commands}.txt"
        surrounding = {**ENVIRON, "COLUMNS": "400", **(environ or {})}
        argv = [str(each) for each in arguments]
        return self.forge.start(argv, self.folder, surrounding, output, **trouble), output

    def run(self, *arguments: object, environ: Environ = None, **trouble: object) -> Done:
        """Run a command to its end."""
        process, output = self.start(*arguments, environ=environ, **trouble)
        code = process.wait(60)
        return Done(code, " ".join(output.read_text().split()))

    def kill_at(self, step: int, *arguments: object, environ: Environ = None) -> int:
        """Run a command that dies at a step, or lives for 0; return how many steps it took if it lived, else 0."""
        note = said_of(self.folder) / "steps.txt"
        note.unlink(missing_ok=True)
        done = self.run(*arguments, environ=environ, steps={"die_at": step, "note": str(note)})
        assert done.code == (-signal.SIGKILL if not note.exists() else 0), done
        return int(note.read_text()) if note.exists() else 0

    def check_reads(self) -> None:
        """Ask the server for a budget, which is nothing but reading."""
        reply = self.server.ask("GET", "/budget", headers=self.agents[0].headers)
        assert reply.status == 200, reply.raw

    def verify(self, database: str = "iron.db") -> None:
        """Let `ironcage verify` recompute everything; nothing may differ."""
        done = self.run("verify", database)
        assert (done.code, "everything adds up" in done.said) == (0, True), done.said

    def rows(self, sql: str, database: str = "iron.db") -> list[tuple[Any, ...]]:
        """Ask the file itself, without a line of ours in between."""
        with closing(sqlite3.connect(self.folder / database, timeout=PATIENCE_S)) as connection:
            return connection.execute(sql).fetchall()
