"""Readers: somebody types the commands of a page, in a folder and an environment of the reader's own.

What a reader sees otherwise than the page says is made the same in both: ids, times, passwords that are made up.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tests.support.terminal import piece_of

PATIENCE_S: Final = 60.0

OURS: Final = (
    (re.compile(r"\b(user|agent|prov|ict|lease)_[0-9a-f]{32}"), r"\1_(id)"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "(time)"),
    (re.compile(r"password \S{24} "), "password (password) "),
    (re.compile(r"[ \r]+$", re.MULTILINE), ""),
)
"""What differs from run to run, and what stands for it."""


def same(text: str) -> str:
    """Return a text as every reader sees it."""
    for pattern, sign in OURS:
        text = pattern.sub(sign, text)
    return text.strip()


class Screen:
    """What a process that stays has said so far; read by a thread, so that it never waits for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        self.lines.extend(stream)

    def wait(self, *, lines: int) -> str:
        """Return the first so many lines, once they are there."""
        ends_at = time.monotonic() + PATIENCE_S
        while len(self.lines) < lines:
            assert time.monotonic() < ends_at, "".join(self.lines)
            time.sleep(0.02)
        return "".join(self.lines[:lines])

    def wait_for(self, words: str) -> None:
        """Wait until something is said."""
        count = 1
        while words not in self.wait(lines=count):
            count += 1

    def end(self) -> None:
        """End it as Ctrl-C does, if it runs still."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Reader:
    """Whoever follows the page: a folder, an environment, and what runs in other terminals."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        tools = str(Path(sys.executable).parent)
        self.env: Mapping[str, str] = {
            **kept,
            "PATH": f"{tools}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "IRON_CONFIG_DIR": str(folder / "login"),
            "SERVER_PORT": port,
            "PYTHONUNBUFFERED": "1",
        }
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(tools)

    def run(self, command: str) -> str:
        """Run a command to its end, and return what it says; it must succeed."""
        done = self._done(command)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def ends(self, command: str) -> int:
        """Run a command to its end, and return how it ended."""
        return self._done(command).returncode

    def _done(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the commands of our own page
            ["bash", "-c", command],  # noqa: S607 - the shell of the reader
            cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    @contextmanager
    def staying(self, command: str) -> Iterator[Screen]:
        """Start a command that stays, as in a terminal of its own; Ctrl-C ends it."""
        process = subprocess.Popen(  # noqa: S603 - the commands of our own page
            ["bash", "-c", f"exec {command}"],  # noqa: S607 - the shell of the reader
            cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        screen = Screen(process)
        try:
            yield screen
        finally:
            screen.end()

    def type(self, command: str, answers: Mapping[str, list[str]]) -> str:
        """Run a command that asks at a terminal, and return the screen; what is typed without an echo is not on it."""
        ours, its = pty.openpty()
        process = subprocess.Popen(  # noqa: S603 - the commands of our own page
            ["bash", "-c", f"exec {command}"],  # noqa: S607 - the shell of the reader
            cwd=self.folder, env=self.env, stdin=its, stdout=its, stderr=its, start_new_session=True,
        )  # fmt: skip
        os.close(its)
        shown, asked = b"", b""
        while piece := piece_of(ours):
            shown, asked = shown + piece, asked + piece
            for prompt, lines in answers.items():
                if asked.endswith(prompt.encode()):
                    time.sleep(0.1)  # for what it does between asking and listening
                    os.write(ours, lines.pop(0).encode() + b"\n")
                    asked = b""
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0, shown
        return shown.decode()


def commands_of(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a block of a terminal, each with what the page says it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed
