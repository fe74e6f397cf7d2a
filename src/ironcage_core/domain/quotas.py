"""Quotas: what an API token may use in a day and in its life, and what one that has used it up is told.

A quota is kept while what was used and what is asked for fit into it; equality does. Where it is not known beforehand
what a request will use, it goes on as long as anything is left. No limit means none.

Source: contract identity.md 6, "Quotas per token".
"""

from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.instants import MS_PER_S, Instant, next_day_start
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.errors.access import CostCapReachedError, CostQuotaExceededError, QuotaExceededError


def check_quotas(token: ApiToken, use: TokenUse, *, now: Instant, tokens: int = 0, cost: Micros = 0) -> None:
    """Let one request pass that keeps within every quota of its token.

    Args:
        token: Whose limits.
        use: What its lineage has used.
        now: Says when the day ends.
        tokens: LLM tokens it will use; 0 means that nobody knows.
        cost: Micro-USD, likewise.

    Raises:
        QuotaExceededError, CostQuotaExceededError: Not today any more.
        CostCapReachedError: Never again.
    """
    resets_at = next_day_start(now)
    again = {"resets_at": resets_at, "retry_after_s": -((now - resets_at) // MS_PER_S)}
    for quota, limit, used, asked in (
        ("daily_request_limit", token.daily_request_limit, use.requests_today, 1),
        ("daily_token_limit", token.daily_token_limit, use.tokens_today, tokens),
    ):
        if limit is not None and _exceeds(limit, used, asked):
            raise QuotaExceededError(
                f"The token's {quota} of {limit} is used up for today", quota=quota, limit=limit, used=used, **again
            )
    limit = token.daily_limit_micros
    if limit is not None and _exceeds(limit, use.cost_today, cost):
        raise CostQuotaExceededError(
            f"The token's daily_limit_usd of {format_usd(limit)} is used up for today",
            quota="daily_limit_usd",
            limit=limit,
            used=use.cost_today,
            **again,
        )
    cap = token.cost_cap_micros
    if cap is not None and _exceeds(cap, use.total_cost, cost):
        raise CostCapReachedError(
            f"The token has reached its cost cap of {format_usd(cap)}", spent=use.total_cost, limit=cap
        )


def _exceeds(limit: int, used: int, asked: int) -> bool:
    return used + max(asked, 1) > limit
