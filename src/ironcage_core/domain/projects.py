"""Projects: what agents and tokens are grouped by, and whose provider keys may be released to programs."""

from typing import NamedTuple

from ironcage_core.domain.instants import Instant


class Project(NamedTuple):
    """One project; a column each, in order. The well-known ones have no owner."""

    id: str
    name: str
    description: str | None
    owner_id: str | None
    created_at: Instant
    updated_at: Instant


class ProjectKey(NamedTuple):
    """The provider key that a project has of one kind of provider; a column each, in order."""

    project_id: str
    provider: str
    provider_key_id: str
    assigned_at: Instant
