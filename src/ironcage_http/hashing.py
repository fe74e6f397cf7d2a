"""Hashing of passwords: in a few threads, so that a storm of logins delays nobody else's requests."""

from functools import lru_cache
from typing import Final

from anyio import CapacityLimiter, to_thread

from ironcage_core.ports.secrecy import PasswordHasher

HASHING_THREADS: Final = 2


@lru_cache
def _limiter() -> CapacityLimiter:
    return CapacityLimiter(HASHING_THREADS)


async def verified(hasher: PasswordHasher, encoded: str, password: str) -> bool:
    """Tell whether a password made an encoded hash, off the event loop."""
    return await to_thread.run_sync(hasher.verify, encoded, password, limiter=_limiter())


async def hashed(hasher: PasswordHasher, password: str) -> str:
    """Return the encoded hash of a password, off the event loop."""
    return await to_thread.run_sync(hasher.hash, password, limiter=_limiter())
