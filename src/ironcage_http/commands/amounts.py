"""Amounts in USD as people write them on a command line: `2.50`, exact to the micro-dollar."""

from decimal import Decimal
from typing import Final

import click

from ironcage_core.domain.money import parse_usd, usd
from ironcage_core.errors.tree import ValidationError


class _Usd(click.ParamType[Decimal]):
    """An amount in USD with at most 6 decimals."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            return usd(parse_usd(value, field="amount"))
        except ValidationError as error:
            self.fail(f"{value} {error.fields['amount']}; an amount looks like 2.50", param, ctx)


USD: Final = _Usd()
"""The type of an argument or an option that is an amount; gives an exact decimal."""
