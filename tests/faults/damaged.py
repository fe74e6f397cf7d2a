"""A file whose bytes are not what was written: found at the start, on the way, or by `verify`, and never believed."""

from collections.abc import Sequence
from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.faults.told import Told

_PAGE: Final = 4096
_TABLES: Final = ("ledger", "leases", "usage_records", "agent_budgets")
_BACKUP: Final = "backup.db"


def _worked(bench: Bench) -> tuple[Site, Told]:
    """Return a site where runtimes have worked, stopped, and with a backup of all of it."""
    site = bench.site()
    with site.server, Load(site.server.port, site.agents).running() as load:
        load.wait_for(60)
        load.finish()
        site.server.stop()
    assert site.run("backup", "iron.db", _BACKUP).code == 0
    return site, load.told


def _roots(site: Site, tables: Sequence[str]) -> list[int]:
    """Return where the trees of these tables begin in the file."""
    names = ", ".join(f"'{name}'" for name in tables)
    return [page for (page,) in site.rows(f"SELECT rootpage FROM sqlite_master WHERE name IN ({names})", _BACKUP)]


def _flip(site: Site, pages: Sequence[int]) -> None:
    """Turn over the bytes at the beginning of some pages."""
    with site.database.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * _PAGE)
            content = file.read(64)
            file.seek((page - 1) * _PAGE)
            file.write(bytes(each ^ 0xFF for each in content))


def _recover(site: Site, told: Told) -> None:
    """Do what docs/how-to/recover.md says, and look whether all is there that the backup had."""
    damaged = site.folder / "damaged"
    damaged.mkdir()
    for file in site.folder.glob("iron.db*"):
        file.rename(damaged / file.name)
    restored = site.run("restore", _BACKUP, "iron.db")
    assert restored.code == 0, restored.said
    site.verify()
    with site.server:
        site.check_reads()
        books.recount(site)
        site.server.stop()
    books.check(site, told, is_over=True)


@scenario(
    name="first page damaged",
    made="bytes of the first page turned over, while the server is down",
    seen="exit 3 of `ironcage serve`, “damaged”; exit 1 of `doctor`, exit 3 of `verify`; the file stays as it is",
    kept="writes that the backup has",
    recover="the-file-is-damaged",
)
def first_page_damaged(bench: Bench) -> Counts:
    """Nothing starts on such a file."""
    site, told = _worked(bench)
    _flip(site, [1])
    before = site.database.read_bytes()
    for command, code in (("serve", 3), ("doctor iron.db", 1), ("verify iron.db", 3)):
        done = site.run(*command.split(), environ=site.server.environ)
        assert (done.code, "damaged" in done.said, "Traceback" in done.said) == (code, True, False), done
    assert site.database.read_bytes() == before
    _recover(site, told)
    return Counts(1, told.count, 1)


@scenario(
    name="page damaged, server down",
    made="bytes of pages of the ledger, the leases, usage and balances turned over, while the server is down",
    seen="what meets them is answered 500 `INTERNAL_ERROR`, without a number; exit 1 of `doctor`, 3 of `verify`",
    kept="writes that the backup has",
    recover="the-file-is-damaged",
)
def page_damaged_server_down(bench: Bench) -> Counts:
    """Start on it, and ask for what was there."""
    site, told = _worked(bench)
    _flip(site, _roots(site, _TABLES))
    with site.server:
        _check_answers(site)
        site.server.kill()
    _check_found(site)
    _recover(site, told)
    return Counts(len(_TABLES), told.count, 1)


@scenario(
    name="page damaged, server running",
    made="the same under a running server that has not read those pages yet",
    seen="500 `INTERNAL_ERROR` of what meets them, and “damaged” in the log; `/api/health` answers",
    kept="writes that the backup has",
    recover="the-file-is-damaged",
)
def page_damaged_server_running(bench: Bench) -> Counts:
    """Damage the file of a server that has just started, and ask it."""
    site, told = _worked(bench)
    with site.server:
        _flip(site, _roots(site, _TABLES))
        _check_answers(site)
        site.server.kill()
    _check_found(site)
    _recover(site, told)
    return Counts(len(_TABLES), told.count, 1)


@scenario(
    name="a byte of a row changed",
    made="a letter in a row of the audit log, which SQLite cannot know was another one",
    seen="nothing, until `verify` says that the audit chain is broken (exit 1)",
    kept="writes that the backup has",
    recover="the-file-is-damaged",
)
def byte_of_a_row_changed(bench: Bench) -> Counts:
    """Only a sum over everything finds it."""
    site, told = _worked(bench)
    content = site.database.read_bytes()
    place = content.rindex(b"AGENT_CREATED")
    site.database.write_bytes(content[:place] + b"B" + content[place + 1 :])
    checked = site.run("verify", "iron.db")
    assert (checked.code, "audit chain" in checked.said) == (1, True), checked.said
    _recover(site, told)
    return Counts(1, told.count, 1)


def _check_answers(site: Site) -> None:
    """Every answer is that of a server that failed; none has a number in it."""
    headers = site.agents[0].headers
    asked = [site.server.ask("GET", "/budget", headers=headers)]
    asked.append(site.server.ask("POST", "/budget/handshake", {"requested_budget": 1}, headers))
    for reply in asked:
        assert (reply.status, reply.body["code"], reply.body["details"]) == (500, "INTERNAL_ERROR", {}), reply.raw
    assert site.server.ask("GET", "/health").status in {200, 503}
    assert "damaged" in site.server.said


def _check_found(site: Site) -> None:
    for command, code in (("doctor", 1), ("verify", 3)):
        done = site.run(command, "iron.db")
        assert (done.code, "Traceback" in done.said) == (code, False), done
        assert "restore" in done.said, done.said
