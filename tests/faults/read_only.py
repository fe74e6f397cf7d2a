"""A database that may only be read: at the start of a server, and from some moment on."""

from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.faults.told import Refusal

READ_ONLY: Final = Refusal((503, "SERVICE_UNAVAILABLE", "The database may only be read; nothing was written", "30"))
_MODES: Final = ((0o400, 0o700), (0o600, 0o500), (0o400, 0o500))
"""Of the file, and of its folder."""


@scenario(
    name="read-only at the start",
    made="the file, its folder, or both without write permission, which binds root here, too",
    seen="exit 3 of `ironcage serve`, “… Look whether … you may write to it”; `doctor` names what may not be written",
    recover="the-database-may-only-be-read",
)
def read_only_at_start(bench: Bench) -> Counts:
    """Take the permission away while the server is down, and give it back."""
    site = bench.site()
    with site.server, Load(site.server.port, site.agents).running() as load:
        load.wait_for(30)
        load.finish()
        site.server.stop()
    for file_mode, folder_mode in bench.rounds_of("read-only at the start", _MODES):
        before = site.database.read_bytes()
        _set_modes(site, file_mode, folder_mode)
        try:
            refused = site.run("serve", environ=site.server.environ, modes_bind=True)
            looked = site.run("doctor", "iron.db", modes_bind=True)
        finally:
            _set_modes(site, 0o600, 0o700)
        for done, code, said in ((refused, 3, "you may write to it"), (looked, 0, "may only be read")):
            assert (done.code, said in done.said, "Traceback" in done.said) == (code, True, False), done
        assert site.database.read_bytes() == before
    with site.server:
        site.check_reads()
        books.recount(site)
        site.server.stop()
    site.verify()
    return Counts(len(_MODES), books.check(site, load.told, is_over=True), 1)


def _set_modes(site: Site, file_mode: int, folder_mode: int) -> None:
    site.database.chmod(file_mode)
    site.folder.chmod(folder_mode)


@scenario(
    name="read-only while serving",
    made="SQLite refuses every write from some moment on, as on a disk that was remounted read-only, under load",
    seen="503 `SERVICE_UNAVAILABLE`, `Retry-After: 30`, “The database may only be read …”; reads work",
    recover="the-database-may-only-be-read",
)
def read_only_while_serving(bench: Bench) -> Counts:
    """Let the writer's connection write no more, and let it write again."""
    site = bench.site()
    hands = site.server.with_hands()
    faults = bench.some(2, 10)
    with site.server, Load(site.server.port, site.agents).running() as load:
        for _ in bench.rounds("read-only while serving", faults):
            load.wait_for(20)
            hands.sql("PRAGMA query_only = ON")
            load.wait_for_refusals(10)
            site.check_reads()
            hands.sql("PRAGMA query_only = OFF")
        load.wait_for(20)
        load.finish()
        books.recount(site)
        site.server.stop()
    assert set(load.refused) == {READ_ONLY}, load.refused
    site.verify()
    return Counts(faults, books.check(site, load.told, is_over=True), 1)
