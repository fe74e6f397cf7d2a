"""Retries: a request that names an idempotency key is done once, and its retries are told what it did.

Source: contract budget.md 3.
"""

import json

from ironcage_core.domain.idempotency import KEPT_FOR, RememberedAnswer, Result, RetryKey
from ironcage_core.errors.money import IdempotencyKeyReusedError
from ironcage_core.ports.storage import UnitOfWork


def what_it_did(uow: UnitOfWork, retry: RetryKey | None) -> Result | None:
    """Return what the first request with this key has done, or None if this is the first, or there is no key.

    Raises:
        IdempotencyKeyReusedError: The key was used for a request with another body.
    """
    if retry is None:
        return None
    known = uow.remembered_answers.find(retry.scope, retry.key)
    if known is None:
        return None
    if known.body_hash != retry.body_hash:
        raise IdempotencyKeyReusedError("This idempotency key was used for another request")
    result: Result = json.loads(known.result)
    return result


def remember(uow: UnitOfWork, retry: RetryKey | None, result: Result) -> None:
    """Remember what a request with a key has done: ids and amounts, never a secret."""
    if retry is not None:
        text = json.dumps(result, separators=(",", ":"))
        uow.remembered_answers.put(RememberedAnswer(retry.scope, retry.key, retry.body_hash, uow.now, text))


def forget_answers(uow: UnitOfWork, *, limit: int) -> int:
    """Drop at most `limit` answers whose retries would have come long ago and return how many it were."""
    return uow.remembered_answers.forget(uow.now - KEPT_FOR, limit)
