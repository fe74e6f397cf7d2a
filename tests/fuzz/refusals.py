"""What every refusal of what was sent has to keep to itself, and what is to become of an amount."""

from decimal import Decimal

from ironcage_core.domain.money import MAX_MICROS, parse_usd, usd
from ironcage_core.errors.tree import ValidationError
from tests.support.errors import everything_said_by

SHORT = 10
"""Up to how many characters a text may stand in a message by chance."""


def assert_hides(refused: BaseException, *secrets: str) -> None:
    """Hold that an error shows none of these, itself and by what is chained to it."""
    said = everything_said_by(refused)
    assert refused.__cause__ is refused.__context__ is None
    assert not any(each in said for each in secrets if len(each) > SHORT)


def assert_names(refused: ValidationError, *fields: str) -> None:
    """Hold that a refusal is about these fields, in words that fit on a line."""
    assert not fields or set(refused.fields) == set(fields)
    assert all(problem and problem.isprintable() and len(problem) < 200 for problem in refused.fields.values())


def assert_is_money(amount: object) -> None:
    """Hold that an amount is taken exactly or refused."""
    try:
        micros = parse_usd(amount, field="amount")
    except ValidationError as refused:
        assert_names(refused, "amount")
    else:
        assert abs(micros) <= MAX_MICROS
        assert Decimal(str(amount).strip()) == usd(micros) == Decimal(micros) / 1_000_000
