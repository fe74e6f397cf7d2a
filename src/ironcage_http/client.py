"""The client: a hard budget around calls to a provider, in five lines.

    with session("https://ironcage.example", ic_token) as s:
        with s.call(model="gpt-4o", max_tokens=500) as call:
            answer = ask_the_provider(s.api_key)
            call.commit(answer.usage)

A session takes a lease, keeps what is spent within it, reports every call, refreshes, and returns what is left. What is
not reported when a runtime dies goes out when it starts again. `http_client` gives an httpx client that does all of it
for SDKs that take one.

Source: contract budget.md 11.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx

from ironcage_core.domain.money import Micros, parse_usd
from ironcage_core.domain.prices import ModelPrice, PriceTable, TokenCounts, cost_micros
from ironcage_core.errors.tree import ValidationError
from ironcage_core.runtime.lease_session import MAX_ASKED, Spend
from ironcage_http.client_engine import Engine
from ironcage_http.client_outbox import Intent, Outbox
from ironcage_http.client_protocol import ControlPlane
from ironcage_http.client_sessions import AsyncSession, Pricing, Session, table_of
from ironcage_http.client_terms import Terms
from ironcage_storage.prices import bundled_prices

DEFAULT_BUDGET_USD: Final = 10

FindUsage = Callable[[Intent], TokenCounts | None]
"""Asks a provider what a call used whose end nobody saw: no tokens if it was never made, None if it cannot tell."""


def session(
    url: str,
    ic_token: str,
    *,
    budget: Decimal | int | str = DEFAULT_BUDGET_USD,
    provider: str | None = None,
    provider_key_id: str | None = None,
    runtime_id: str | None = None,
    outbox: Path | str | None = None,
    prices: PriceTable | Path | str | None = None,
    fallback_price: ModelPrice | None = None,
    find_usage: FindUsage | None = None,
    start_timeout_s: float = 15.0,
    close_timeout_s: float = 10.0,
    timeout_s: float = 10.0,
    allows_http: bool = False,
    transport: httpx.BaseTransport | None = None,
) -> Session:
    """Open a session: settle what an earlier one left behind, take a lease, and begin to report.

    Args:
        url: Where the control plane answers.
        ic_token: The agent's; nothing of it is ever shown or written.
        budget: How many USD to have at hand, up to 1 000.
        provider: Whose key to take; None for the agent's first.
        provider_key_id: Which key to take.
        runtime_id: A name that stays over restarts and that no other living runtime of the agent has.
        outbox: The folder where spends wait on disk; None for `~/.local/state/ironcage`.
        prices: What models cost; None for the table that comes with ironcage.
        fallback_price: What a model costs that is not in the table; without one it is not called.
        find_usage: Asks the provider what a call of a dead runtime used; without it such a call counts with its most.
        start_timeout_s: How long to try to reach the control plane.
        close_timeout_s: How long the end may take.
        timeout_s: How long one answer of the control plane may take.
        allows_http: Whether it may be called without TLS on another machine.
        transport: What sends to the control plane, where a proxy or a certificate of one's own is needed.

    Raises:
        ValueError: The url or the token cannot be used.
        ValidationError: The budget or the prices cannot be.
        OutboxError: The folder cannot be.
        UnreachableError: The control plane does not answer.
        ControlPlaneError: It refuses.
    """
    tranche = _tranche(budget)
    pricing = Pricing(bundled_prices() if prices is None else table_of(prices), fallback_price)
    terms = Terms(tranche, runtime_id, provider, provider_key_id, start_timeout_s, close_timeout_s)
    plane = ControlPlane(url, ic_token, timeout_s=timeout_s, allows_http=allows_http, transport=transport)
    folder = Path.home() / ".local" / "state" / "ironcage" if outbox is None else Path(outbox)
    try:
        # By the agent alone: the same control plane may be reached by several addresses.
        account = sha256(f"{plane.agent_id}".encode()).hexdigest()[:16]
        engine = Engine(plane, Outbox(folder, account), terms)
    except BaseException:
        plane.close()
        raise
    try:
        engine.start(partial(_resolved, pricing, find_usage))
    except BaseException:
        engine.abandon()
        raise
    return Session(engine, pricing)


def async_session(url: str, ic_token: str, **options: Any) -> AsyncSession:  # noqa: ANN401 - those of `session`
    """Return a session for an event loop; the arguments are those of `session`."""
    return AsyncSession(partial(session, url, ic_token, **options))


def _tranche(budget: Decimal | int | str) -> Micros:
    tranche = parse_usd(budget, field="budget")
    if not 0 < tranche <= MAX_ASKED:
        raise ValidationError({"budget": "must be more than 0 and at most 1000 USD"})
    return tranche


def _resolved(pricing: Pricing, find_usage: FindUsage | None, intent: Intent) -> Spend | None:
    """Return what a call cost that nobody saw the end of; the most, if nobody can tell."""
    try:
        counts = None if find_usage is None else find_usage(intent)
    except Exception as error:
        error.add_note(
            f"find_usage could not tell what call {intent.request_id} used; it waits in the outbox. Open the session"
            " again later, or let find_usage return None: then it counts with the most it may have cost"
        )
        raise
    if counts is None:
        return Spend(
            intent.request_id, intent.lease_id, intent.model, intent.provider, intent.reserved, max(intent.tokens, 1),
            None, intent.at, is_estimated=True,
        )  # fmt: skip
    tokens = counts.input + counts.output
    if tokens == 0:
        return None
    cost = cost_micros(pricing.price_of(intent.model), counts)
    return Spend(intent.request_id, intent.lease_id, intent.model, intent.provider, cost, tokens, counts, intent.at)
