"""The tutorial, followed line by line: every command and program of the page, in its order, against a real server."""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ironcage_http.server import free_port
from tests.support.readers import Reader, Screen, commands_of, same

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "tutorial" / "capped-agent.md").read_text()
BLOCK: Final = re.compile(r"```(console|python|text)\n(.*?)```", re.DOTALL)
CHOSEN: Final = "a password of my own"


class Tutorial:
    """The page on its way: what was started stays until the end."""

    def __init__(self, reader: Reader, terminals: ExitStack) -> None:
        self.reader = reader
        self._terminals = terminals
        self._password = ""
        self._feed: Screen | None = None

    def follow(self, kind: str, block: str) -> None:
        """Do what a block of the page tells to do, and compare what it shows."""
        if kind == "python":  # its first line says how to name it
            (self.reader.folder / block.partition("\n")[0].removeprefix("# ")).write_text(block)
        elif kind == "text":
            self._compare_feed(block)
        else:
            for command, printed in commands_of(block):
                self._do(command, printed)

    def _do(self, command: str, printed: str) -> None:
        if command == "make run":
            self._serve(*printed.split("\n", 1))
        elif command.startswith("ironcage login"):
            typed = {"Username: ": ["admin"], "assword: ": [self._password, CHOSEN], "mation: ": [CHOSEN]}
            assert same(self.reader.type(command, typed)) == same(printed)
        elif command.endswith("provider.py"):
            self._start(command)
        elif "ironcage watch" in command:
            self._feed = self._start(command)
            assert same(self._feed.wait(lines=1)) == same(printed)
        elif not command.startswith("export PATH"):
            assert same(self.reader.run(command)) == same(printed), command

    def _serve(self, command: str, printed: str) -> None:
        said = self._start(command).wait(lines=2)
        assert same(said) == same(printed)
        self._password = re.findall(r"password (\S+) ", said)[0]

    def _start(self, command: str) -> Screen:
        return self._terminals.enter_context(self.reader.staying(command))

    def _compare_feed(self, block: str) -> None:
        assert self._feed is not None
        told = self._feed.wait(lines=1 + block.count("\n"))
        assert same(told.partition("\n")[2]) == same(block)


def test_the_tutorial_goes_as_it_says(tmp_path: Path) -> None:
    """Nothing is left out: what the page prints is what is printed."""
    ports = {"8080": str(free_port("127.0.0.1")), "9000": str(free_port("127.0.0.1"))}
    page = re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[0]], PAGE)
    with ExitStack() as terminals:
        tutorial = Tutorial(Reader(tmp_path, ports["8080"]), terminals)
        for kind, block in BLOCK.findall(page):
            tutorial.follow(kind, block)


def test_make_run_is_what_the_tutorial_says_it_runs() -> None:
    """The target of the Makefile; the server is started without make here."""
    makefile = (ROOT / "Makefile").read_text()

    assert "\nrun: $(READY)\n\t$(BIN)/ironcage serve\n" in makefile
    assert "$ make run\n.venv/bin/ironcage serve\n" in PAGE
