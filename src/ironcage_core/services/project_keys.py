"""Provider keys of projects: at most one of each kind of provider, which programs with a token of the project may get.

Source: contract resources.md 2.5.
"""

from dataclasses import dataclass

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ids import ORPHANED_PROJECT, is_id
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.errors.resources import (
    InvalidProviderIdError,
    ProjectProtectedError,
    ProviderNotAssignedError,
    ProviderNotFoundError,
)
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.projects import any_project


@dataclass(frozen=True, slots=True)
class AssignedKey:
    """A provider key of a project, and the id of the one that it has replaced."""

    key: ProjectKey
    replaced_key_id: str | None


def assign_key_to_project(uow: UnitOfWork, project_id: str, key_id: str, *, principal: Principal) -> AssignedKey:
    """Give a project a provider key, in the place of the one it has of that provider; the same one is no change.

    A disabled key may be assigned; it is not released until it is enabled.

    Raises:
        ProjectNotFoundError: No such project.
        InvalidProviderIdError, ProviderNotFoundError: The key id is malformed; unknown.
        ProjectProtectedError: It is the project of orphaned agents.
    """
    project = any_project(uow, project_id)
    if not is_id(key_id, "prov"):
        raise InvalidProviderIdError("A provider key id is prov_ and 32 hex digits")
    key = uow.provider_keys.find(key_id)
    if key is None:
        raise ProviderNotFoundError("No such provider key")
    if project_id == ORPHANED_PROJECT:
        raise ProjectProtectedError("The project of orphaned agents has no provider keys")
    before = next((each for each in uow.projects.keys_of(project_id) if each.provider == key.provider), None)
    if before is not None and before.provider_key_id == key_id:
        return AssignedKey(before, None)
    assigned = ProjectKey(project_id, key.provider, key_id, uow.now)
    uow.projects.assign(assigned)
    _note(uow, "PROJECT_PROVIDER_ASSIGNED", project, key.provider, before, assigned, principal)
    return AssignedKey(assigned, None if before is None else before.provider_key_id)


def unassign_keys_from_project(
    uow: UnitOfWork,
    project_id: str,
    *,
    provider: str | None = None,
    key_id: str | None = None,
    principal: Principal,
) -> None:
    """Take provider keys away from a project: those that match what is given, or all.

    Raises:
        ProjectNotFoundError: No such project.
        ProviderNotAssignedError: Nothing matches.
    """
    project = any_project(uow, project_id)
    matching = [
        key
        for key in uow.projects.keys_of(project_id)
        if provider in {None, key.provider} and key_id in {None, key.provider_key_id}
    ]
    if not matching:
        raise ProviderNotAssignedError("The project has no such provider key")
    for key in matching:
        uow.projects.unassign(project_id, key.provider)
        _note(uow, "PROJECT_PROVIDER_UNASSIGNED", project, key.provider, key, None, principal)


def _note(
    uow: UnitOfWork,
    operation: str,
    project: Project,
    provider: str,
    before: ProjectKey | None,
    after: ProjectKey | None,
    principal: Principal,
) -> None:
    changes = {
        side: None if key is None else {"provider_key_id": key.provider_key_id}
        for side, key in (("before", before), ("after", after))
    }
    note = AuditNote(
        operation, "credential", "project", project.id, principal.actor,
        changes=changes, metadata={"provider": provider},
    )  # fmt: skip
    uow.audit.append(note)
