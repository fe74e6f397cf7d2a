"""Changes of API tokens: what they are, their rotation, and their end."""

from ironcage_core.domain.access import Principal
from ironcage_core.domain.api_tokens import ApiToken, ApiTokenFields, columns_of, told, widens
from ironcage_core.domain.audit import Actor, AuditNote, changes_between
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.texts import reason_problem
from ironcage_core.errors.identity import ApiTokenNotFoundError, ApiTokenRevokedError, ApiTokenRotatedError
from ironcage_core.errors.tree import ForbiddenError, NoFieldsError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.api_tokens import (
    IssuedApiToken,
    Minting,
    check_room,
    hint_of,
    minted,
    own_api_token,
    problems_of_fields,
)


def update_api_token(
    uow: UnitOfWork, principal: Principal, token_id: str, fields: ApiTokenFields, *, most: int | None
) -> ApiToken:
    """Change what is given of a token, and nothing else.

    Args:
        uow: The open unit of work.
        principal: Who asks: the owner or an admin.
        token_id: Which token.
        fields: At least one; None clears a field that may be empty.
        most: How many living tokens a user may have; None for any number.

    Raises:
        ApiTokenNotFoundError: No such token.
        ForbiddenError: It is another user's; an admin would let another user's token do more or live longer.
        NoFieldsError: Nothing is given.
        ValidationError: A field breaks its rule.
        ApiTokenRevokedError, ApiTokenRotatedError: It has ended.
        TokenLimitExceededError: It would live again, and its owner has as many living tokens as allowed.

    Source: contract identity.md 6.
    """
    token = own_api_token(uow, token_id, principal)
    if not fields:
        raise NoFieldsError("At least one field is needed")
    if token.user_id != principal.user_id and widens(token, fields):
        raise ForbiddenError("Only its owner may let a token do more or live longer")
    if problems := problems_of_fields(uow, fields, token.user_id):
        raise ValidationError(problems)
    _check_not_ended(token)
    changed = token._replace(**columns_of(fields))
    if changed == token:
        return token
    changed = changed._replace(updated_at=uow.now)
    if _comes_to_life(token, changed, uow.now):
        check_room(uow, token.user_id, most=most, besides=token.id)
        # While it slept its owner may have lost sight of the project, or the project its life.
        if problems := problems_of_fields(uow, {"project_id": changed.project_id}, token.user_id):
            raise ValidationError(problems)
    uow.api_tokens.put(changed)
    _note_changes(uow, token, changed, principal.actor)
    return changed


def _comes_to_life(before: ApiToken, after: ApiToken, now: Instant) -> bool:
    """Tell whether a token lives that did not, or is switched on again: either needs room."""
    is_new = not before.is_living_at(now) or after.is_active > before.is_active
    return is_new and after.is_living_at(now)


def _check_not_ended(token: ApiToken) -> None:
    if token.revoked_at is not None:
        raise ApiTokenRevokedError("The API token was revoked", revoked_at=token.revoked_at)
    if token.rotated_at is not None:
        raise ApiTokenRotatedError("The API token was rotated", replaced_by=token.replaced_by)


def _note_changes(uow: UnitOfWork, before: ApiToken, after: ApiToken, actor: Actor) -> None:
    """Remember a change, and apart from it whether the token was switched off or on."""
    old, new = told(before), told(after)
    states = {"is_active": old.pop("is_active")}, {"is_active": new.pop("is_active")}
    for (was, now), operation in (
        ((old, new), "API_TOKEN_UPDATED"),
        (states, "API_TOKEN_ACTIVATED" if after.is_active else "API_TOKEN_DEACTIVATED"),
    ):
        if was != now:
            changes = changes_between(was, now)
            uow.audit.append(AuditNote(operation, "token", "api_token", after.id, actor, changes=changes))


