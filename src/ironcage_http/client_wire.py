"""The wire between a runtime and its control plane: what is sent, and what an answer says. Pure functions.

An answer that cannot be read raises one of `UNREADABLE`: it does not come from a control plane, or not as it left it.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from ironcage_core.domain.instants import Instant, format_instant, parse_instant
from ironcage_core.domain.money import Micros, parse_usd, usd
from ironcage_core.domain.usage import MAX_TOKENS
from ironcage_core.errors.tree import RefusalError
from ironcage_core.runtime.lease_session import Spend

UNREADABLE: Final = (msgspec.MsgspecError, RefusalError, ValueError, ArithmeticError, RecursionError)
JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Lending(msgspec.Struct, frozen=True):
    """The answer to a handshake."""

    ip_token: _Name
    lease_id: _Name
    agent_id: _Name
    provider: _Name
    budget_granted: Decimal
    refresh_threshold: Decimal
    expires_at: str | None = None
    base_url: str | None = None

    def __repr__(self) -> str:
        return f"Lending({self.lease_id!r})"


class Renewal(msgspec.Struct, frozen=True, tag_field="status", tag="approved"):
    """The answer to a refresh that gives a lease."""

    ip_token: _Name
    lease_id: _Name
    lease_budget_usd: Decimal
    expires_at: str | None = None

    def __repr__(self) -> str:
        return f"Renewal({self.lease_id!r})"


class Denial(msgspec.Struct, frozen=True, tag_field="status", tag="denied"):
    """The answer to a refresh that gives none."""

    reason: _Name


class Item(msgspec.Struct, frozen=True):
    """What became of one report of a batch."""

    index: int
    request_id: str | None
    status: Literal["accepted", "duplicate", "conflict", "rejected"]
    code: str | None = None
    error: str | None = None
    fields: dict[str, Any] | None = None

    @property
    def is_misdated(self) -> bool:
        """Whether its timestamp is what was wrong with it."""
        return self.status == "rejected" and self.code == "VALIDATION_ERROR" and "timestamp" in (self.fields or {})


class ChargedLease(msgspec.Struct, frozen=True):
    """A lease that a batch was charged to."""

    lease_id: str
    stop: bool


class Booked(msgspec.Struct, frozen=True):
    """The answer to a batch of reports; behind `booked` the results are in the order of the batch."""

    results: Sequence[Item]
    leases: Sequence[ChargedLease]


class Closing(msgspec.Struct, frozen=True):
    """The answer to a return."""

    returned_usd: Decimal


class Refusal(msgspec.Struct, frozen=True):
    """The one shape of every error."""

    error: str
    code: _Name
    details: dict[str, Any] = {}


_lending: Final = msgspec.json.Decoder(Lending).decode
_renewal: Final = msgspec.json.Decoder(Renewal | Denial).decode
_booked: Final = msgspec.json.Decoder(Booked).decode
_closing: Final = msgspec.json.Decoder(Closing).decode
_refusal: Final = msgspec.json.Decoder(Refusal, float_hook=Decimal).decode


def lending(content: bytes) -> tuple[Lending, Micros, Micros, Instant | None]:
    """Return what a handshake gave: what was granted, when the lease is low, and when it ends."""
    answer = _lending(content)
    return answer, _micros(answer.budget_granted), _micros(answer.refresh_threshold), _instant(answer.expires_at)


def renewal(content: bytes) -> tuple[Renewal, Micros, Instant | None] | Denial:
    """Return what a refresh gave: what the lease holds, and when it ends."""
    answer = _renewal(content)
    if isinstance(answer, Denial):
        return answer
    return answer, _micros(answer.lease_budget_usd), _instant(answer.expires_at)


def booked(content: bytes, spends: Sequence[Spend]) -> Booked:
    """Return what became of each spend, in their order; an answer that names others must not close any of these."""
    answer = _booked(content)
    results = sorted(answer.results, key=lambda item: item.index)
    named = [(item.index, item.request_id) for item in results]
    if named != [(index, spend.request_id) for index, spend in enumerate(spends)]:
        raise ValueError("the answer is about other reports")
    return Booked(results, answer.leases)


def closing(content: bytes) -> Micros:
    """Return what a return has given back."""
    return _micros(_closing(content).returned_usd)


def refusal(content: bytes) -> Refusal | None:
    """Return what a refusal says, or None if it is nothing of a control plane's."""
    try:
        return _refusal(content)
    except UNREADABLE:
        return None


def handshake_body(
    asked: Micros, *, runtime_id: str | None, provider: str | None, provider_key_id: str | None
) -> bytes:
    """Return the body of a handshake."""
    named = {"runtime_id": runtime_id, "provider": provider, "provider_key_id": provider_key_id}
    return _encode({"requested_budget": usd(asked), **{name: value for name, value in named.items() if value}})


def refresh_body(lease_id: str, asked: Micros) -> bytes:
    """Return the body of a refresh."""
    return _encode({"lease_id": lease_id, "requested_budget": usd(asked)})


def return_body(lease_id: str) -> bytes:
    """Return the body of a return: the server's numbers decide."""
    return _encode({"lease_id": lease_id})


def report_body(spends: Sequence[Spend], *, offset_ms: int, now: Instant, is_timed: bool = True) -> bytes:
    """Return the body of a batch of reports.

    Args:
        spends: What was spent.
        offset_ms: What to add to times of this machine to have the server's.
        now: The time of this machine; no report claims to be later.
        is_timed: Whether reports say when the call was.
    """
    reports = [_report(spend) for spend in spends]
    if is_timed:
        for report, spend in zip(reports, spends, strict=True):
            report["timestamp"] = format_instant(max(0, min(spend.occurred_at, now) + offset_ms))
    return _encode({"reports": reports})


def _report(spend: Spend) -> dict[str, object]:
    counts, tokens = spend.counts, spend.tokens
    report: dict[str, object] = {
        "lease_id": spend.lease_id,
        "request_id": spend.request_id,
        "model": _text(spend.model),
        "provider": _text(spend.provider),
        "cost_usd": usd(spend.cost),
    }
    if counts is not None and counts.input + counts.output > 0:  # the whole must be their sum, and at least 1
        tokens = counts.input + counts.output
        report |= {
            "input_tokens": counts.input,
            "output_tokens": counts.output,
            "cached_input_tokens": counts.cached_input,
            "cache_write_tokens": counts.cache_write,
        }
    return {**report, "tokens": max(1, min(tokens, MAX_TOKENS))}


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair would hold up the whole batch


def _micros(value: Decimal) -> Micros:
    amount = parse_usd(value, field="amount")
    if amount < 0:
        raise ValueError("an amount is negative")
    return amount


def _instant(text: str | None) -> Instant | None:
    return None if text is None else parse_instant(text, field="expires_at")
