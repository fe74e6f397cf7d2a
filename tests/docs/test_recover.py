"""The page for what broke: its commands, each after the accident it is for, on one control plane."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from ironcage_core.domain.money import parse_usd
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_lending import Sealing
from ironcage_http.secrets_file import secrets_beside
from ironcage_http.server import free_port
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.readers import Reader, Screen, commands_of, same

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "recover.md").read_text()
NUMBER: Final = re.compile(r"\b\d+ (agents|leases|ledger|audit)")
PASSWORD: Final = "a password of my own"
TOLD: Final = {
    "The server was killed",
    "The disk is full",
    "The database may only be read",
    "Another program holds the database",
    "A command was killed",
    "The file is damaged",
    "The secrets file is lost",
    "No admin can log in",
    "The clock has jumped",
    "A provider key leaked",
    "An IC token leaked",
    "An API token or a session leaked",
    "The master key leaked",
}


class House:
    """A control plane in which things break: its folder, its server, and who follows the page."""

    def __init__(self, folder: Path, port: str, terminals: ExitStack) -> None:
        self.reader = Reader(folder, port)
        self.url = f"http://127.0.0.1:{port}"
        self.file = folder / "iron.db"
        self.server: Screen | None = None
        self._terminals = terminals

    def serve(self) -> Screen:
        """Start the server, and wait until it answers."""
        self.server = self._terminals.enter_context(self.reader.staying("ironcage serve"))
        self.server.wait_for("ironcage answers at")
        return self.server

    def furnish(self) -> None:
        """Log the admin in, and make a key and an agent with a lease, and a backup of all of it."""
        first = re.findall(r"password (\S+) ", "".join(self.serve().lines))[0]
        for name, content in (("first", first), ("password", PASSWORD), ("key", "sk-again"), ("new-key", "sk-new")):
            (self.reader.folder / name).write_text(content)
        self.reader.run(f"ironcage login {self.url} -u admin --password-file first --new-password-file password")
        self.reader.run("echo sk-old | ironcage providers add openai --name openai-1 --key-file -")
        self.reader.run("ironcage agents create researcher --budget 1 --provider openai-1 --token-out token")
        self._lend()
        self.reader.run("ironcage backup iron.db backup.db")

    def _lend(self) -> None:
        """Take a lease behind the server's back."""
        secrets = secrets_beside(self.file, may_create=False)
        assert secrets is not None
        token = (self.reader.folder / "token").read_text()
        presented = IcTokenSigner(secrets.ic_token_secret).prove(token.strip(), now=SystemClock().now())
        sealing = Sealing(AesGcmVault(secrets.master_key), IpTokenSealer())
        asked = HandshakeRequest(requested=parse_usd("0.5", field="requested"))
        with SqliteStore(self.file) as store:
            store.write(lambda uow: handshake(uow, authenticate(uow, presented), asked, sealing=sealing))

    def kill(self) -> None:
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait()

    def damage(self) -> None:
        """Overwrite pages in the middle of the file."""
        with self.file.open("r+b") as file:
            file.seek(40_960)
            file.write(bytes(20_000))

    def lose_secrets(self) -> None:
        """And start the server, which makes new ones."""
        self.file.with_name("iron.db.secrets").unlink()
        self.serve()


ACCIDENTS: Final[dict[str, tuple[Callable[[House], object], str, int]]] = {
    "The server was killed": (House.kill, "ironcage whoami", 6),
    "The file is damaged": (House.damage, "ironcage verify iron.db", 3),
    "The secrets file is lost": (House.lose_secrets, "ironcage doctor iron.db", 1),
}
"""What happens before a section is followed, and which command shows it by which exit."""


def sections() -> Iterator[tuple[str, str]]:
    for part in PAGE.split("\n## "):
        title, _, text = part.partition("\n")
        yield title, text


def test_each_command_of_the_page_does_what_it_says_after_its_accident(tmp_path: Path) -> None:
    """In the order of the page; where it shows what is printed, that is printed."""
    port = str(free_port("127.0.0.1"))
    with ExitStack() as terminals:
        house = House(tmp_path, port, terminals)
        house.furnish()
        for title, text in sections():
            if title in ACCIDENTS:
                happen, command, code = ACCIDENTS[title]
                happen(house)
                assert house.reader.ends(command) == code
            for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
                for command, printed in commands_of(block.replace("8080", port)):
                    said = house.reader.run(command)
                    assert not printed or counted(said) == counted(printed), command


def counted(text: str) -> str:
    """Return what is printed whatever the numbers of rows are."""
    return NUMBER.sub(r"(n) \1", same(text))


@pytest.mark.parametrize("title", sorted(TOLD))
def test_every_accident_has_a_section_that_says_what_to_do(title: str) -> None:
    """Each has its heading."""
    assert "**Do**" in dict(sections())[title]
