"""What may be seen of tokens: lists, one with its use, and whether a value is one that lives."""

from dataclasses import dataclass, replace

from ironcage_core.domain.access import Principal
from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.permissions import Permission
from ironcage_core.errors.access import InsufficientScopeError
from ironcage_core.errors.tree import CredentialError
from ironcage_core.ports.lists import ApiTokenFilter, ApiTokenOrder, Page, Paging, TokenFilter, TokenKind
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import TokenEntry
from ironcage_core.services.agent_records import scope_of
from ironcage_core.services.api_tokens import authenticate_api_token, own_api_token


@dataclass(frozen=True, slots=True)
class UsedApiToken:
    """A token and what its lineage has used."""

    token: ApiToken
    use: TokenUse


def used_api_token(uow: UnitOfWork, principal: Principal, token_id: str) -> UsedApiToken:
    """Return a token that the principal may see, ended or not, with its use.

    Raises:
        ApiTokenNotFoundError: No such token.
        ForbiddenError: It is another user's.
    """
    token = own_api_token(uow, token_id, principal)
    return UsedApiToken(token, uow.token_usage.of(token.lineage, uow.now))


def list_api_tokens(
    uow: UnitOfWork,
    principal: Principal,
    which: ApiTokenFilter,
    paging: Paging,
    order: ApiTokenOrder = "created_at",
    *,
    descending: bool = True,
) -> Page[ApiToken]:
    """Return one page of the API tokens that the principal may see; whose they are is asked only of who sees all."""
    scope = scope_of(principal)
    if scope.project_id is not None and which.project_id not in {None, scope.project_id}:
        return Page((), 0)
    narrowed = replace(
        which,
        user_id=scope.owner_id or which.user_id,
        project_id=scope.project_id or which.project_id,
        now=uow.now,
    )
    return uow.api_tokens.page(narrowed, paging, order, descending=descending)


def list_tokens(uow: UnitOfWork, principal: Principal, which: TokenFilter, paging: Paging) -> Page[TokenEntry]:
    """Return one page of the tokens of both kinds that the principal may see, newest first.

    Raises:
        InsufficientScopeError: The principal's token has the scope of neither kind.
    """
    scope = scope_of(principal)
    scopes: dict[TokenKind, Permission] = {"api": "tokens:read", "ic": "ic_tokens:read"}
    kinds = [kind for kind, permission in scopes.items() if principal.has_scope(permission)]
    if not kinds:
        raise InsufficientScopeError("The token lacks a scope", required=scopes["api"])
    if which.kind not in {None, *kinds}:
        return Page((), 0)
    kind = which.kind if len(kinds) > 1 else kinds[0]
    if scope.project_id is not None and which.project_id not in {None, scope.project_id}:
        return Page((), 0)
    narrowed = replace(
        which,
        kind=kind,
        owner_id=scope.owner_id or which.owner_id,
        project_id=scope.project_id or which.project_id,
        now=uow.now,
    )
    return uow.api_tokens.page_of_all_kinds(narrowed, paging)


def validated_api_token(uow: UnitOfWork, value_hash: str) -> ApiToken | None:
    """Return the token with this hash if it lives and so does its owner; being validated is no use."""
    try:
        return authenticate_api_token(uow, value_hash).token
    except CredentialError:
        return None
