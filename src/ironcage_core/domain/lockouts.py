"""Lockouts: how many failed logins in a row lock what they name, and for how long.

A name that nobody has is counted and locked as an account is, so that a lock tells nothing about who exists.

Source: contract identity.md 3, "Brute force".
"""

import hashlib
from dataclasses import dataclass
from typing import Final, TypeVar

from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.users import UnknownLogin, User

Named = TypeVar("Named", User, UnknownLogin)


@dataclass(frozen=True, slots=True)
class LockoutPolicy:
    """When failed logins lock.

    Args:
        threshold: The failure in a row that locks.
        duration: How long a lock lasts, in milliseconds.
    """

    threshold: int = 10
    duration: int = 1800 * MS_PER_S


DEFAULT_LOCKOUT_POLICY: Final = LockoutPolicy()


def identifier_hash(identifier: str) -> str:
    """Return under which hash the failures of an identifier are counted that no user has.

    It is one hash for exactly those spellings that would name one user.
    """
    name = identifier.strip()
    # In lower case the Kelvin sign is a k, yet no username in ASCII is found by it. No name begins with a space.
    kind = " " if "@" not in name and not name.isascii() else ""
    return hashlib.sha256(f"{kind}{name.lower()}".encode("utf-8", "surrogatepass")).hexdigest()


def is_locked(named: User | UnknownLogin, now: Instant) -> bool:
    """Tell whether logins are refused now, whatever the password."""
    return named.locked_until is not None and now < named.locked_until


def failed_once_more(named: Named, *, now: Instant, policy: LockoutPolicy) -> Named:
    """Return the account, which is not locked, with one failure more; after a lock the count begins anew."""
    failures = 1 if named.locked_until is not None else named.failed_logins + 1
    return named._replace(
        failed_logins=failures, locked_until=now + policy.duration if failures >= policy.threshold else None
    )
