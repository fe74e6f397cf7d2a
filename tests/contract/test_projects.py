"""Projects in every store: found, listed, counted, and the provider keys they have."""

from collections.abc import Sequence
from functools import partial

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.domain.users import UsageLimit
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.lists import Paging, ProjectFilter, ProjectOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import ProjectTotals
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, api_row, balance_row, fresh_id, key_row, user_row
from tests.support.stores import RefusedError, raising
from tests.support.world import NOON

ANN, BEA = user_row("project ann"), user_row("project bea")


def project_row(name: str, **fields: object) -> Project:
    return Project(fresh_id("proj"), name, None, None, NOON, NOON)._replace(**fields)  # type: ignore[arg-type]


BETA = project_row("beta", owner_id=ANN.id, created_at=NOON - 1)
ALPHA = project_row("\u00c4lpha", owner_id=BEA.id)
PERCENT = project_row("50%_off", created_at=NOON + 1)
PLAIN = project_row("500off", owner_id=ANN.id)
PROJECTS = (BETA, ALPHA, PERCENT, PLAIN)
AGENTS = [
    agent_row(ANN.id, project_id=BETA.id),
    agent_row(ANN.id, project_id=BETA.id),
    agent_row(BEA.id, project_id=BETA.id),
    agent_row(ANN.id, project_id=BETA.id, deleted_at=NOON),
    agent_row(BEA.id, project_id=ALPHA.id, deleted_at=NOON),
    agent_row(ANN.id, project_id=ORPHANED_PROJECT),
]
TOKENS = [
    api_row(ANN.id, project_id=ALPHA.id, expires_at=NOON + 1),
    api_row(ANN.id, project_id=PLAIN.id, is_active=0),
    api_row(ANN.id, project_id=ORPHANED_PROJECT),
    api_row(BEA.id, project_id=PERCENT.id),
]
KEYS = [key_row(), key_row(), key_row(provider="anthropic")]


def fill(uow: UnitOfWork) -> None:
    for user in (ANN, BEA):
        uow.users.put(user)
    for project in PROJECTS:
        uow.projects.put(project)
    for number, agent in enumerate(AGENTS):
        uow.agents.put(agent)
        uow.balances.put(balance_row(agent.id, allocated=1000 + number, spent=10 + number))
    for token in TOKENS:
        uow.api_tokens.put(token)
    for key in KEYS:
        uow.provider_keys.put(key)


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    store.write(fill)
    return store


def ids(
    store: SqliteStore, which: ProjectFilter, order: ProjectOrder = "name", *, descending: bool = False
) -> list[str]:
    page = store.read(lambda uow: uow.projects.page(which, Paging(), order, descending=descending))
    assert page.total == len(page.rows)
    return [project.id for project in page.rows]


FILTERS = [
    (ProjectFilter(), [PERCENT.id, PLAIN.id, BETA.id, MASTER_PROJECT, ORPHANED_PROJECT, ALPHA.id]),
    (ProjectFilter(name="BET"), [BETA.id]),
    (ProjectFilter(name="\u00e4LP"), [ALPHA.id]),
    (ProjectFilter(name="%"), [PERCENT.id]),
    (ProjectFilter(name="0_"), []),
    (ProjectFilter(project_id=ALPHA.id), [ALPHA.id]),
    (ProjectFilter(project_id=ALPHA.id, name="beta"), []),
    (ProjectFilter(visible_to=ANN.id, now=NOON), [BETA.id, MASTER_PROJECT, ALPHA.id]),
    (ProjectFilter(visible_to=ANN.id, now=NOON + 1), [BETA.id, MASTER_PROJECT]),
    (ProjectFilter(visible_to=BEA.id, now=NOON), [PERCENT.id, BETA.id, MASTER_PROJECT]),
    (ProjectFilter(visible_to="user", now=NOON), [MASTER_PROJECT]),
    (ProjectFilter(visible_to=ANN.id, now=NOON, project_id=PLAIN.id), []),
    (ProjectFilter(visible_to=ANN.id, now=NOON, name="beta"), [BETA.id]),
]


@pytest.mark.parametrize(("which", "expected"), FILTERS)
def test_a_list_holds_what_its_filter_says(filled: SqliteStore, which: ProjectFilter, expected: list[str]) -> None:
    """By name without regard to case, in every script, and by who may see."""
    assert ids(filled, which) == expected


def test_a_list_is_in_the_asked_order(filled: SqliteStore) -> None:
    """Newest first unless told otherwise; ties by id, the latest first."""
    by_time = [PERCENT.id, PLAIN.id, ALPHA.id, BETA.id, ORPHANED_PROJECT, MASTER_PROJECT]

    default = filled.read(lambda uow: uow.projects.page(ProjectFilter(), Paging(2, 2)))

    assert ids(filled, ProjectFilter(), "created_at", descending=True) == by_time
    assert ids(filled, ProjectFilter(), "name", descending=True)[0] == ALPHA.id
    assert ([project.id for project in default.rows], default.total) == (by_time[2:4], 6)


