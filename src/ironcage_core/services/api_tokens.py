"""API tokens: who presents one, making one, and finding those that a user may see.

The value's form is checked and its hash made outside. Here the record and its owner decide: a token is as good as its
owner is now, narrowed by its scopes and bindings.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin, Principal, Target, principal_of, reaches
from ironcage_core.domain.api_tokens import (
    EVERY_SCOPE,
    ApiToken,
    ApiTokenFields,
    columns_of,
    field_problems,
    told,
)
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User
from ironcage_core.errors.access import (
    AccountDisabledCredentialError,
    InvalidTokenError,
    TokenExpiredError,
    TokenRevokedError,
)
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.errors.identity import ApiTokenNotFoundError, TokenLimitExceededError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import live_agent
from ironcage_core.services.projects import is_visible

RETRY_AFTER_S: Final = 60
"""When to ask again for a token beyond the limit. Source: contract identity.md 6."""

LONGEST_USER_ID: Final = 500


@dataclass(frozen=True, slots=True)
class Minting:
    """How values are made.

    Args:
        new_value: Gives a fresh value.
        digest: Returns what is stored of a value; None for one that is not of the form.
    """

    new_value: Callable[[], str]
    digest: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class IssuedApiToken:
    """A new value, shown once, and its record."""

    record: ApiToken
    value: str = field(repr=False)


def authenticate_api_token(uow: UnitOfWork, value_hash: str, *, origin: Origin = NOWHERE) -> Principal:
    """Return who presents the token with this hash, if it and its owner are alive; nothing is counted.

    Raises:
        InvalidTokenError: There is none.
        AccountDisabledCredentialError: Its owner is suspended or deleted.
        TokenRevokedError: It was revoked, rotated or switched off.
        TokenExpiredError: Its time is over.

    Source: contract identity.md 2 and 6.
    """
    token = uow.api_tokens.find_by_hash(value_hash)
    if token is None or not hmac.compare_digest(token.hash, value_hash):
        raise InvalidTokenError
    user = uow.users.find(token.user_id)
    if user is None or user.status != "active":
        raise AccountDisabledCredentialError
    status = token.status_at(uow.now)
    if status == "expired":
        raise TokenExpiredError(expired_at=token.expires_at)
    if status != "active":
        raise TokenRevokedError(revoked_at=token.revoked_at or token.rotated_at or token.updated_at)
    return principal_of(user, origin=origin, token=token)


def own_api_token(uow: UnitOfWork, token_id: str, principal: Principal) -> ApiToken:
    """Return an API token, ended or not, that the principal's action reaches.

    Raises:
        ApiTokenNotFoundError: No such token.
        ForbiddenError: It is another user's, or of another project than the one the principal's token is bound to.
    """
    token = uow.api_tokens.find(token_id) if is_id(token_id, "tok") else None
    if token is None:
        raise ApiTokenNotFoundError("No such API token")
    # A token of no project could do more than one that is bound to a project, so it is out of that one's reach.
    if not reaches(principal, Target(token.user_id, token.agent_id, token.project_id or "")):
        raise ForbiddenError("The API token belongs to somebody else")
    return token


def create_api_token(
    uow: UnitOfWork,
    principal: Principal,
    fields: ApiTokenFields,
    *,
    agent_id: str | None = None,
    user_id: object = None,
    most: int | None,
    minting: Minting,
) -> IssuedApiToken:
    """Make an API token for the principal.

    Args:
        uow: The open unit of work.
        principal: Whose it will be.
        fields: `name` is needed; without `scopes` it may do whatever its owner may.
        agent_id: The agent it speaks for; then it reaches nothing else.
        user_id: What the caller says of whose it will be: the principal's id or None.
        most: How many living tokens a user may have; None for any number.
        minting: Makes the value.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: The agent is somebody else's, and the principal is no admin; or `user_id` is another user's.
        ValidationError: A field breaks its rule; an unknown project is on `project_id`.
        TokenLimitExceededError: The user has as many living tokens as allowed.

    Source: contract identity.md 6.
    """
    if agent_id is not None:
        agent = live_agent(uow, agent_id)
        if principal.role != "admin" and agent.owner_id != principal.user_id:
            raise ForbiddenError("The agent belongs to another user")
    problems = {}
    if user_id is not None and user_id != principal.user_id:
        if not (problem := text_problem(user_id, longest=LONGEST_USER_ID)):
            raise ForbiddenError("An API token is made for oneself")
        problems["user_id"] = problem
    wish: ApiTokenFields = {"name": None, "scopes": (EVERY_SCOPE,), **fields}
    problems |= problems_of_fields(uow, wish, principal.user_id)
    if wish["name"] is None:
        problems["name"] = "is required"
    if problems:
        raise ValidationError(problems)
    check_room(uow, principal.user_id, most=most)
    value, value_hash = minted(minting)
    token = _blank(uow, principal.user_id, agent_id, value, value_hash)._replace(**columns_of(wish))
    uow.api_tokens.put(token)
    changes = {"before": None, "after": told(token)}
    note = AuditNote("API_TOKEN_CREATED", "token", "api_token", token.id, principal.actor, changes=changes)
    uow.audit.append(note)
    return IssuedApiToken(token, value)


def _blank(uow: UnitOfWork, user_id: str, agent_id: str | None, value: str, value_hash: str) -> ApiToken:
    token_id = uow.new_id("tok")
    return ApiToken(
        id=token_id,
        hash=value_hash,
        lineage=token_id,
        user_id=user_id,
        name="",
        description=None,
        project_id=None,
        agent_id=agent_id,
        provider=None,
        scopes="",
        is_active=1,
        hint=hint_of(value),
        expires_at=None,
        rate_limit_rps=None,
        daily_request_limit=None,
        daily_token_limit=None,
        daily_limit_micros=None,
        cost_cap_micros=None,
        created_at=uow.now,
        updated_at=uow.now,
    )


def hint_of(value: str) -> str:
    """Return the part of a value that is shown for people to tell their tokens apart."""
    return value[-4:]


def minted(minting: Minting) -> tuple[str, str]:
    """Return a fresh value and what is stored of it."""
    value = minting.new_value()
    value_hash = minting.digest(value)
    if value_hash is None:
        raise InvariantViolationError("A fresh API token is not of the form of one")
    return value, value_hash


def problems_of_fields(uow: UnitOfWork, fields: ApiTokenFields, owner_id: str) -> dict[str, str]:
    """Return what is wrong with each field of a token of this user, by its public name."""
    problems = field_problems(fields, now=uow.now)
    project_id = fields.get("project_id")
    owner = uow.users.find(owner_id)
    if project_id is not None and (owner is None or not visible_project(uow, owner, project_id)):
        problems["project_id"] = "must be a project that the token's owner can see"
    return problems


def visible_project(uow: UnitOfWork, user: User, project_id: str) -> bool:
    """Tell whether a project is there and a user may see it."""
    return is_visible(uow, project_id, user_id=user.id, sees_all=user.role == "admin")


def check_room(uow: UnitOfWork, user_id: str, *, most: int | None, besides: str | None = None) -> None:
    """Refuse one more living token to a user who has as many as allowed.

    Args:
        uow: The open unit of work.
        user_id: Whose.
        most: How many a user may have; None for any number.
        besides: A token that does not count: the one that is about to live.

    Raises:
        TokenLimitExceededError: There is no room.
    """
    if most is None:
        return
    unended = uow.api_tokens.unended_of(user_id)
    living = sum(token.is_living_at(uow.now) and token.id != besides for token in unended)
    if living >= most:
        raise TokenLimitExceededError(
            f"A user may have {most} living API tokens", limit=most, active=living, retry_after_s=RETRY_AFTER_S
        )
