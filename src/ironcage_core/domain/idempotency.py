"""Idempotency keys: a retry that names the same key gets the first answer and has no second effect.

What is remembered is what was done, by ids and amounts, and never a secret: a replay seals its credential anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, Instant

KEPT_FOR: Final = 2 * MS_PER_DAY
"""At least 24 hours. Source: contract budget.md 3."""


@dataclass(frozen=True, slots=True)
class RetryKey:
    """The key of a request: `scope` is principal, method and path, `body_hash` a SHA-256 of the body without tokens."""

    scope: str
    key: str
    body_hash: str


class RememberedAnswer(NamedTuple):
    """What a request with a key has done; a column each, in order. `result` is JSON of ids and amounts."""

    scope: str
    key: str
    body_hash: str
    created_at: Instant
    result: str


Result = Mapping[str, Any]
