"""The token manager: API tokens for programs that have no server, on the same database as one.

A token made here is a token there. Values are shown once and only their SHA-256 is stored; every answer is given after
the commit.
"""

from datetime import datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.api_tokens import EVERY_SCOPE, ApiToken, ApiTokenFields
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.instants import from_datetime
from ironcage_core.domain.money import MICROS_PER_USD, Micros, parse_usd
from ironcage_core.domain.quotas import check_quotas
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User
from ironcage_core.errors.access import CostCapReachedError, InvalidTokenError, QuotaExceededError
from ironcage_core.errors.tree import CredentialError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.api_token_changes import revoke_api_token, update_api_token
from ironcage_core.services.api_tokens import Minting, authenticate_api_token, create_api_token
from ironcage_storage.sealed.api_tokens import api_token_hash, new_api_token
from ironcage_storage.sqlite.connection import MEMORY
from ironcage_storage.sqlite.store import SqliteStore

MAX_TOKENS: Final = 10**12
MAX_COST: Final[Micros] = 1_000_000_000 * MICROS_PER_USD
"""Of one call. Thousands of the largest fit into what is stored of a day."""

_LONGEST_USER_ID: Final = 255
_MICRO: Final = Decimal("0.000001")
_MINTING: Final = Minting(new_api_token, api_token_hash)

Money = int | str | float | Decimal


class InvalidToken(InvalidTokenError):  # noqa: N818 - the name that the interface promises
    """No token has this value."""


