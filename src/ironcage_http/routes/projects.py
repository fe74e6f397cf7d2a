"""Projects: seen by whom they concern, made and changed by admins, and the provider keys they have."""

from decimal import Decimal
from typing import Any, Final, cast, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.ports.lists import Page, ProjectOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.project_keys import AssignedKey, assign_key_to_project, unassign_keys_from_project
from ironcage_core.services.projects import (
    ProjectFields,
    ProjectOverview,
    any_project,
    create_project,
    delete_project,
    list_projects,
    project_overview,
    update_project,
)
from ironcage_http.calls import Call, answer, listed, nothing
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, moment

ORDERS: Final[tuple[ProjectOrder, ...]] = get_args(ProjectOrder)

_UNSET: Final = msgspec.UNSET


class ProjectBody(msgspec.Struct, frozen=True):
    """A new project; without an owner it is the caller's."""

    name: str
    description: str | None = None
    owner_id: str | None = None


class ProjectChangeBody(msgspec.Struct, frozen=True):
    """What changes; a description of null is none."""

    name: str | msgspec.UnsetType | None = _UNSET
    description: str | msgspec.UnsetType | None = _UNSET
    owner_id: str | msgspec.UnsetType | None = _UNSET


class ProjectKeyBody(msgspec.Struct, frozen=True):
    """Which provider key."""

    provider_key_id: str


class ProjectView(msgspec.Struct, frozen=True):
    """A project in a list; counts are of the caller's own where the scope is `own`."""

    id: str
    name: str
    description: str | None
    owner_id: str | None
    user_count: int | None
    agent_count: int
    provider_count: int
    scope: str
    created_at: str | None
    updated_at: str | None


class ProjectDetailView(ProjectView, frozen=True, kw_only=True):
    """A project with the sums over its live agents, in USD."""

    total_budget: Decimal
    total_spent: Decimal


class ProjectKeyView(msgspec.Struct, frozen=True):
    """A provider key that a project has."""

    project_id: str
    provider_key_id: str
    provider: str
    assigned_at: str | None
    replaced_key_id: str | None


async def create(call: Call) -> ASGIResponse:
    """Make a project."""
    who = call.user()
    body = call.read(ProjectBody)

    def run(uow: UnitOfWork) -> ProjectOverview:
        principal = who(uow)
        return create_project(uow, _given(body.value()), principal=principal)

    return answer(_detail(await call.write(run)), status=201)


async def list_all(call: Call) -> ASGIResponse:
    """List projects."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    name = query.text("name")

    def run(uow: UnitOfWork) -> Page[ProjectOverview]:
        principal = who(uow)
        query.check()
        return list_projects(uow, principal, name, paging, order, descending=descending)

    page = await call.see(run)
    return listed(page, paging, [ProjectView(*_shown(each)) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one project."""
    who = call.user()
    return answer(_detail(await call.see(lambda uow: project_overview(uow, call.path["project_id"], who(uow)))))


async def update(call: Call) -> ASGIResponse:
    """Change a project."""
    who = call.user()
    body = call.read(ProjectChangeBody)

    def run(uow: UnitOfWork) -> ProjectOverview:
        principal = who(uow)
        body.check_syntax()
        project = any_project(uow, call.path["project_id"])
        return update_project(uow, project.id, _given(body.value()), principal=principal)

    return answer(_detail(await call.write(run)))


async def delete(call: Call) -> ASGIResponse:
    """Remove a project."""
    who = call.user()
    await call.write(lambda uow: delete_project(uow, call.path["project_id"], actor=who(uow).actor))
    return nothing()


