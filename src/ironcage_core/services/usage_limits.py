"""Usage limits: what a user's agents and programs may use, in all or in one project; set by admins, shown to the user.

Source: contract resources.md 7.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypedDict

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.alerts import DEFAULT_LEVELS
from ironcage_core.domain.audit import Actor, AuditNote, changes_between
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.instants import Instant, next_period_start, period_of
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.users import UsageLimit
from ironcage_core.errors.resources import LimitExistsError, LimitNotFoundError
from ironcage_core.errors.tree import ForbiddenError, NoFieldsError, ValidationError
from ironcage_core.ports.lists import LimitFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import scope_of
from ironcage_core.services.agents import project_problem
from ironcage_core.services.alerts import rearm_month
from ironcage_core.services.expiry import catch_up_selected
from ironcage_core.services.limit_gate import requests_of, tokens_of
from ironcage_core.services.users import owner_problem

MAX_COUNT: Final = 2**53 - 1
MAX_COST: Final[Micros] = 1_000_000_000 * MICROS_PER_USD

_CAPS: Final = ("max_tokens_per_day", "max_requests_per_minute", "max_cost_per_month")
_SUBJECT: Final = ("user_id", "project_id")
_ALL_READ: Final[Mapping[str, str]] = MappingProxyType({})


class LimitFields(TypedDict, total=False):
    """What an admin decides about a limit; what is absent is not spoken of, None is no value. Cost in micro-USD."""

    user_id: str | None
    project_id: str | None
    max_tokens_per_day: int | None
    max_requests_per_minute: int | None
    max_cost_per_month: Micros | None


@dataclass(frozen=True, slots=True)
class UsageOfLimit:
    """What counts against a limit's caps now, in micro-USD where it is money, and when each window ends."""

    tokens_today: int
    requests_this_minute: int
    cost_this_month: Micros
    held: Micros
    day_resets_at: Instant
    minute_resets_at: Instant
    month_resets_at: Instant


@dataclass(frozen=True, slots=True)
class LimitView:
    """A limit and what counts against it."""

    limit: UsageLimit
    usage: UsageOfLimit


def any_limit(uow: UnitOfWork, limit_id: str) -> UsageLimit:
    """Return a limit.

    Raises:
        LimitNotFoundError: No such limit.
    """
    limit = uow.limits.find(limit_id) if is_id(limit_id, "lim") else None
    if limit is None:
        raise LimitNotFoundError("No such limit")
    return limit


def get_limit(uow: UnitOfWork, limit_id: str, principal: Principal) -> LimitView:
    """Return one limit as of this instant.

    Raises:
        LimitNotFoundError: No such limit.
        ForbiddenError: It is another user's, or not of the project that the principal's token is bound to.
    """
    limit = any_limit(uow, limit_id)
    is_of_bound_project = principal.bound_project in {None, limit.project_id}
    if not is_of_bound_project or not reaches(principal, Target(limit.user_id, project_id=limit.project_id)):
        raise ForbiddenError("The limit is somebody else's")
    catch_up_selected(uow, None)
    return _view(uow, limit)


def list_limits(uow: UnitOfWork, which: LimitFilter, paging: Paging, *, principal: Principal) -> Page[LimitView]:
    """Return one page of the limits that this user may see, newest first, as of this instant."""
    scope = scope_of(principal)
    for asked, allowed in ((which.user_id, scope.owner_id), (which.project_id, scope.project_id)):
        if allowed is not None and asked not in {None, allowed}:
            return Page((), 0)
    narrowed = LimitFilter(scope.owner_id or which.user_id, scope.project_id or which.project_id)
    catch_up_selected(uow, None)
    page = uow.limits.page(narrowed, paging)
    return Page([_view(uow, limit) for limit in page.rows], page.total)


