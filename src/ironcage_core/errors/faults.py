"""What is not the caller's to mend: secrets, invariants, the database. No message holds a secret."""

from ironcage_core.errors.tree import FaultError, StartupError, UnavailableError


class CryptoUnavailableError(UnavailableError):
    """No master key is configured, so no secret can be sealed or opened."""

    code = "CRYPTO_UNAVAILABLE"


class InvariantViolationError(FaultError):
    """The books would not add up: a bug. The transaction is undone."""


class SecretUnreadableError(FaultError):
    """A stored secret does not decrypt: wrong master key or tampering."""


class StorageError(FaultError):
    """The database failed; nothing of the failed batch was written."""


class DatabaseNewerError(StartupError):
    """The database was written by a newer version of ironcage."""

    code = "DATABASE_NEWER"


class DatabaseDamagedError(StartupError):
    """The file is damaged or is not an ironcage database."""

    code = "DATABASE_DAMAGED"
