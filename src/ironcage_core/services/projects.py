"""Projects: who sees them and what is in them, making, changing and removing them.

The two well-known projects are always there, as they are. To a user who is no admin a project exists only while it
holds something of the user's own; the master project is everybody's, the one of orphaned agents the admins'.

Source: contract resources.md 3 and 11.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import Actor, AuditNote, changes_between
from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT, is_id
from ironcage_core.domain.projects import Project
from ironcage_core.domain.texts import text_problem, tidied
from ironcage_core.errors.resources import (
    ProjectExistsError,
    ProjectNotEmptyError,
    ProjectNotFoundError,
    ProjectProtectedError,
)
from ironcage_core.errors.tree import NoFieldsError, ValidationError
from ironcage_core.ports.lists import ApiTokenFilter, Page, Paging, ProjectFilter, ProjectOrder, UserFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import ProjectTotals
from ironcage_core.services.users import owner_problem

WELL_KNOWN: Final = frozenset((MASTER_PROJECT, ORPHANED_PROJECT))
LONGEST_NAME: Final = 100
LONGEST_DESCRIPTION: Final = 500

_ONE: Final = Paging(1, 1)


class ProjectFields(TypedDict, total=False):
    """What an admin decides about a project; what is absent is not spoken of, None is no value."""

    name: str | None
    description: str | None
    owner_id: str | None


@dataclass(frozen=True, slots=True)
class ProjectOverview:
    """A project and what is in it: all of it, or what is the caller's own.

    `users` is None where the caller sees only the own. `providers` are the keys assigned to the project.
    """

    project: Project
    totals: ProjectTotals
    users: int | None
    providers: int
    scope: Literal["all", "own"]


def any_project(uow: UnitOfWork, project_id: str) -> Project:
    """Return a project.

    Raises:
        ProjectNotFoundError: No such project.
    """
    is_formed = project_id in WELL_KNOWN or is_id(project_id, "proj")
    project = uow.projects.find(project_id) if is_formed else None
    if project is None:
        raise ProjectNotFoundError("No such project")
    return project


def is_visible(uow: UnitOfWork, project_id: str, *, user_id: str, sees_all: bool) -> bool:
    """Tell whether a project is there and a user may see it.

    Args:
        uow: The open unit of work.
        project_id: Anything that might be the id of one.
        user_id: Whose sight it is.
        sees_all: Whether the user sees every project.
    """
    which = ProjectFilter(project_id=project_id, visible_to=None if sees_all else user_id, now=uow.now)
    return uow.projects.page(which, _ONE).total == 1


def list_projects(
    uow: UnitOfWork,
    principal: Principal,
    name: str | None,
    paging: Paging,
    order: ProjectOrder = "created_at",
    *,
    descending: bool = True,
) -> Page[ProjectOverview]:
    """Return one page of the projects that the principal may see; a token that is bound to one sees only that."""
    visible_to = None if principal.reach == "all" else principal.user_id
    which = ProjectFilter(name, visible_to, uow.now, principal.bound_project)
    page = uow.projects.page(which, paging, order, descending=descending)
    return Page([_overview(uow, project, principal) for project in page.rows], page.total)


def project_overview(uow: UnitOfWork, project_id: str, principal: Principal) -> ProjectOverview:
    """Return one project.

    Raises:
        ProjectNotFoundError: There is none that the principal may see.
    """
    project = any_project(uow, project_id)
    is_bound_elsewhere = principal.bound_project not in {None, project_id}
    sees_all = principal.reach == "all"
    if is_bound_elsewhere or not is_visible(uow, project_id, user_id=principal.user_id, sees_all=sees_all):
        raise ProjectNotFoundError("No such project")
    return _overview(uow, project, principal)


def _overview(uow: UnitOfWork, project: Project, principal: Principal) -> ProjectOverview:
    providers = len(uow.projects.keys_of(project.id))
    if principal.reach != "all":
        totals = uow.projects.totals(project.id, principal.user_id)
        return ProjectOverview(project, totals, None, providers, "own")
    totals = uow.projects.totals(project.id)
    is_master = project.id == MASTER_PROJECT
    users = uow.users.page(UserFilter(), _ONE).total if is_master else totals.owners
    return ProjectOverview(project, totals, users, providers, "all")


def create_project(uow: UnitOfWork, fields: ProjectFields, *, principal: Principal) -> ProjectOverview:
    """Make a project.

    Args:
        uow: The open unit of work.
        fields: `name` is needed; without `owner_id` the project is the principal's.
        principal: Who makes it.

    Raises:
        ValidationError: A field breaks its rule; an owner who is not a live user is on `owner_id`.
        ProjectExistsError: Another project has the name, in whatever case.
    """
    wish: ProjectFields = {"name": None, **fields}
    if wish.get("owner_id") is None:
        wish["owner_id"] = principal.user_id
    blank = Project(uow.new_id("proj"), "", None, None, uow.now, uow.now)
    project = blank._replace(**_checked(uow, wish, missing="is required"))
    _check_name_is_free(uow, project)
    uow.projects.put(project)
    _note(uow, "PROJECT_CREATED", project, principal.actor, changes={"before": None, "after": _told(project)})
    return _overview(uow, project, principal)


def update_project(uow: UnitOfWork, project_id: str, fields: ProjectFields, *, principal: Principal) -> ProjectOverview:
    """Change what is given of a project, and nothing else.

    Raises:
        ProjectNotFoundError: No such project.
        NoFieldsError: Nothing is given.
        ValidationError: A field breaks its rule.
        ProjectProtectedError: It is a well-known one.
        ProjectExistsError: Another project has the name, in whatever case.
    """
    project = any_project(uow, project_id)
    if not fields:
        raise NoFieldsError("At least one field is needed")
    columns = _checked(uow, fields, missing="may not be null")
    check_not_well_known(project)
    changed = project._replace(**columns)
    if changed != project:
        changed = changed._replace(updated_at=uow.now)
        _check_name_is_free(uow, changed)
        uow.projects.put(changed)
        changes = changes_between(_told(project), _told(changed))
        _note(uow, "PROJECT_UPDATED", changed, principal.actor, changes=changes)
    return _overview(uow, changed, principal)


def delete_project(uow: UnitOfWork, project_id: str, *, actor: Actor) -> None:
    """Remove a project that holds nothing alive, with its key assignments and its limits.

    Usage, traces and tokens that have ended keep its id.

    Raises:
        ProjectNotFoundError: No such project.
        ProjectProtectedError: It is a well-known one.
        ProjectNotEmptyError: It has live agents or active API tokens.
    """
    project = any_project(uow, project_id)
    check_not_well_known(project)
    agents = uow.projects.totals(project_id).agents
    tokens = uow.api_tokens.page(ApiTokenFilter(project_id=project_id, status="active", now=uow.now), _ONE).total
    if agents or tokens:
        raise ProjectNotEmptyError("The project has live agents or active API tokens", agents=agents, api_tokens=tokens)
    keys = uow.projects.keys_of(project_id)
    for key in keys:
        uow.projects.unassign(project_id, key.provider)
    uow.limits.delete_of_project(project_id)
    uow.projects.remove(project_id)
    unassigned = {"provider_key_ids": [key.provider_key_id for key in keys]}
    changes = {"before": _told(project), "after": None}
    _note(uow, "PROJECT_DELETED", project, actor, changes=changes, metadata=unassigned)


def check_not_well_known(project: Project) -> None:
    """Refuse to change a project that is always there.

    Raises:
        ProjectProtectedError: It is one.
    """
    if project.id in WELL_KNOWN:
        raise ProjectProtectedError("This project is always there, as it is")


def _checked(uow: UnitOfWork, fields: ProjectFields, *, missing: str) -> dict[str, Any]:
    """Return the fields as they are stored; `missing` is said of one that must have a value and has none."""
    problems = {name: missing for name in ("name", "owner_id") if fields.get(name, "") is None}
    columns: dict[str, Any] = {}
    name, description, owner_id = fields.get("name"), fields.get("description"), fields.get("owner_id")
    if name is not None:
        columns["name"] = name.strip()
        if problem := text_problem(name, longest=LONGEST_NAME):
            problems["name"] = problem
    if "description" in fields:
        columns["description"] = tidied(description)
        if columns["description"] and (problem := text_problem(description, longest=LONGEST_DESCRIPTION)):
            problems["description"] = problem
    if owner_id is not None:
        columns["owner_id"] = owner_id
        if problem := owner_problem(uow, owner_id):
            problems["owner_id"] = problem
    if problems:
        raise ValidationError(problems)
    return columns


def _check_name_is_free(uow: UnitOfWork, project: Project) -> None:
    other = uow.projects.find_by_name(project.name)
    if other is not None and other.id != project.id:
        raise ProjectExistsError("Another project has that name")


def _told(project: Project) -> dict[str, object]:
    return {"name": project.name, "description": project.description, "owner_id": project.owner_id}


def _note(
    uow: UnitOfWork,
    operation: str,
    project: Project,
    actor: Actor,
    *,
    changes: Mapping[str, object],
    metadata: Mapping[str, object] | None = None,
) -> None:
    uow.audit.append(
        AuditNote(operation, "config", "project", project.id, actor, changes=changes, metadata=metadata or {})
    )