def create_limit(
    uow: UnitOfWork,
    fields: LimitFields,
    *,
    unreadable: Mapping[str, str] = _ALL_READ,
    actor: Actor,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> LimitView:
    """Limit a user, in all or in one project.

    A cap below what is used already blocks new grants only.

    Args:
        uow: The open unit of work.
        fields: `user_id` and at least one cap are needed.
        unreadable: What is wrong with fields that could not even be read; it is told with all else.
        actor: Who sets it.
        levels: At which shares of the monthly cap an alert is published, in percent, rising.

    Raises:
        ValidationError: A field breaks its rule.
        LimitExistsError: The user has a limit there.
    """
    user_id, project_id = fields.get("user_id"), fields.get("project_id")
    problems = _problems_of_caps(fields)
    if problem := owner_problem(uow, user_id):
        problems["user_id"] = problem
    if project_id is not None and (problem := project_problem(uow, project_id)):
        problems["project_id"] = problem
    blank = UsageLimit(uow.new_id("lim"), str(user_id), None, uow.now, uow.now, project_id)
    limit = _with_caps(blank, fields, problems, unreadable)
    known = uow.limits.find_of(limit.user_id, project_id)
    if known is not None:
        raise LimitExistsError("The user has a limit there", limit_id=known.id)
    uow.limits.put(limit)
    rearm_month(uow, limit.user_id, levels=levels)
    _note(uow, "LIMIT_CREATED", limit, actor, {"before": None, "after": _told(limit)})
    return _view(uow, limit)


def change_limit(
    uow: UnitOfWork,
    limit_id: str,
    fields: LimitFields,
    *,
    unreadable: Mapping[str, str] = _ALL_READ,
    actor: Actor,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> LimitView:
    """Change the caps that are given, and nothing else; None removes one.

    Args:
        uow: The open unit of work.
        limit_id: Which limit.
        fields: Caps; the user and the project may be named, but stay.
        unreadable: As for `create_limit`.
        actor: Who changes it.
        levels: As for `create_limit`.

    Raises:
        LimitNotFoundError: No such limit.
        NoFieldsError: Nothing is given.
        ValidationError: A cap is out of range, none would remain, or another user or project is named.
    """
    limit = any_limit(uow, limit_id)
    if not fields and not unreadable:
        raise NoFieldsError("At least one field is needed")
    given: Mapping[str, Any] = fields
    problems = _problems_of_caps(fields)
    problems |= {name: "may not change" for name in _SUBJECT if name in given and given[name] != getattr(limit, name)}
    changed = _with_caps(limit, fields, problems, unreadable)
    if changed != limit:
        changed = changed._replace(updated_at=uow.now)
        uow.limits.put(changed)
        rearm_month(uow, changed.user_id, levels=levels)
        _note(uow, "LIMIT_UPDATED", changed, actor, changes_between(_told(limit), _told(changed)))
    return _view(uow, changed)


def delete_limit(uow: UnitOfWork, limit_id: str, *, actor: Actor) -> None:
    """Lift a limit; what was counted is not forgotten.

    Raises:
        LimitNotFoundError: No such limit.
    """
    limit = any_limit(uow, limit_id)
    uow.limits.remove(limit_id)
    if limit.project_id is None:
        rearm_month(uow, limit.user_id, levels=())
    _note(uow, "LIMIT_DELETED", limit, actor, {"before": _told(limit), "after": None})


def _problems_of_caps(fields: LimitFields) -> dict[str, str]:
    count, cost = f"must be an integer from 1 to {MAX_COUNT}", "must be from 0.000001 to 1000000000 USD"
    return {
        field: rule
        for field, cap, most, rule in (
            ("max_tokens_per_day", fields.get("max_tokens_per_day"), MAX_COUNT, count),
            ("max_requests_per_minute", fields.get("max_requests_per_minute"), MAX_COUNT, count),
            ("max_cost_per_month_usd", fields.get("max_cost_per_month"), MAX_COST, cost),
        )
        if cap is not None and (type(cap) is not int or not 1 <= cap <= most)
    }


def _with_caps(
    limit: UsageLimit, fields: LimitFields, found: Mapping[str, str], unreadable: Mapping[str, str]
) -> UsageLimit:
    """Return the limit with the caps that are given, unless something is wrong or no cap is left."""
    given: Mapping[str, Any] = fields
    capped = limit._replace(**{name: given[name] for name in _CAPS if name in given})
    problems = {**found, **unreadable}
    if not unreadable and all(getattr(capped, name) is None for name in _CAPS):
        problems["body"] = "must leave at least one cap"
    if problems:
        raise ValidationError(problems)
    return capped


def _view(uow: UnitOfWork, limit: UsageLimit) -> LimitView:
    tokens, requests = tokens_of(uow, limit), requests_of(uow, limit)
    return LimitView(
        limit,
        UsageOfLimit(
            tokens_today=tokens.used,
            requests_this_minute=requests.used,
            cost_this_month=uow.banks.spent(limit.user_id, period_of(uow.now), limit.project_id),
            held=uow.banks.held(limit.user_id, limit.project_id),
            day_resets_at=tokens.resets_at,
            minute_resets_at=requests.resets_at,
            month_resets_at=next_period_start(uow.now),
        ),
    )


def _told(limit: UsageLimit) -> dict[str, object]:
    return {
        "user_id": limit.user_id,
        "project_id": limit.project_id,
        "max_tokens_per_day": limit.max_tokens_per_day,
        "max_requests_per_minute": limit.max_requests_per_minute,
        "max_cost_per_month_micros": limit.max_cost_per_month,
    }


def _note(uow: UnitOfWork, operation: str, limit: UsageLimit, actor: Actor, changes: Mapping[str, object]) -> None:
    uow.audit.append(AuditNote(operation, "config", "limit", limit.id, actor, changes=changes))