def rotatable(uow: UnitOfWork, token_id: str, principal: Principal) -> ApiToken:
    """Return an active token of the principal's own.

    Raises:
        ApiTokenNotFoundError: No such token, or it is not active.
        ForbiddenError: It is another user's; an admin's reach does not help, because the answer is a credential.
    """
    token = own_api_token(uow, token_id, principal)
    if token.user_id != principal.user_id:
        raise ForbiddenError("Only its owner may rotate a token")
    if token.status_at(uow.now) != "active":
        raise ApiTokenNotFoundError("There is no active API token with this id")
    return token


def rotate_api_token(
    uow: UnitOfWork, principal: Principal, token_id: str, *, expires_at: Instant | None = None, minting: Minting
) -> IssuedApiToken:
    """Put a new token in the place of an active one; what was used counts on.

    Args:
        uow: The open unit of work.
        principal: Its owner.
        token_id: Which token.
        expires_at: When the new one ends; None leaves it as it was.
        minting: Makes the value.

    Raises:
        ApiTokenNotFoundError: No such token, or it is not active.
        ForbiddenError: It is another user's; an admin's reach does not help, because the answer is a credential.
        ValidationError: It would be dead at birth.

    Source: contract identity.md 6.
    """
    old = rotatable(uow, token_id, principal)
    fields: ApiTokenFields = {} if expires_at is None else {"expires_at": expires_at}
    if problems := problems_of_fields(uow, fields, old.user_id):
        raise ValidationError(problems)
    value, value_hash = minted(minting)
    new = old._replace(
        id=uow.new_id("tok"),
        hash=value_hash,
        hint=hint_of(value),
        created_at=uow.now,
        updated_at=uow.now,
        last_used_at=None,
        rotated_from=old.id,
        **columns_of(fields),
    )
    uow.api_tokens.put(new)
    uow.api_tokens.put(old._replace(is_active=0, rotated_at=uow.now, replaced_by=new.id, updated_at=uow.now))
    metadata = {"new_token_id": new.id, "expires_at": new.expires_at}
    note = AuditNote("API_TOKEN_ROTATED", "token", "api_token", old.id, principal.actor, metadata=metadata)
    uow.audit.append(note)
    return IssuedApiToken(new, value)


def revoke_api_token(uow: UnitOfWork, principal: Principal, token_id: str, *, reason: str | None = None) -> ApiToken:
    """End a token for good, whether it is active or not.

    Args:
        uow: The open unit of work.
        principal: Its owner, or an admin.
        token_id: Which token.
        reason: 1 to 500 characters for people.

    Raises:
        ApiTokenNotFoundError: No such token, or it was rotated: another stands in its place.
        ForbiddenError: It is another user's.
        ValidationError: A bad reason.
        ApiTokenRevokedError: It was revoked before; `details.revoked_at` says when.

    Source: contract identity.md 6 and 12.
    """
    token = own_api_token(uow, token_id, principal)
    if token.rotated_at is not None:
        raise ApiTokenNotFoundError("The API token was rotated")
    if problem := reason_problem(reason):
        raise ValidationError({"reason": problem})
    _check_not_ended(token)
    return end_api_token(uow, token, reason=None if reason is None else reason.strip(), actor=principal.actor)


def end_api_token(uow: UnitOfWork, token: ApiToken, *, reason: str | None, actor: Actor) -> ApiToken:
    """Revoke a token that has not ended."""
    ended = token._replace(
        is_active=0, revoked_at=uow.now, revoked_by=actor.id, revoked_reason=reason, updated_at=uow.now
    )
    uow.api_tokens.put(ended)
    changes = {"before": {"status": token.status_at(uow.now)}, "after": {"status": "revoked"}}
    uow.audit.append(
        AuditNote("API_TOKEN_REVOKED", "token", "api_token", token.id, actor, reason=reason, changes=changes)
    )
    return ended


def end_api_tokens_of(uow: UnitOfWork, user_id: str, *, reason: str | None, actor: Actor) -> int:
    """Revoke every token of a user that has not ended, and return how many there were."""
    tokens = uow.api_tokens.unended_of(user_id)
    for token in tokens:
        end_api_token(uow, token, reason=reason, actor=actor)
    return len(tokens)
