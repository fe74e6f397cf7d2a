"""Every refusal and fault of ironcage, each with the stable code that callers see.

IroncageError
├── RefusalError                     the caller can do something about it; nothing was changed
│   ├── ValidationError              400  VALIDATION_ERROR (INVALID_PROVIDER_ID, UNSUPPORTED_PROVIDER)
│   ├── CredentialError              401  AUTH_*
│   ├── ForbiddenError               403  FORBIDDEN and the state and money codes
│   ├── TooManyRequestsError         429  *_LIMIT_EXCEEDED, QUOTA_EXCEEDED
│   ├── NotFoundError                404  *_NOT_FOUND
│   ├── ConflictError                409  one code a state
│   └── UnavailableError             503  SERVICE_UNAVAILABLE, CRYPTO_UNAVAILABLE
├── FaultError                       500  INTERNAL_ERROR: ours, logged, never explained to the caller
└── StartupError                     the process must not start; the message says what to do

A message is for a person and never holds a secret; `details` are for programs. The leaves stand
beside this module: `access`, `identity`, `resources`, `money`, `usage`, `runtime` and `faults`.
"""

from collections.abc import Mapping
from typing import ClassVar


class IroncageError(Exception):
    """The root of everything ironcage raises on purpose.

    Args:
        message: One sentence for a person, without secrets.
        details: Facts for a program: ids, amounts in micro-USD, limits.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details


class RefusalError(IroncageError):
    """A request that cannot be granted as it stands."""


class ValidationError(RefusalError):
    """Input that breaks a rule; `fields` maps each bad field to its message."""

    code = "VALIDATION_ERROR"

    def __init__(self, fields: Mapping[str, str], **details: object) -> None:
        name, problem = next(iter(fields.items()))
        super().__init__(f"{name}: {problem}", fields=dict(fields), **details)
        self.fields = dict(fields)


class NoFieldsError(RefusalError):
    """A partial update that updates nothing (400)."""

    code = "NO_FIELDS_PROVIDED"


class CredentialError(RefusalError):
    """A credential that does not prove who is calling."""


class ForbiddenError(RefusalError):
    """The record exists and is not the caller's."""

    code = "FORBIDDEN"


class TooManyRequestsError(RefusalError):
    """Come back later; `details.retry_after_s` says when, in seconds, at least 1."""

    code = "TOO_MANY_REQUESTS"


class NotFoundError(RefusalError):
    """No such record."""

    code = "NOT_FOUND"


class ConflictError(RefusalError):
    """The request contradicts the state of things."""

    code = "CONFLICT"


class UnavailableError(RefusalError):
    """The store cannot serve now; trying again is safe."""

    code = "SERVICE_UNAVAILABLE"


class FaultError(IroncageError):
    """Something of ours is broken; the caller learns no more than that."""


class StartupError(IroncageError):
    """The process must not start as it is configured."""

    code = "STARTUP_ERROR"
