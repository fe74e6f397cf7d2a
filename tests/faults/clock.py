"""A clock that jumps by hours, forward and back, under load."""

from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.support.servers import RunningAgent

HOUR_S: Final = 3600
_JUMPS_H: Final = (2, -5, 1.5, -1, 30, -27.5)
"""Forward beyond the life of a lease, back, over days, and home."""


@scenario(
    name="clock jumps",
    made="the clock of the server jumps by up to 30 hours, forward and back, under load",
    seen="forward, leases and logins are over early and new ones are taken; back, they live longer; nothing is refused",
    recover="the-clock-has-jumped",
)
def clock_jumps(bench: Bench) -> Counts:
    """Move the clock while runtimes work; then see one lease end by it, and one outlive its time."""
    site = bench.site(agents=3)
    *busy, watched = site.agents
    hands = site.server.with_hands()
    faults = bench.some(1, 5)
    with site.server, Load(site.server.port, busy, has_ends=True).running() as load:
        for _ in bench.rounds("clock jumps", faults):
            for hours in _JUMPS_H:
                load.wait_for(15)
                hands.jump(hours * HOUR_S)
        load.wait_for(15)
        load.finish()
        assert not load.refused, load.refused
        told = load.told
        lease = _lend(site, watched)
        hands.jump(-HOUR_S * 3)
        assert _is_open(site, watched, lease), "set back, the clock ends no lease"
        hands.jump(HOUR_S * 5)
        assert not _is_open(site, watched, lease), "set forward, it ends those whose time is over"
        told.grants[lease] = (watched.id, 1_000_000)
        hands.jump(-HOUR_S * 2)
        books.recount(site)
        site.server.stop()
    _check_order(site)
    site.verify()
    return Counts(faults * len(_JUMPS_H) + 3, books.check(site, told, is_over=True, may_lapse=True), 1)


def _lend(site: Site, agent: RunningAgent) -> str:
    reply = site.server.ask("POST", "/budget/handshake", {"requested_budget": 1}, agent.headers)
    assert reply.status == 200, reply.raw
    return str(reply.body["lease_id"])


def _is_open(site: Site, agent: RunningAgent, lease: str) -> bool:
    """Ask whether the agent's budget still holds a lease."""
    body = site.server.ask("GET", "/budget", headers=agent.headers).body
    held = [hold["lease_id"] for hold in body["holds"]]
    assert (body["budget_held"] > 0) == bool(held)
    return lease in held


def _check_order(site: Site) -> None:
    """The balances after each entry follow each other in the order of the ledger, whatever the time was."""
    running: dict[str, int] = {}
    for agent, kind, amount, spent_after in site.rows(
        "SELECT agent_id, kind, amount, spent_after FROM ledger ORDER BY seq"
    ):
        running[agent] = running.get(agent, 0) + (amount if kind in {"spend", "overspend"} else 0)
        assert running[agent] == spent_after
