"""Money: whole micro-USD inside, exact decimals at the edge, never a float.

1 USD = 1 000 000 micro-USD. A float is refused rather than rounded, because the damage is already done in it.
"""

from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

from ironcage_core.errors.tree import ValidationError

Micros: TypeAlias = int

MICROS_PER_USD: Final = 1_000_000
MAX_MICROS: Final = 2**62
"""Every stored amount stays within this bound, so that sums of two fit 64 bits. Source: contract budget.md 15."""

_EXPONENT_FLOOR: Final = -6
_LONGEST: Final = 28  # digits that a decimal context holds exactly


def parse_usd(value: object, *, field: str) -> Micros:
    """Read an amount in USD exactly.

    Args:
        value: An int, a `Decimal` or a numeric string; at most 6 decimals.
        field: The name to complain about.

    Raises:
        ValidationError: A float, a boolean, NaN, Infinity, not a number, more than 6 decimals, beyond 2**62 micro-USD.

    Source: contract README, global rules (money).
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValidationError({field: "must be a number or a numeric string in USD"})
    text = str(value).strip()
    if len(text) > _LONGEST:
        raise ValidationError({field: "has too many digits"})
    if not is_plain_number(text):
        raise ValidationError({field: "must be a number in USD"})
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValidationError({field: "must be a number in USD"}) from None
    if not amount.is_finite():
        raise ValidationError({field: "must be a finite number in USD"})
    if not amount:
        return 0
    # The size is looked at first: arithmetic on an exponent of millions would overflow, or quietly give 0.
    if amount.adjusted() > 18:
        raise ValidationError({field: "is too large"})
    if amount.adjusted() < _EXPONENT_FLOOR or _exponent(amount) < _EXPONENT_FLOOR:
        raise ValidationError({field: "may have at most 6 decimals"})
    micros = int(amount.scaleb(6))
    if abs(micros) > MAX_MICROS:
        raise ValidationError({field: "is too large"})
    return micros


def is_plain_number(text: str) -> bool:
    """Tell whether a number is spelled as one outside Python, too: without `_` and digits of other scripts."""
    return text.isascii() and "_" not in text


def _exponent(amount: Decimal) -> int:
    exponent = amount.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def usd(micros: Micros) -> Decimal:
    """Return an amount as exact decimal USD without trailing zeros beyond the cents it needs."""
    return Decimal(micros).scaleb(-6).normalize() + 0


def format_usd(micros: Micros) -> str:
    """Return an amount for a person: `-$1.50`, at least two decimals, six at most."""
    whole, fraction = divmod(abs(micros), MICROS_PER_USD)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}${whole:,}.{digits}"
