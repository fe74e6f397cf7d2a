"""Projects: who sees which, what is in them, and what must hold to change or remove one."""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.projects import Project
from ironcage_core.domain.users import Role, UsageLimit
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.errors.resources import (
    InvalidProviderIdError,
    ProjectExistsError,
    ProjectNotEmptyError,
    ProjectNotFoundError,
    ProjectProtectedError,
    ProviderNotAssignedError,
    ProviderNotFoundError,
)
from ironcage_core.errors.tree import NoFieldsError, ValidationError
from ironcage_core.ports.lists import Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.api_tokens import visible_project
from ironcage_core.services.project_keys import AssignedKey, assign_key_to_project, unassign_keys_from_project
from ironcage_core.services.projects import (
    ProjectFields,
    ProjectOverview,
    create_project,
    delete_project,
    list_projects,
    project_overview,
    update_project,
)
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.user_removal import delete_user
from tests.support.rows import api_row, fresh_id
from tests.support.world import ADMIN, API_KEY, USD, World

UNKNOWN = "proj_" + "0" * 32


@dataclass
class Office:
    """A world with an admin, and short words for what is done in it; `ann` is its ordinary user."""

    world: World

    def __post_init__(self) -> None:
        self.root = self.person("root", "admin")
        self.ann = principal_of(self.world.owner_id, "user")

    def person(self, name: str, role: Role = "user") -> Principal:
        user = self.world.store.write(partial(add_user, username=name, email=f"{name}@test", role=role, actor=ADMIN))
        return principal_of(user.id, role)

    def create(self, name: str = "Search", **fields: Any) -> Project:  # noqa: ANN401 - as the test says
        wish: ProjectFields = {"name": name, **fields}  # type: ignore[typeddict-item]  # as the test says
        return self.world.store.write(lambda uow: create_project(uow, wish, principal=self.root)).project

    def update(self, project_id: str, **fields: Any) -> Project:  # noqa: ANN401 - as the test says
        wish: ProjectFields = fields  # type: ignore[assignment]  # as the test says
        return self.world.store.write(lambda uow: update_project(uow, project_id, wish, principal=self.root)).project

    def delete(self, project_id: str) -> None:
        self.world.store.write(lambda uow: delete_project(uow, project_id, actor=self.root.actor))

    def assign(self, project_id: str, key_id: str) -> AssignedKey:
        return self.world.store.write(lambda uow: assign_key_to_project(uow, project_id, key_id, principal=self.root))

    def unassign(self, project_id: str, **which: str) -> None:
        self.world.store.write(lambda uow: unassign_keys_from_project(uow, project_id, principal=self.root, **which))

    def keys(self, project_id: str) -> list[str]:
        return self.world.store.read(lambda uow: [key.provider_key_id for key in uow.projects.keys_of(project_id)])

    def seen(self, principal: Principal, name: str | None = None) -> list[str]:
        """Return the names of the projects in a principal's list, each of which the principal may look at alone."""
        page = self.world.store.read(
            lambda uow: list_projects(uow, principal, name, Paging(), "name", descending=False)
        )
        assert page.total == len(page.rows)
        assert [self.look(each.project.id, principal) for each in page.rows] == list(page.rows)
        return [each.project.name for each in page.rows]

    def look(self, project_id: str, principal: Principal) -> ProjectOverview:
        return self.world.store.read(lambda uow: project_overview(uow, project_id, principal))

    def move(self, agent_id: str, project_id: str) -> None:
        def moving(uow: UnitOfWork) -> None:
            agent = uow.agents.find(agent_id)
            assert agent is not None
            uow.agents.put(agent._replace(project_id=project_id))

        self.world.store.write(moving)

    def token(self, user_id: str, project_id: str | None, **fields: object) -> ApiToken:
        token = api_row(user_id, project_id=project_id, **fields)
        self.world.store.write(lambda uow: uow.api_tokens.put(token))
        return token

    def limit(self, project_id: str) -> None:
        """Limit the user in a project; a user has one limit in each."""
        limit = UsageLimit(fresh_id("lim"), self.world.owner_id, USD, 0, 0, project_id=project_id)
        self.world.store.write(lambda uow: uow.limits.put(limit))

    def key(self, provider: str = "openai") -> str:
        return self.world.store.write(
            partial(add_provider_key, provider=provider, api_key=API_KEY, actor=ADMIN, vault=self.world.vault)
        ).id

    def audited(self) -> list[tuple[str, Any]]:
        """Return what was remembered of projects: the operation and its changes."""
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [(row.operation, json.loads(row.changes or "{}")) for row in rows if row.resource_type == "project"]


