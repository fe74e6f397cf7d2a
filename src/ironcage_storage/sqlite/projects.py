"""Projects and their provider keys."""

from collections.abc import Mapping, Sequence
from typing import Final

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.ports.lists import Page, Paging, ProjectFilter, ProjectOrder
from ironcage_core.ports.totals import ProjectTotals
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session
from ironcage_storage.sqlite.totals import agent_totals, owners_in

_ORDERS: Final[Mapping[ProjectOrder, str]] = {"name": "fold(name)", "created_at": "created_at"}
_VISIBLE: Final = f"""(id = '{MASTER_PROJECT}' OR (id <> '{ORPHANED_PROJECT}' AND (
    id IN (SELECT project_id FROM agent_totals WHERE owner_id = ? AND agents > 0)
    OR id IN (SELECT project_id FROM api_tokens WHERE user_id = ? AND is_active = 1 AND revoked_at IS NULL
        AND rotated_at IS NULL AND (expires_at IS NULL OR expires_at > ?)))))"""


class SqliteProjects:
    """Implements `Projects`.

    Args:
        session: Where it belongs.
        agents: What visibility and totals read, beside budgets and API tokens.
        others: Those.
    """

    def __init__(self, session: Session, agents: Pending, *others: Pending) -> None:
        self._table: Table[Project] = Table(session, "projects", Project)
        self._session = session
        self._reads = (self._table, agents, *others)

    def find(self, project_id: str) -> Project | None:
        """Return the project with this id."""
        return self._table.get(project_id)

    def find_by_name(self, name: str) -> Project | None:
        """Return the project with this name, in whatever case."""
        rows = self._table.rows("projects WHERE fold(name) = fold(?)", (name,))
        return rows[0] if rows else None

    def put(self, project: Project) -> None:
        """Store the project, new or changed."""
        self._table.put(project)

    def remove(self, project_id: str) -> None:
        """Remove the project, which has no keys any more."""
        self._table.remove(project_id)

    def page(
        self, which: ProjectFilter, paging: Paging, order: ProjectOrder = "created_at", *, descending: bool = True
    ) -> Page[Project]:
        """Return projects, newest first unless told otherwise."""
        terms, parameters = conjunction({"id = ?": which.project_id, "instr(fold(name), fold(?)) > 0": which.name})
        if which.visible_to is not None:
            terms = f"{terms} AND {_VISIBLE}"
            parameters = (*parameters, which.visible_to, which.visible_to, which.now)
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'}, id DESC"
        where = f"projects WHERE {terms} ORDER BY {by} LIMIT ? OFFSET ?"
        rows = self._table.rows(where, (*parameters, paging.per_page, paging.offset), *self._reads)
        sql = f"SELECT count(*) FROM projects WHERE {terms}"
        (total,) = self._session.query(sql, parameters, *self._reads).fetchone()
        return Page(rows, total)

    def totals(self, project_id: str, owner_id: str | None = None) -> ProjectTotals:
        """Return counts and sums over the project's live agents, or over those of one owner."""
        kept = agent_totals(self._session, *self._reads, owner_id=owner_id, project_id=project_id)
        if owner_id is None:
            owners = owners_in(self._session, *self._reads, project_id=project_id)
        else:
            owners = int(kept.agents > 0)
        return ProjectTotals(kept.agents, owners, kept.allocated, kept.spent)

    def owned_by(self, user_id: str) -> Sequence[Project]:
        """Return the projects of an owner."""
        return self._table.rows("projects WHERE owner_id = ? ORDER BY id", (user_id,))

    def keys_of(self, project_id: str) -> Sequence[ProjectKey]:
        """Return the project's provider keys, the latest assigned first."""
        names = ", ".join(ProjectKey._fields)
        sql = f"SELECT {names} FROM project_providers WHERE project_id = ? ORDER BY assigned_at DESC, provider"
        return [ProjectKey._make(row) for row in self._session.query(sql, (project_id,))]

    def projects_of_key(self, key_id: str) -> Sequence[str]:
        """Return the ids of the projects that have this provider key."""
        sql = "SELECT project_id FROM project_providers WHERE provider_key_id = ? ORDER BY project_id"
        return [project_id for (project_id,) in self._session.query(sql, (key_id,))]

    def assign(self, key: ProjectKey) -> None:
        """Give a project a provider key, in the place of the one it has of that kind."""
        names, marks = ", ".join(key._fields), ", ".join("?" * len(key))
        sql = f"""INSERT INTO project_providers ({names}) VALUES ({marks}) ON CONFLICT (project_id, provider)
            DO UPDATE SET provider_key_id = excluded.provider_key_id, assigned_at = excluded.assigned_at"""
        self._session.execute(sql, key)

    def unassign(self, project_id: str, provider: str) -> None:
        """Take the project's provider key of a kind away."""
        self._session.execute(
            "DELETE FROM project_providers WHERE project_id = ? AND provider = ?", (project_id, provider)
        )
