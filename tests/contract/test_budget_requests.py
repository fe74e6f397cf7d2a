"""Budget requests in every store: found, listed, ordered, and decided once."""

from collections.abc import Callable
from functools import partial

import pytest

from ironcage_core.domain.budget_requests import BudgetRequest
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.lists import Paging, RequestFilter, RequestOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, fresh_id, user_row
from tests.support.stores import RefusedError, raising, raw
from tests.support.world import NOON

ANN, BEA = user_row("request ann"), user_row("request bea")
HERS = agent_row(ANN.id, project_id="proj_a")
OTHER = agent_row(BEA.id, project_id="proj_b")
DEAD = agent_row(ANN.id, project_id="proj_a", deleted_at=NOON)


def request_row(agent_id: str, requester_id: str, **fields: object) -> BudgetRequest:
    row = BudgetRequest(fresh_id("breq"), agent_id, requester_id, 100, 200, "because", "pending", NOON, NOON)
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def decided(row: BudgetRequest) -> BudgetRequest:
    return row._replace(status="rejected", reviewed_at=NOON, reviewed_by=BEA.id, review_notes="no")


FIRST = request_row(HERS.id, ANN.id)
SECOND = request_row(HERS.id, BEA.id, requested_budget=150)
OLDER = request_row(OTHER.id, BEA.id, created_at=NOON - 1, requested_budget=300)
DONE = decided(request_row(OTHER.id, ANN.id, created_at=NOON + 1))
OF_DEAD = request_row(DEAD.id, BEA.id, created_at=NOON + 2)
ROWS = (FIRST, SECOND, OLDER, DONE, OF_DEAD)


def fill(uow: UnitOfWork) -> None:
    for user in (ANN, BEA):
        uow.users.put(user)
    for agent in (HERS, OTHER, DEAD):
        uow.agents.put(agent)
    for row in ROWS:
        uow.budget_requests.put(row)


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    store.write(fill)
    return store


def listed(
    store: SqliteStore, which: RequestFilter, order: RequestOrder = "created_at", *, descending: bool = True
) -> list[BudgetRequest]:
    page = store.read(lambda uow: uow.budget_requests.page(which, Paging(), order, descending=descending))
    assert page.total == len(page.rows)
    return list(page.rows)


FILTERS = [
    (RequestFilter(), [OF_DEAD, DONE, SECOND, FIRST, OLDER]),
    (RequestFilter(status="pending"), [OF_DEAD, SECOND, FIRST, OLDER]),
    (RequestFilter(status="cancelled"), []),
    (RequestFilter(agent_id=HERS.id), [SECOND, FIRST]),
    (RequestFilter(requester_id=ANN.id), [DONE, FIRST]),
    (RequestFilter(requester_id=ANN.id, status="pending"), [FIRST]),
    (RequestFilter(project_id="proj_a"), [OF_DEAD, SECOND, FIRST]),
    (RequestFilter(visible_to=ANN.id), [DONE, SECOND, FIRST]),
    (RequestFilter(visible_to=BEA.id), [OF_DEAD, DONE, SECOND, OLDER]),
    (RequestFilter(visible_to=ANN.id, requester_id=BEA.id), [SECOND]),
    (RequestFilter(visible_to=ANN.id, project_id="proj_b"), [DONE]),
    (RequestFilter(visible_to="nobody"), []),
]


@pytest.mark.parametrize(("which", "expected"), FILTERS)
def test_a_list_holds_what_its_filter_says(
    filled: SqliteStore, which: RequestFilter, expected: list[BudgetRequest]
) -> None:
    """Whose they are and for whose agents; a deleted agent is nobody's."""
    assert listed(filled, which) == expected


def test_a_list_is_in_the_asked_order(filled: SqliteStore) -> None:
    """Ties by id, the latest first; pages neither repeat nor lose one."""
    everything = RequestFilter()

    pages = [
        filled.read(partial(lambda uow, page: uow.budget_requests.page(everything, Paging(page, 2)), page=page))
        for page in (1, 2, 3, 4)
    ]

    assert listed(filled, everything, descending=False) == [OLDER, SECOND, FIRST, DONE, OF_DEAD]
    assert listed(filled, everything, "requested_budget") == [OLDER, OF_DEAD, DONE, FIRST, SECOND]
    assert listed(filled, everything, "requested_budget", descending=False) == [SECOND, OF_DEAD, DONE, FIRST, OLDER]
    assert [row for page in pages for row in page.rows] == [OF_DEAD, DONE, SECOND, FIRST, OLDER]
    assert {page.total for page in pages} == {5}