def principal_of(user_id: str, role: Role) -> Principal:
    reach: Any = "all" if role == "admin" else "own"
    return Principal(user_id, role, f"{role}@test", role, role, "sess", must_change_password=False, reach=reach)


@pytest.fixture
def office(world: World) -> Office:
    return Office(world)


def test_two_projects_are_always_there(office: Office) -> None:
    """Everybody sees the master project, admins alone the one of orphaned agents."""
    assert office.seen(office.root) == ["Master", "Orphaned"]
    assert office.seen(office.ann) == ["Master"]


def test_a_user_sees_where_the_own_agents_and_active_tokens_are(office: Office) -> None:
    """A deleted agent, a token that has ended and other users' things show nothing."""
    names = ("agent", "gone", "token", "ended", "expired", "off", "others")
    agent_in, gone, token_in, ended, expired, off, others = (office.create(name).id for name in names)
    bob = office.person("bob")
    world = office.world
    office.move(world.agent().id, agent_in)
    deleted = world.agent().id
    office.move(deleted, gone)
    world.store.write(lambda uow: uow.agents.put(live(uow, deleted)._replace(deleted_at=uow.now)))
    office.token(world.owner_id, token_in)
    office.token(world.owner_id, ended, revoked_at=1, revoked_by="x")
    office.token(world.owner_id, expired, expires_at=world.clock.now())
    office.token(world.owner_id, off, is_active=0)
    office.token(bob.user_id, others)

    assert office.seen(office.ann) == ["agent", "Master", "token"]
    assert office.seen(office.ann, "TOK") == ["token"]
    assert len(office.seen(office.root)) == len(names) + 2
    for hidden in (gone, ended, expired, off, others, ORPHANED_PROJECT, UNKNOWN, "abc"):
        with pytest.raises(ProjectNotFoundError):
            office.look(hidden, office.ann)


def live(uow: UnitOfWork, agent_id: str) -> Any:  # noqa: ANN401 - an agent
    return uow.agents.find(agent_id)


def test_orphans_stay_hidden_from_those_who_own_one(office: Office) -> None:
    """The project of orphaned agents is the admins' alone."""
    office.move(office.world.agent().id, ORPHANED_PROJECT)
    office.token(office.world.owner_id, ORPHANED_PROJECT)

    assert office.seen(office.ann) == ["Master"]


def test_a_token_of_a_project_sees_that_one_only(office: Office) -> None:
    """Not even the master project; and nothing at all where its owner may not look."""
    project = office.create()
    token = office.token(office.world.owner_id, project.id)
    bound = replace(office.ann, token=token)
    admins = replace(office.root, token=token)
    astray = replace(office.ann, token=token._replace(project_id=ORPHANED_PROJECT))

    assert office.seen(bound) == office.seen(admins) == ["Search"]
    assert office.seen(bound, "mas") == office.seen(astray) == []
    for principal in (bound, admins):
        with pytest.raises(ProjectNotFoundError):
            office.look(MASTER_PROJECT, principal)


def test_an_admin_sees_all_that_is_in_a_project_and_a_user_the_own(office: Office) -> None:
    """Counts and sums over live agents; users are the agents' owners, in the master project all that live."""
    world, project = office.world, office.create().id
    bob = office.person("bob").user_id
    for owner in (world.owner_id, world.owner_id, bob):
        office.move(world.agent(10 * USD, owner_id=owner).id, project)
    spending = world.agent(5 * USD)
    office.move(spending.id, project)
    spending.report(spending.handshake(USD).lease.id, "one", 300_000)
    office.assign(project, world.key_id)

    everything, own = office.look(project, office.root), office.look(project, office.ann)

    assert (everything.totals.agents, everything.users, everything.providers, everything.scope) == (4, 2, 1, "all")
    assert (everything.totals.allocated, everything.totals.spent) == (35 * USD, 300_000)
    assert (own.totals.agents, own.users, own.providers, own.scope) == (3, None, 1, "own")
    assert (own.totals.allocated, own.totals.spent) == (25 * USD, 300_000)
    assert office.look(MASTER_PROJECT, office.root).users == 3  # root, ann and bob


