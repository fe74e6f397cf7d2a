"""Validation: what an access token is worth, told to anybody who holds it, without changing anything."""

from dataclasses import dataclass
from typing import Literal

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.errors.access import AccountDisabledCredentialError, TokenExpiredError, TokenRevokedError
from ironcage_core.errors.tree import CredentialError
from ironcage_core.ports.secrecy import AccessSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.sessions import authenticate_access

InvalidReason = Literal["TOKEN_EXPIRED", "TOKEN_REVOKED", "TOKEN_INVALID", "ACCOUNT_DISABLED"]


@dataclass(frozen=True, slots=True)
class ValidToken:
    """An access token that opens doors now, for whom and until when."""

    principal: Principal
    expires_at: Instant
    checked_at: Instant

    @property
    def expires_in_s(self) -> int:
        """For how many seconds it still lives, the begun one included: at least 1."""
        return -((self.checked_at - self.expires_at) // MS_PER_S)


@dataclass(frozen=True, slots=True)
class InvalidToken:
    """Why a token opens nothing, and since when, where that is known."""

    reason: InvalidReason
    expired_at: Instant | None = None
    revoked_at: Instant | None = None


def validate_access(uow: UnitOfWork, token: str, *, signer: AccessSigner) -> ValidToken | InvalidToken:
    """Tell whether a token is an access token that is alive; every other kind is invalid.

    Args:
        uow: The open unit of work.
        token: As it was presented; anything.
        signer: Proves access tokens.

    Source: contract identity.md 3.
    """
    try:
        claims = signer.prove(token, now=uow.now)
        principal = authenticate_access(uow, claims)
    except TokenExpiredError as error:
        return InvalidToken("TOKEN_EXPIRED", expired_at=_instant(error, "expired_at"))
    except TokenRevokedError as error:
        return InvalidToken("TOKEN_REVOKED", revoked_at=_instant(error, "revoked_at"))
    except AccountDisabledCredentialError:
        return InvalidToken("ACCOUNT_DISABLED")
    except CredentialError:
        return InvalidToken("TOKEN_INVALID")
    return ValidToken(principal, claims.expires_at, uow.now)


def _instant(error: CredentialError, name: str) -> Instant | None:
    instant = error.details.get(name)
    return instant if isinstance(instant, int) else None