def test_what_waits_is_found_oldest_first(filled: SqliteStore) -> None:
    """By agent and by requester, and nothing that is decided."""

    def pending(uow: UnitOfWork) -> tuple[object, ...]:
        requests = uow.budget_requests
        by = [list(requests.pending_by(user.id)) for user in (ANN, BEA)]
        return (*by, list(requests.pending_of_agent(HERS.id)), list(requests.pending_of_agent(OTHER.id)))

    assert filled.read(pending) == ([FIRST], [OLDER, SECOND, OF_DEAD], [FIRST, SECOND], [OLDER])


def test_what_a_unit_wrote_counts_in_it(store: SqliteStore) -> None:
    """Lists and searches see what is not yet durable, an agent's new owner as well."""

    def work(uow: UnitOfWork) -> tuple[object, ...]:
        fill(uow)
        uow.agents.put(OTHER._replace(owner_id=ANN.id))
        uow.budget_requests.put(decided(FIRST))
        page = uow.budget_requests.page(RequestFilter(visible_to=ANN.id), Paging())
        waiting = list(uow.budget_requests.pending_by(ANN.id))
        return list(page.rows), page.total, waiting, uow.budget_requests.find(FIRST.id)

    assert store.write(work) == ([DONE, SECOND, decided(FIRST), OLDER], 4, [], decided(FIRST))


def test_a_unit_that_fails_leaves_a_request_as_it_was(filled: SqliteStore) -> None:
    """And a new one is not there."""
    new = request_row(HERS.id, ANN.id)

    for row in (decided(FIRST), new):
        with pytest.raises(RefusedError):
            filled.write(raising(partial(lambda uow, row: uow.budget_requests.put(row), row=row)))

    assert filled.read(lambda uow: uow.budget_requests.find(FIRST.id)) == FIRST
    assert filled.read(lambda uow: uow.budget_requests.find(new.id)) is None


IMPOSSIBLE: list[Callable[[BudgetRequest], BudgetRequest]] = [
    lambda row: row._replace(status="approved", reviewed_at=NOON),
    lambda row: row._replace(status="rejected"),
    lambda row: row._replace(status="cancelled"),
    lambda row: row._replace(approved_budget=5),
    lambda row: row._replace(reviewed_at=NOON),
    lambda row: row._replace(requested_budget=0),
    lambda row: row._replace(agent_id="agent_nobody"),
    lambda row: row._replace(requester_id="user_nobody"),
]


@pytest.mark.parametrize("spoilt", IMPOSSIBLE)
def test_a_request_that_contradicts_itself_is_refused(
    filled: SqliteStore, spoilt: Callable[[BudgetRequest], BudgetRequest]
) -> None:
    """The database itself refuses it."""
    row = spoilt(request_row(HERS.id, ANN.id))

    with pytest.raises(InvariantViolationError):
        filled.write(lambda uow: uow.budget_requests.put(row))


def test_what_is_decided_stays_so(filled: SqliteStore) -> None:
    """Whatever a use case believes, and in whatever column."""
    for change in (DONE._replace(status="pending", reviewed_at=None), DONE._replace(review_notes="yes")):
        with pytest.raises(InvariantViolationError):
            filled.write(partial(lambda uow, row: uow.budget_requests.put(row), row=change))

    assert filled.read(lambda uow: uow.budget_requests.find(DONE.id)) == DONE


def test_a_page_of_an_agents_requests_is_found_by_an_index(filled: SqliteStore) -> None:
    """Also what waits of an agent or of a user: never by reading all requests."""
    for where, parameter in (("agent_id = ? AND status = 'pending'", HERS.id), ("requester_id = ?", ANN.id)):
        plan = raw(filled, f"EXPLAIN QUERY PLAN SELECT * FROM budget_requests WHERE {where}", (parameter,))
        assert all("SCAN" not in str(step[-1]) for step in plan)