def test_a_project_is_made_for_the_admin_or_a_live_user(office: Office) -> None:
    """Texts are trimmed, an empty description is none, and it is remembered."""
    mine = office.create("  Search ", description=" ")
    anns = office.create("Ads", description=" all of them ", owner_id=office.ann.user_id)

    assert (mine.name, mine.description, mine.owner_id) == ("Search", None, office.root.user_id)
    assert (anns.description, anns.owner_id) == ("all of them", office.ann.user_id)
    told = {"name": "Search", "description": None, "owner_id": office.root.user_id}
    assert office.audited()[0] == ("PROJECT_CREATED", {"before": None, "after": told})


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"name": None}, {"name"}),
        ({"name": " "}, {"name"}),
        ({"name": "x" * 101}, {"name"}),
        ({"name": "a\nb"}, {"name"}),
        ({"description": "x" * 501}, {"description"}),
        ({"owner_id": "user_" + "0" * 32}, {"owner_id"}),
        ({"owner_id": "abc", "name": "", "description": "\x00"}, {"owner_id", "name", "description"}),
    ],
)
def test_every_bad_field_is_named_at_once(office: Office, fields: dict[str, Any], bad: set[str]) -> None:
    """In a new project as in a change; nothing is kept of either."""
    project = office.create()

    with pytest.raises(ValidationError) as new:
        office.create(**{"name": "Other", **fields})
    with pytest.raises(ValidationError) as change:
        office.update(project.id, **fields)

    assert set(new.value.fields) == set(change.value.fields) == bad
    assert office.seen(office.root) == ["Master", "Orphaned", "Search"]


@pytest.mark.parametrize("name", ["search", "SEARCH ", "master", "oRPHANED", "stra\u00dfe", "\u00c4RGER"])
def test_a_name_is_taken_once_in_whatever_case(office: Office, name: str) -> None:
    """In every script, by a new project and by a change; its own name in another case is free for a project."""
    for taken in ("Search", "STRASSE", "\u00e4rger"):
        office.create(taken)
    other = office.create("Other")

    with pytest.raises(ProjectExistsError):
        office.create(name)
    with pytest.raises(ProjectExistsError):
        office.update(other.id, name=name)
    assert office.update(other.id, name="OTHER").name == "OTHER"


def test_a_change_touches_what_is_given(office: Office) -> None:
    """And is remembered with before and after; one that changes nothing is not."""
    project = office.create(description="old")
    office.world.clock.pass_s(1)

    office.update(project.id, name="Search")
    same = office.look(project.id, office.root).project
    changed = office.update(project.id, description=None)

    assert same == project
    assert changed == project._replace(description=None, updated_at=office.world.clock.now())
    assert office.audited()[1:] == [
        ("PROJECT_UPDATED", {"before": {"description": "old"}, "after": {"description": None}})
    ]
    with pytest.raises(NoFieldsError):
        office.update(project.id)
    with pytest.raises(ValidationError) as refusal:
        office.update(project.id, name=None, owner_id=None)
    assert set(refusal.value.fields) == {"name", "owner_id"}


@pytest.mark.parametrize("project_id", [MASTER_PROJECT, ORPHANED_PROJECT])
def test_the_well_known_projects_stay_as_they_are(office: Office, project_id: str) -> None:
    """Neither changed nor removed."""
    with pytest.raises(ProjectProtectedError):
        office.update(project_id, name="Mine")
    with pytest.raises(ProjectProtectedError):
        office.delete(project_id)


def test_only_an_empty_project_goes(office: Office) -> None:
    """Live agents and active tokens keep it; what has ended does not. Its keys and limits go with it."""
    world, project = office.world, office.create().id
    agent = world.agent().id
    office.move(agent, project)
    token = office.token(world.owner_id, project)
    office.token(world.owner_id, project, revoked_at=1, revoked_by="x")
    office.assign(project, world.key_id)
    office.limit(project)
    office.limit(MASTER_PROJECT)

    with pytest.raises(ProjectNotEmptyError) as refusal:
        office.delete(project)
    assert dict(refusal.value.details) == {"agents": 1, "api_tokens": 1}
    world.store.write(lambda uow: uow.agents.put(live(uow, agent)._replace(deleted_at=uow.now)))
    with pytest.raises(ProjectNotEmptyError):
        office.delete(project)
    world.store.write(lambda uow: uow.api_tokens.put(token._replace(is_active=0)))
    office.delete(project)

    assert office.seen(office.root) == ["Master", "Orphaned"]
    assert office.keys(project) == []
    office.limit(project)  # there is room for another one
    with pytest.raises(InvariantViolationError):
        office.limit(MASTER_PROJECT)
    assert office.audited()[-1][0] == "PROJECT_DELETED"
    with pytest.raises(ProjectNotFoundError):
        office.delete(project)