async def assign_key(call: Call) -> ASGIResponse:
    """Give a project a provider key."""
    who = call.user()
    body = call.read(ProjectKeyBody)

    def run(uow: UnitOfWork) -> AssignedKey:
        principal = who(uow)
        body.check_syntax()
        project = any_project(uow, call.path["project_id"])
        return assign_key_to_project(uow, project.id, body.value().provider_key_id, principal=principal)

    assigned = await call.write(run)
    key = assigned.key
    return answer(
        ProjectKeyView(
            project_id=key.project_id,
            provider_key_id=key.provider_key_id,
            provider=key.provider,
            assigned_at=moment(key.assigned_at),
            replaced_key_id=assigned.replaced_key_id,
        )
    )


async def unassign_keys(call: Call) -> ASGIResponse:
    """Take provider keys away from a project."""
    who = call.user()
    query = Query(call.query)
    provider, key_id = query.choice("provider", KNOWN_PROVIDERS), query.id("provider_key_id", "prov")

    def run(uow: UnitOfWork) -> None:
        principal = who(uow)
        project = any_project(uow, call.path["project_id"])
        query.check()
        unassign_keys_from_project(uow, project.id, provider=provider, key_id=key_id, principal=principal)

    await call.write(run)
    return nothing()


def _given(wish: ProjectBody | ProjectChangeBody) -> ProjectFields:
    """Return the fields that a body has."""
    fields = {name: getattr(wish, name) for name in wish.__struct_fields__}
    return cast("ProjectFields", {name: value for name, value in fields.items() if value is not _UNSET})


def _detail(seen: ProjectOverview) -> ProjectDetailView:
    totals = seen.totals
    return ProjectDetailView(*_shown(seen), total_budget=amount(totals.allocated), total_spent=amount(totals.spent))


def _shown(seen: ProjectOverview) -> tuple[Any, ...]:
    project = seen.project
    return (
        project.id,
        project.name,
        project.description,
        project.owner_id,
        seen.users,
        seen.totals.agents,
        seen.providers,
        seen.scope,
        moment(project.created_at),
        moment(project.updated_at),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/projects", create, "Make a project", body=ProjectBody, answer=ProjectDetailView, status=201,
        action="projects.write", codes=("PROJECT_EXISTS",),
        example={"name": "Search", "description": "everything that finds"},
    ),
    Route(
        "GET", "/projects", list_all, "List the projects that the caller may see", answer=ProjectView,
        action="projects.read", query=(*PAGED, "name"),
    ),
    Route(
        "GET", "/projects/{project_id}", get, "Show a project, with what is in it", answer=ProjectDetailView,
        action="projects.read", codes=("PROJECT_NOT_FOUND",),
    ),
    Route(
        "PUT", "/projects/{project_id}", update, "Change a project", body=ProjectChangeBody, answer=ProjectDetailView,
        action="projects.write",
        codes=("PROJECT_NOT_FOUND", "NO_FIELDS_PROVIDED", "PROJECT_EXISTS", "PROJECT_PROTECTED"),
        example={"description": None},
    ),
    Route(
        "DELETE", "/projects/{project_id}", delete, "Remove a project that holds nothing alive", status=204,
        action="projects.write", codes=("PROJECT_NOT_FOUND", "PROJECT_PROTECTED", "PROJECT_NOT_EMPTY"),
    ),
    Route(
        "POST", "/projects/{project_id}/provider", assign_key,
        "Give a project a provider key, in the place of the one it has of that provider", body=ProjectKeyBody,
        answer=ProjectKeyView, action="projects.write",
        codes=("PROJECT_NOT_FOUND", "PROVIDER_NOT_FOUND", "INVALID_PROVIDER_ID", "PROJECT_PROTECTED"),
        example={"provider_key_id": "prov_..."},
    ),
    Route(
        "DELETE", "/projects/{project_id}/provider", unassign_keys,
        "Take a project's provider keys away: all, or those of `?provider=` or `?provider_key_id=`", status=204,
        action="projects.write",
        query=("provider", "provider_key_id"), codes=("PROJECT_NOT_FOUND", "PROVIDER_NOT_ASSIGNED", "VALIDATION_ERROR"),
    ),
)  # fmt: skip