def test_totals_are_those_of_live_agents(filled: SqliteStore) -> None:
    """Of all owners or of one."""

    def totals(project_id: str, owner_id: str | None = None) -> ProjectTotals:
        return filled.read(lambda uow: uow.projects.totals(project_id, owner_id))

    assert totals(BETA.id) == ProjectTotals(3, 2, 3003, 33)
    assert totals(BETA.id, BEA.id) == ProjectTotals(1, 1, 1002, 12)
    assert totals(ALPHA.id) == totals(BETA.id, "user") == ProjectTotals(0, 0, 0, 0)


def test_what_a_unit_wrote_counts_in_it(store: SqliteStore) -> None:
    """Lists, totals and names see what is not yet durable."""

    def work(uow: UnitOfWork) -> tuple[list[str], int, Project | None]:
        fill(uow)
        page = uow.projects.page(ProjectFilter(visible_to=ANN.id, now=NOON), Paging())
        return [row.id for row in page.rows], uow.projects.totals(BETA.id).agents, uow.projects.find_by_name("BETA")

    assert store.write(work) == ([ALPHA.id, BETA.id, MASTER_PROJECT], 3, BETA)


def test_a_project_is_found_by_its_name_in_whatever_case(filled: SqliteStore) -> None:
    """In every script."""
    names = ("BETA", "\u00e4LPHA", "master", "gamma", "bet")

    found = filled.read(lambda uow: [uow.projects.find_by_name(name) for name in names])

    assert [project and project.id for project in found] == [BETA.id, ALPHA.id, MASTER_PROJECT, None, None]


def test_no_two_projects_have_one_name(filled: SqliteStore) -> None:
    """The database itself refuses the second."""
    with pytest.raises(InvariantViolationError):
        filled.write(lambda uow: uow.projects.put(project_row("BETA")))


def test_the_projects_of_an_owner_are_found(filled: SqliteStore) -> None:
    """In the order of their ids."""
    assert filled.read(lambda uow: list(uow.projects.owned_by(ANN.id))) == [BETA, PLAIN]


def test_a_removed_project_is_gone_and_its_name_free(filled: SqliteStore) -> None:
    """And comes back where the unit of work fails."""
    with pytest.raises(RefusedError):
        filled.write(raising(lambda uow: uow.projects.remove(PLAIN.id)))
    assert filled.read(lambda uow: uow.projects.find(PLAIN.id)) == PLAIN
    filled.write(lambda uow: uow.projects.remove(PLAIN.id))
    filled.write(lambda uow: uow.projects.put(project_row(PLAIN.name)))

    assert filled.read(lambda uow: uow.projects.find(PLAIN.id)) is None


def keys_of(store: SqliteStore, project_id: str) -> Sequence[ProjectKey]:
    return store.read(lambda uow: uow.projects.keys_of(project_id))


def test_a_project_has_one_key_of_a_kind_the_latest_first(filled: SqliteStore) -> None:
    """Another takes the first one's place; a key may serve many projects."""
    first = ProjectKey(BETA.id, "openai", KEYS[0].id, NOON)
    other = ProjectKey(BETA.id, "anthropic", KEYS[2].id, NOON + 1)
    second = ProjectKey(BETA.id, "openai", KEYS[1].id, NOON + 2)
    elsewhere = ProjectKey(ALPHA.id, "openai", KEYS[1].id, NOON)
    for key in (first, other):
        filled.write(partial(lambda uow, key: uow.projects.assign(key), key=key))
    before = keys_of(filled, BETA.id)
    for key in (second, elsewhere):
        filled.write(partial(lambda uow, key: uow.projects.assign(key), key=key))

    assert before == [other, first]
    assert keys_of(filled, BETA.id) == [second, other]
    projects = filled.read(lambda uow: [uow.projects.projects_of_key(key.id) for key in KEYS])
    assert projects == [[], sorted([ALPHA.id, BETA.id]), [BETA.id]]
    filled.write(lambda uow: uow.projects.unassign(BETA.id, "openai"))
    assert (keys_of(filled, BETA.id), keys_of(filled, ALPHA.id)) == ([other], [elsewhere])


def test_a_project_with_keys_cannot_be_removed(filled: SqliteStore) -> None:
    """The database refuses what would leave a key assigned to nothing."""
    filled.write(lambda uow: uow.projects.assign(ProjectKey(BETA.id, "openai", KEYS[0].id, NOON)))

    with pytest.raises(InvariantViolationError):
        filled.write(lambda uow: uow.projects.remove(BETA.id))


def test_the_limits_of_a_project_go_and_others_stay(filled: SqliteStore) -> None:
    """Of all users in that project; there is room for new ones then."""

    def limit(user_id: str, project_id: str | None) -> UsageLimit:
        return UsageLimit(fresh_id("lim"), user_id, 5, NOON, NOON, project_id=project_id)

    def put(*limits: UsageLimit) -> None:
        def putting(uow: UnitOfWork) -> None:
            for each in limits:
                uow.limits.put(each)

        filled.write(putting)

    put(limit(ANN.id, BETA.id), limit(BEA.id, BETA.id), limit(ANN.id, ALPHA.id), limit(ANN.id, None))

    filled.write(lambda uow: uow.limits.delete_of_project(BETA.id))

    put(limit(ANN.id, BETA.id), limit(BEA.id, BETA.id))
    with pytest.raises(InvariantViolationError):
        put(limit(ANN.id, ALPHA.id))
    assert filled.read(lambda uow: uow.limits.find_of(ANN.id)) is not None