def test_a_project_has_one_key_of_each_provider(office: Office) -> None:
    """Another of the provider takes the place of the first; one of another provider stands beside it."""
    project = office.create().id
    first, second, other = office.key(), office.key(), office.key("anthropic")

    assert office.assign(project, first).replaced_key_id is None
    office.world.clock.pass_s(1)
    assert office.assign(project, other).replaced_key_id is None
    office.world.clock.pass_s(1)
    replaced = office.assign(project, second)

    assert (replaced.replaced_key_id, replaced.key.provider) == (first, "openai")
    assert replaced.key.assigned_at == office.world.clock.now()
    assert office.keys(project) == [second, other]
    assert office.audited()[-1] == (
        "PROJECT_PROVIDER_ASSIGNED",
        {"before": {"provider_key_id": first}, "after": {"provider_key_id": second}},
    )


def test_the_same_key_again_is_no_change(office: Office) -> None:
    """It stays assigned since when it was, and nothing is remembered twice."""
    assigned = office.assign(MASTER_PROJECT, office.world.key_id)
    office.world.clock.pass_s(1)

    again = office.assign(MASTER_PROJECT, office.world.key_id)

    assert again == assigned
    assert len(office.audited()) == 1


def test_what_cannot_be_assigned_is_told_apart(office: Office) -> None:
    """Project, form of the id, key, and the project that has none."""
    key_id = office.world.key_id
    for project_id, key, error in (
        (UNKNOWN, "x", ProjectNotFoundError),
        (MASTER_PROJECT, "openai", InvalidProviderIdError),
        (ORPHANED_PROJECT, "prov_" + "0" * 32, ProviderNotFoundError),
        (ORPHANED_PROJECT, key_id, ProjectProtectedError),
    ):
        with pytest.raises(error):
            office.assign(project_id, key)


def test_keys_are_taken_away_by_provider_by_id_or_all(office: Office) -> None:
    """What matches nothing is not assigned."""
    project = office.create().id
    openai, anthropic = office.key(), office.key("anthropic")
    for key_id in (openai, anthropic):
        office.assign(project, key_id)

    for which in ({"provider": "openai", "key_id": anthropic}, {"key_id": office.world.key_id}):
        with pytest.raises(ProviderNotAssignedError):
            office.unassign(project, **which)
    office.unassign(project, provider="openai")
    assert office.keys(project) == [anthropic]
    office.assign(project, openai)
    office.unassign(project, key_id=anthropic)
    assert office.keys(project) == [openai]
    office.assign(project, anthropic)
    office.unassign(project)

    assert office.keys(project) == []
    assert office.audited()[-1][0] == "PROJECT_PROVIDER_UNASSIGNED"
    with pytest.raises(ProviderNotAssignedError):
        office.unassign(project)


def test_the_projects_of_a_deleted_user_go_to_the_admin(office: Office) -> None:
    """Other users' projects stay theirs."""
    anns, roots = office.create("Ads", owner_id=office.ann.user_id), office.create()

    office.world.store.write(lambda uow: delete_user(uow, office.ann.user_id, principal=office.root))

    assert office.look(anns.id, office.root).project.owner_id == office.root.user_id
    assert office.look(roots.id, office.root).project == roots


def test_a_token_is_bound_to_a_project_that_its_owner_sees(office: Office) -> None:
    """To any that there is for an admin."""
    project = office.create().id

    def sees(principal: Principal, project_id: str) -> bool:
        def seeing(uow: UnitOfWork) -> bool:
            user = uow.users.find(principal.user_id)
            assert user is not None
            return visible_project(uow, user, project_id)

        return office.world.store.read(seeing)

    before = [sees(office.ann, each) for each in (MASTER_PROJECT, project, ORPHANED_PROJECT, UNKNOWN, "abc")]
    office.move(office.world.agent().id, project)

    assert before == [True, False, False, False, False]
    assert sees(office.ann, project)
    assert [sees(office.root, each) for each in (project, ORPHANED_PROJECT, UNKNOWN)] == [True, True, False]