class TokenManager:
    """Makes, checks and ends API tokens; for many threads. Use it as a context manager or call `close`.

    Args:
        url_or_path: A file, made if it is not there; `sqlite:///relative`, `sqlite:////absolute`, or `:memory:`.

    Raises:
        ValueError: Another kind of database.
        StartupError, StorageError, UnavailableError: The file must not or cannot be used.

    Source: contract identity.md 6, "Library facade".
    """

    def __init__(self, url_or_path: str | Path) -> None:
        self._store = SqliteStore(_database(url_or_path))

    def create_token(
        self,
        user_id: str,
        name: str,
        *,
        description: str | None = None,
        scopes: tuple[str, ...] = (EVERY_SCOPE,),
        expires_at: datetime | None = None,
        rate_limit_rps: int | None = None,
        daily_request_limit: int | None = None,
        daily_token_limit: int | None = None,
        daily_limit_usd: int | str | Decimal | None = None,
        cost_cap_usd: int | str | Decimal | None = None,
    ) -> str:
        """Make a token and return its value, which nothing can show again.

        Args:
            user_id: Whose, 1 to 255 characters: the id, username or email of a user who is there. Else a user is made
                who has this as username (as email, where there is an @ in it), the role `user` and no password, so
                that nobody can log in as him.
            name: 1 to 100 characters.
            description: At most 500.
            scopes: What it may do; everything that its owner may is `*`.
            expires_at: An aware time in the future; None for never.
            rate_limit_rps: Requests a second that a server lets it make.
            daily_request_limit: Calls per UTC day.
            daily_token_limit: LLM tokens per UTC day.
            daily_limit_usd: Cost per UTC day.
            cost_cap_usd: Cost in all.

        Raises:
            ValidationError: Something breaks its rule; `fields` names each.
        """
        fields: ApiTokenFields = {
            "name": name,
            "description": description,
            "scopes": scopes,
            "expires_at": None if expires_at is None else _instant(expires_at),
            "rate_limit_rps": rate_limit_rps,
            "daily_request_limit": daily_request_limit,
            "daily_token_limit": daily_token_limit,
            "daily_limit_micros": _limit(daily_limit_usd, "daily_limit_usd"),
            "cost_cap_micros": _limit(cost_cap_usd, "cost_cap_usd"),
        }
        if problem := text_problem(user_id, longest=_LONGEST_USER_ID):
            raise ValidationError({"user_id": problem})

        def run(uow: UnitOfWork) -> str:
            owner = principal_of(_user(uow, user_id.strip()))
            return create_api_token(uow, owner, fields, most=None, minting=_MINTING).value

        return self._store.write(run)

    def verify(self, token: str) -> bool:
        """Tell whether a token opens anything now: it lives, so does its owner, and no quota is used up.

        Anything may be asked, garbage too. Asking is no use: nothing is counted.
        """
        value_hash = _hash(token)
        return value_hash is not None and self._store.read(partial(_is_good, value_hash=value_hash))

    def check_quota(self, token: str) -> bool:
        """Tell whether the token's quotas leave room for one more call; nothing is counted.

        Raises:
            InvalidToken: No token has this value.
        """
        return self._store.read(lambda uow: _has_room(uow, _found(uow, token)))

    def record_usage(self, token: str, tokens: int, cost_usd: Money) -> None:
        """Count one call of a token; when this returns, it is durable.

        It is counted in full, whatever the quotas say, and even if the token has ended meanwhile: the call was made.

        Args:
            token: The value.
            tokens: LLM tokens used, from 0 to 10^12.
            cost_usd: From 0 to 10^9, exact; what is finer than a micro-USD is rounded up. A float stands for the
                decimal that it is written as.

        Raises:
            ValueError: Out of range, or no number.
            InvalidToken: No token has this value.
        """
        if type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS:
            raise ValueError(f"tokens must be an integer from 0 to {MAX_TOKENS}")
        cost = _cost(cost_usd)

        def run(uow: UnitOfWork) -> None:
            found = _found(uow, token)
            uow.token_usage.add_requests(found.lineage, uow.now, 1)
            uow.token_usage.add_calls(found.lineage, uow.now, tokens=tokens, cost=cost)
            uow.api_tokens.put(found._replace(last_used_at=max(uow.now, found.last_used_at or uow.now)))

        self._store.write(run)

    def revoke(self, token: str) -> None:
        """End a token for good.

        Raises:
            InvalidToken: No token has this value.
            ApiTokenRevokedError, ApiTokenNotFoundError: It was revoked before; it was rotated.
        """

        def run(uow: UnitOfWork) -> None:
            found = _found(uow, token)
            revoke_api_token(uow, _owner(uow, found), found.id)

        self._store.write(run)

    def deactivate(self, token: str) -> None:
        """Switch a token off, until it is switched on again; one that is off stays off.

        Raises:
            InvalidToken: No token has this value.
            ApiTokenRevokedError, ApiTokenRotatedError: It has ended.
        """

        def run(uow: UnitOfWork) -> None:
            found = _found(uow, token)
            update_api_token(uow, _owner(uow, found), found.id, {"is_active": False}, most=None)

        self._store.write(run)

    def close(self) -> None:
        """Close the database. Closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _database(url_or_path: str | Path) -> str | Path:
    if isinstance(url_or_path, Path):
        return url_or_path
    scheme, colon, rest = url_or_path.partition(":")
    if url_or_path and (not colon or url_or_path == MEMORY):
        return url_or_path
    if scheme.lower() == "sqlite":
        path = rest.partition("?")[0]
        if path in {MEMORY, f"///{MEMORY}"}:
            return MEMORY
        if path.startswith("///") and path != "///":
            return unquote(path.removeprefix("///"))
    elif colon and (not rest.startswith("//") or len(scheme) == 1):
        return url_or_path  # a colon in the name of a file
    raise ValueError("the database must be a file, sqlite:///file or :memory:")


def _user(uow: UnitOfWork, text: str) -> User:
    """Return the user with this id, username or email, made if there is none."""
    found = uow.users.find(text) or uow.users.find_by_username(text) or uow.users.find_by_email(text)
    if found is not None and found.status == "deleted":
        raise ValidationError({"user_id": "was deleted"})
    if found is not None:
        return found
    if "@" in text and (text.count("@") != 1 or not all(text.partition("@"))):
        raise ValidationError({"user_id": "with an @ must be an email address"})
    # Nobody reads mail there: the domain is reserved for that (RFC 2606), and the id is nobody else's.
    nowhere = uow.new_id("user")
    if "@" in text:
        return add_user(uow, username=nowhere, email=text, role="user", actor=SYSTEM)
    return add_user(uow, username=text, email=f"{nowhere}@token-manager.invalid", role="user", actor=SYSTEM)


def _hash(token: object) -> str | None:
    return api_token_hash(token) if isinstance(token, str) else None


def _found(uow: UnitOfWork, token: object) -> ApiToken:
    value_hash = _hash(token)
    found = None if value_hash is None else uow.api_tokens.find_by_hash(value_hash)
    if found is None:
        raise InvalidToken
    return found


def _owner(uow: UnitOfWork, token: ApiToken) -> Principal:
    user = uow.users.find(token.user_id)
    if user is None:
        raise InvalidToken
    return principal_of(user)


def _is_good(uow: UnitOfWork, value_hash: str) -> bool:
    try:
        token = authenticate_api_token(uow, value_hash).token
    except CredentialError:
        return False
    return token is not None and _has_room(uow, token)


def _has_room(uow: UnitOfWork, token: ApiToken) -> bool:
    try:
        check_quotas(token, uow.token_usage.of(token.lineage, uow.now), now=uow.now)
    except (QuotaExceededError, CostCapReachedError):
        return False
    return True


def _instant(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValidationError({"expires_at": "must carry an offset such as UTC"})
    return from_datetime(moment)


def _limit(value: int | str | Decimal | None, field: str) -> Micros | None:
    return None if value is None else parse_usd(value, field=field)


def _cost(cost_usd: object) -> Micros:
    if isinstance(cost_usd, bool) or not isinstance(cost_usd, int | str | float | Decimal):
        raise ValueError("cost_usd must be a number")  # noqa: TRY004 - the interface promises this one
    try:
        amount = Decimal(str(cost_usd))
    except InvalidOperation:
        raise ValueError("cost_usd must be a number") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_COST // MICROS_PER_USD:
        raise ValueError(f"cost_usd must be from 0 to {MAX_COST // MICROS_PER_USD}")
    return int(amount.quantize(_MICRO, ROUND_CEILING).scaleb(6))
