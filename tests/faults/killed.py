"""A server that is killed under load, again and again, on the same file."""

import random
from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site

FRESH_EVERY: Final = 5
"""Starts of the long form, of which one is an interpreter of its own."""


@scenario(
    name="server killed",
    made="SIGKILL of `ironcage serve` under mixed load, and a restart on the same file, again and again",
    seen="connections break, and commands end with exit 6, “does not answer”; once it runs again, the answer",
    recover="the-server-was-killed",
)
def server_killed(bench: Bench) -> Counts:
    """Kill it at moments that nothing marks, and compare the file each time before it is opened again."""
    draw = random.Random(bench.seed)  # noqa: S311 - a test that can be repeated
    site = bench.site()
    checks = 0
    with Load(site.server.port, site.agents).running() as load:
        for number in bench.rounds("server killed", bench.cycles):
            site.server.is_fresh = bench.is_long and number % FRESH_EVERY == 0
            with site.server:
                load.wait_for(draw.randint(5, 80))
                site.server.kill()
            if not number:
                _check_commands(site)
            checks += books.check(site, load.told.copy(), is_over=False) >= 0
        with site.server:
            load.wait_for(20)
            load.finish()
            books.recount(site)
            site.server.stop()
    assert not load.refused, load.refused
    assert load.lost_answers >= bench.cycles
    site.verify()
    return Counts(bench.cycles, books.check(site, load.told, is_over=True), checks + 1)


def _check_commands(site: Site) -> None:
    """A command that asks a server that is gone says so."""
    environ = {"IRON_URL": f"http://127.0.0.1:{site.server.port}", "IRON_API_TOKEN": "iron_none"}
    asked = site.run("whoami", environ=environ)
    assert (asked.code, "does not answer" in asked.said, "Traceback" in asked.said) == (6, True, False), asked
