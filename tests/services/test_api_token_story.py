"""An API token's life: made, used, changed, rotated, ended, and what it may use meanwhile."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeVar

import pytest

from ironcage_core.domain.access import Principal, judged, principal_of
from ironcage_core.domain.api_tokens import ApiToken, ApiTokenFields, TokenUse
from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S, Instant
from ironcage_core.domain.rate_limits import TokenBuckets
from ironcage_core.domain.users import UserStatus
from ironcage_core.errors.access import (
    AccountDisabledCredentialError,
    CostCapReachedError,
    CostQuotaExceededError,
    InvalidTokenError,
    QuotaExceededError,
    RateLimitExceededError,
    TokenExpiredError,
    TokenRevokedError,
)
from ironcage_core.errors.identity import (
    ApiTokenNotFoundError,
    ApiTokenRevokedError,
    ApiTokenRotatedError,
    TokenLimitExceededError,
)
from ironcage_core.errors.resources import AgentNotFoundError
from ironcage_core.errors.tree import ForbiddenError, NoFieldsError, RefusalError, ValidationError
from ironcage_core.ports.lists import ApiTokenFilter, Paging, TokenFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.api_token_changes import (
    end_api_tokens_of,
    revoke_api_token,
    rotate_api_token,
    update_api_token,
)
from ironcage_core.services.api_token_lists import (
    list_api_tokens,
    list_tokens,
    used_api_token,
    validated_api_token,
)
from ironcage_core.services.api_tokens import IssuedApiToken, Minting, authenticate_api_token, create_api_token
from ironcage_core.services.token_quotas import TokenCounter
from ironcage_storage.sealed.api_tokens import api_token_hash, new_api_token
from tests.support.errors import everything_said_by
from tests.support.rows import agent_row
from tests.support.stores import RefusedError, raising
from tests.support.world import ADMIN, NOON, USD, World

T = TypeVar("T")
MINTING = Minting(new_api_token, api_token_hash)
MOST = 3
HOUR = 3_600_000
MIDNIGHT = NOON + 12 * HOUR


@dataclass
class Desk:
    """Bea, who makes tokens, cy, who has nothing to do with them, and an admin."""

    world: World

    def __post_init__(self) -> None:
        self.bea = self._person("bea", "user")
        self.cy = self._person("cy", "user")
        self.admin = self._person("root", "admin")
        self.counter = TokenCounter(TokenBuckets(clock=lambda: self.world.clock.now() / MS_PER_S))

    def _person(self, name: str, role: Any) -> str:  # noqa: ANN401 - a role
        add = partial(add_user, username=name, email=f"{name}@test", role=role, actor=ADMIN)
        return self.world.store.write(add).id

    def as_person(self, user_id: str, action: str, use_case: Callable[..., T], *args: object, **kwargs: object) -> T:
        def run(uow: UnitOfWork) -> T:
            user = uow.users.find(user_id)
            assert user is not None
            return use_case(uow, judged(principal_of(user, "sess"), action), *args, **kwargs)

        return self.world.store.write(run)

    def create(self, fields: ApiTokenFields | None = None, user_id: str = "", **kwargs: object) -> IssuedApiToken:
        given: Any = {"name": "ci", **(fields or {})}
        wish: Any = {"most": MOST, "minting": MINTING, **kwargs}
        return self.as_person(user_id or self.bea, "api_tokens.create", create_api_token, given, **wish)

    def update(self, token_id: str, fields: Any, user_id: str = "", most: int = MOST) -> ApiToken:  # noqa: ANN401 - as the test says
        person = user_id or self.bea
        return self.as_person(person, "api_tokens.update", update_api_token, token_id, fields, most=most)

    def rotate(self, token_id: str, user_id: str = "", expires_at: Instant | None = None) -> IssuedApiToken:
        more: Any = {"expires_at": expires_at, "minting": MINTING}
        return self.as_person(user_id or self.bea, "api_tokens.rotate", rotate_api_token, token_id, **more)

    def revoke(self, token_id: str, user_id: str = "", reason: str | None = None) -> ApiToken:
        person = user_id or self.bea
        return self.as_person(person, "api_tokens.revoke", revoke_api_token, token_id, reason=reason)

    def present(self, value: str) -> Principal:
        value_hash = api_token_hash(value)
        assert value_hash is not None
        return self.world.store.read(partial(authenticate_api_token, value_hash=value_hash))

    def use(self, value: str) -> Principal:
        """Present a value and be counted, as a server counts."""

        def run(uow: UnitOfWork) -> Principal:
            principal = authenticate_api_token(uow, api_token_hash(value) or "")
            assert principal.token is not None
            self.counter.admit(uow, principal.token)
            return principal

        return self.world.store.read(run)

    def flush(self) -> None:
        self.world.store.write(self.counter.begin_flush().apply)
        self.counter.end_flush(is_written=True)

    def used(self, token: ApiToken) -> TokenUse:
        now = self.world.clock.now()
        return self.world.store.read(lambda uow: uow.token_usage.of(token.lineage, now))

    def spend(self, token: ApiToken, *, tokens: int = 0, cost: int = 0) -> None:
        at = self.world.clock.now()
        self.world.store.write(lambda uow: uow.token_usage.add_calls(token.lineage, at, tokens=tokens, cost=cost))

    def stored(self, token_id: str) -> ApiToken:
        found = self.world.store.read(lambda uow: uow.api_tokens.find(token_id))
        assert found is not None
        return found

    def set_status(self, status: UserStatus) -> None:
        def run(uow: UnitOfWork) -> None:
            user = uow.users.find(self.bea)
            assert user is not None
            uow.users.put(user._replace(status=status))

        self.world.store.write(run)

    def audit(self) -> list[AuditRow]:
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [row for row in rows if row.operation.startswith("API_TOKEN")]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def refusal(call: Callable[[], object]) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        call()
    return caught.value


# --- made --------------------------------------------------------------------


def test_a_fresh_token_speaks_for_its_maker(desk: Desk) -> None:
    """Its value is shown once, proves the owner, and is stored as a hash alone."""
    issued = desk.create({"description": "for the build", "provider": "openai"})

    principal = desk.present(issued.value)

    record = issued.record
    assert (principal.user_id, principal.role, principal.session_id) == (desk.bea, "user", None)
    assert principal.token == record == desk.stored(record.id)
    assert (record.scopes, record.project_id, record.lineage) == ("*", None, record.id)
    assert record.hint == issued.value[-4:]
    assert record.hash == api_token_hash(issued.value) != issued.value
    assert issued.value not in repr((issued, principal))
    assert record.hash not in repr((issued, principal))


def test_what_a_token_may_do_is_its_owners_right_within_its_scopes(desk: Desk) -> None:
    """A scope that the role does not have gives nothing; the role is read anew each time."""
    issued = desk.create({"scopes": ("agents:read", "users:write")})

    assert desk.present(issued.value).permissions == ("agents:read",)


BAD_FIELDS: list[tuple[ApiTokenFields, str]] = [
    ({"name": ""}, "name"),
    ({"name": "n" * 101}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": None}, "name"),
    ({"description": "d" * 501}, "description"),
    ({"provider": "p" * 65}, "provider"),
    ({"provider": ""}, "provider"),
    ({"project_id": "proj_" + 32 * "0"}, "project_id"),
    ({"project_id": ORPHANED_PROJECT}, "project_id"),
    ({"scopes": ()}, "scopes"),
    ({"scopes": ("agents:fly",)}, "scopes"),
    ({"scopes": ("agents:read", "agents:read")}, "scopes"),
    ({"scopes": ("agents:read",) * 33}, "scopes"),
    ({"expires_at": NOON}, "expires_at"),
    ({"rate_limit_rps": 0}, "rate_limit_rps"),
    ({"rate_limit_rps": 1001}, "rate_limit_rps"),
    ({"daily_request_limit": 0}, "daily_request_limit"),
    ({"daily_token_limit": 10**12 + 1}, "daily_token_limit"),
    ({"daily_limit_micros": 0}, "daily_limit_usd"),
    ({"cost_cap_micros": 10**12 + 1}, "cost_cap_usd"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS)
def test_a_bad_field_is_named_as_people_know_it(desk: Desk, fields: ApiTokenFields, named: str) -> None:
    """The same rules hold for a new token and for a change; nothing is made or changed."""
    token = desk.create().record

    at_birth = refusal(lambda: desk.create(fields))
    later = refusal(lambda: desk.update(token.id, fields))

    assert isinstance(at_birth, ValidationError)
    assert isinstance(later, ValidationError)
    assert list(at_birth.fields) == list(later.fields) == [named]
    assert desk.stored(token.id) == token
    assert [row.operation for row in desk.audit()] == ["API_TOKEN_CREATED"]


def test_the_limits_of_every_field_are_allowed(desk: Desk) -> None:
    """Lengths are counted in characters, not bytes."""
    fields: ApiTokenFields = {
        "name": "ü" * 100,
        "description": "",
        "provider": "p" * 64,
        "project_id": MASTER_PROJECT,
        "expires_at": NOON + 1,
        "rate_limit_rps": 1000,
        "daily_request_limit": 10**12,
        "daily_token_limit": 1,
        "daily_limit_micros": 1,
        "cost_cap_micros": 10**12,
    }

    record = desk.create(fields).record

    assert {name: getattr(record, name) for name in fields} == fields


def test_a_token_is_made_for_oneself(desk: Desk) -> None:
    """Whoever names another user is refused, an admin too; what cannot be an id is a bad field."""
    named = desk.create(user_id=desk.bea)

    for_another = refusal(lambda: desk.as_person(desk.admin, "api_tokens.create", create_for, desk.bea))
    malformed = refusal(lambda: desk.as_person(desk.bea, "api_tokens.create", create_for, 7))

    assert named.record.user_id == desk.bea
    assert type(for_another) is ForbiddenError
    assert isinstance(malformed, ValidationError)
    assert list(malformed.fields) == ["user_id"]


def create_for(uow: UnitOfWork, principal: Principal, user_id: object) -> IssuedApiToken:
    return create_api_token(uow, principal, {"name": "x"}, user_id=user_id, most=MOST, minting=MINTING)


def test_a_token_may_be_bound_to_an_own_agent_only(desk: Desk) -> None:
    """An admin may bind to anybody's; an agent that is not there is not found."""
    agent = desk.world.agent(owner_id=desk.cy).id
    own = desk.world.agent(owner_id=desk.bea).id

    foreign = refusal(lambda: desk.create(agent_id=agent))
    unknown = refusal(lambda: desk.create(agent_id="agent_" + 32 * "0"))

    assert type(foreign) is ForbiddenError
    assert isinstance(unknown, AgentNotFoundError)
    assert desk.create(agent_id=own).record.agent_id == own
    assert desk.create(user_id=desk.admin, agent_id=agent).record.agent_id == agent


def test_a_user_has_so_many_living_tokens_and_no_more(desk: Desk) -> None:
    """Expired, revoked and rotated ones do not count, switched off ones do; another user's neither."""
    first = desk.create({"expires_at": NOON + 1}).record
    second, third = desk.create().record, desk.create().record
    desk.update(second.id, {"is_active": False})

    full = refusal(desk.create)
    desk.rotate(third.id)
    desk.world.clock.pass_s(1)
    fourth = desk.create().record
    full_again = refusal(desk.create)
    desk.revoke(fourth.id)

    assert isinstance(full, TokenLimitExceededError)
    assert full.details == {"limit": 3, "active": 3, "retry_after_s": 60}
    assert isinstance(full_again, TokenLimitExceededError)
    assert desk.create().record.user_id == first.user_id == desk.bea
    assert desk.create(user_id=desk.cy).record.user_id == desk.cy


def test_what_comes_back_to_life_needs_room(desk: Desk) -> None:
    """An expired token that would live again, switched off or not, and one that is switched on with less allowed."""
    expired = [desk.create({"expires_at": NOON + 1}).record for _ in range(2)]
    desk.update(expired[1].id, {"is_active": False})
    desk.world.clock.pass_s(1)
    full = [desk.create().record for _ in range(3)]
    desk.update(full[0].id, {"is_active": False})

    extended = [refusal(lambda each=each: desk.update(each.id, {"expires_at": None})) for each in expired]  # type: ignore[misc]
    switched_on = refusal(lambda: desk.update(full[0].id, {"is_active": True}, most=2))

    assert [type(each) for each in [*extended, switched_on]] == [TokenLimitExceededError] * 3
    assert desk.update(full[0].id, {"is_active": True}).is_active
    assert desk.update(full[1].id, {"name": "still there"}, most=1).name == "still there"


# --- presented ---------------------------------------------------------------


def test_a_token_is_judged_by_its_owner_first(desk: Desk) -> None:
    """While the owner is suspended every token says so, a revoked one too; the record keeps its status."""
    good, dead = desk.create(), desk.create()
    desk.revoke(dead.record.id)
    desk.set_status("suspended")

    refusals = [type(refusal(partial(desk.present, each.value))) for each in (good, dead)]
    desk.set_status("active")

    assert refusals == [AccountDisabledCredentialError] * 2
    assert desk.stored(good.record.id) == good.record
    assert desk.present(good.value).user_id == desk.bea


def test_a_dead_token_tells_since_when(desk: Desk) -> None:
    """Revoked, rotated, switched off, expired to the millisecond; and of an unknown value nothing is told."""
    revoked, rotated, inactive = desk.create(), desk.create(), desk.create()
    desk.world.clock.pass_s(1)
    desk.revoke(revoked.record.id)
    desk.rotate(rotated.record.id)
    desk.update(inactive.record.id, {"is_active": False})
    expiring = desk.create({"expires_at": NOON + 5000})
    desk.world.clock.instant = NOON + 4999
    assert desk.present(expiring.value).token == expiring.record
    desk.world.clock.instant = NOON + 5000

    told = [refusal(partial(desk.present, each.value)) for each in (revoked, rotated, inactive)]
    expired = refusal(partial(desk.present, expiring.value))
    unknown = refusal(partial(desk.present, new_api_token()))

    assert [type(each) for each in told] == [TokenRevokedError] * 3
    assert [each.details for each in told] == [{"revoked_at": NOON + 1000}] * 3
    assert isinstance(expired, TokenExpiredError)
    assert expired.details == {"expired_at": NOON + 5000}
    assert isinstance(unknown, InvalidTokenError)
    assert not unknown.details


def test_a_user_who_must_change_the_password_may_use_tokens(desk: Desk) -> None:
    """The flag is for people."""
    issued = desk.create()

    def force(uow: UnitOfWork) -> None:
        user = uow.users.find(desk.bea)
        assert user is not None
        uow.users.put(user._replace(force_password_change=1))

    desk.world.store.write(force)

    assert desk.present(issued.value).must_change_password is False


def test_being_validated_is_no_use(desk: Desk) -> None:
    """It tells the record of a living token and nothing of any other."""
    issued = desk.create()
    validate = partial(validated_api_token, value_hash=issued.record.hash)

    living = desk.world.store.read(validate)
    desk.revoke(issued.record.id)
    dead = desk.world.store.read(validate)

    assert living == issued.record
    assert dead is None
    assert desk.stored(issued.record.id).last_used_at is None
    assert desk.used(issued.record).total_requests == 0


# --- changed -----------------------------------------------------------------


def test_a_change_touches_what_is_given_and_nothing_else(desk: Desk) -> None:
    """None clears; the audit log has before and after of exactly that."""
    token = desk.create({"description": "old", "daily_limit_micros": 5 * USD, "provider": "openai"}).record
    desk.world.clock.pass_s(1)

    changed = desk.update(token.id, {"description": None, "daily_limit_micros": 7 * USD, "provider": "openai"})

    assert changed == token._replace(description=None, daily_limit_micros=7 * USD, updated_at=NOON + 1000)
    row = desk.audit()[-1]
    assert (row.operation, row.category, row.resource_type, row.resource_id) == (
        "API_TOKEN_UPDATED", "token", "api_token", token.id,
    )  # fmt: skip
    assert row.changes == (
        '{"after":{"daily_limit_micros":7000000,"description":null},'
        '"before":{"daily_limit_micros":5000000,"description":"old"}}'
    )


def test_a_change_that_changes_nothing_leaves_no_trace(desk: Desk) -> None:
    """Not even a new time of change; without any field it is refused."""
    token = desk.create().record
    desk.world.clock.pass_s(1)

    same = desk.update(token.id, {"name": "ci", "is_active": True})

    assert same == token
    assert [row.operation for row in desk.audit()] == ["API_TOKEN_CREATED"]
    assert isinstance(refusal(lambda: desk.update(token.id, {})), NoFieldsError)


@pytest.mark.parametrize("name", ["name", "scopes", "is_active"])
def test_what_every_token_has_cannot_be_cleared(desk: Desk, name: str) -> None:
    """Null is no name, no scopes and no state."""
    token = desk.create().record

    error = refusal(lambda: desk.update(token.id, {name: None}))

    assert isinstance(error, ValidationError)
    assert error.fields == {name: "may not be null"}


def test_switching_off_and_on_has_rows_of_its_own(desk: Desk) -> None:
    """Together with another change there are two rows."""
    issued = desk.create()

    desk.update(issued.record.id, {"is_active": False})
    desk.update(issued.record.id, {"is_active": True, "name": "other"})

    assert [row.operation for row in desk.audit()[1:]] == [
        "API_TOKEN_DEACTIVATED", "API_TOKEN_UPDATED", "API_TOKEN_ACTIVATED",
    ]  # fmt: skip
    assert desk.audit()[1].changes == '{"after":{"is_active":false},"before":{"is_active":true}}'
    assert desk.present(issued.value).user_id == desk.bea


def test_an_expired_token_lives_again_with_a_later_end(desk: Desk) -> None:
    """It is the same value."""
    issued = desk.create({"expires_at": NOON + 1})
    desk.world.clock.pass_s(1)
    assert isinstance(refusal(partial(desk.present, issued.value)), TokenExpiredError)

    desk.update(issued.record.id, {"expires_at": NOON + HOUR})

    assert desk.present(issued.value).user_id == desk.bea


WIDER: list[ApiTokenFields] = [
    {"scopes": ("agents:read", "agents:write")},
    {"scopes": ("*",)},
    {"expires_at": NOON + 2 * HOUR},
    {"expires_at": None},
]


@pytest.mark.parametrize("fields", WIDER)
def test_an_admin_may_not_widen_anothers_token(desk: Desk, fields: ApiTokenFields) -> None:
    """Neither its scopes nor its time; its owner may."""
    token = desk.create({"scopes": ("agents:read",), "expires_at": NOON + HOUR}).record

    error = refusal(lambda: desk.update(token.id, fields, user_id=desk.admin))

    assert type(error) is ForbiddenError
    assert desk.stored(token.id) == token
    assert desk.update(token.id, fields) != token


def test_an_admin_may_narrow_anothers_token(desk: Desk) -> None:
    """Fewer scopes, an earlier end, off, and other limits."""
    token = desk.create().record

    changed = desk.update(
        token.id,
        {"scopes": ("agents:read",), "expires_at": NOON + HOUR, "is_active": False, "rate_limit_rps": 5},
        user_id=desk.admin,
    )

    assert (changed.scopes, changed.expires_at, changed.is_active, changed.rate_limit_rps) == (
        "agents:read", NOON + HOUR, 0, 5,
    )  # fmt: skip


def test_a_project_must_be_one_that_the_owner_sees(desk: Desk) -> None:
    """An admin who changes another's token cannot give it a project that is hidden from its owner."""
    token = desk.create().record
    admins = desk.create({"project_id": ORPHANED_PROJECT}, user_id=desk.admin).record

    error = refusal(lambda: desk.update(token.id, {"project_id": ORPHANED_PROJECT}, user_id=desk.admin))

    assert isinstance(error, ValidationError)
    assert list(error.fields) == ["project_id"]
    assert admins.project_id == ORPHANED_PROJECT


# --- rotated and revoked -----------------------------------------------------


def test_a_rotation_puts_a_new_token_in_the_place_of_the_old(desk: Desk) -> None:
    """It inherits everything but value, id and times; the old one is dead and names its successor."""
    old = desk.create({"description": "d", "scopes": ("agents:read",), "expires_at": NOON + HOUR, "rate_limit_rps": 9})
    desk.world.clock.pass_s(1)

    new = desk.rotate(old.record.id)

    assert new.value != old.value
    assert new.record == old.record._replace(
        id=new.record.id, hash=new.record.hash, hint=new.value[-4:], created_at=NOON + 1000,
        updated_at=NOON + 1000, rotated_from=old.record.id,
    )  # fmt: skip
    ended = desk.stored(old.record.id)
    assert (ended.status_at(NOON + 1000), ended.replaced_by, ended.is_active) == ("rotated", new.record.id, 0)
    assert desk.present(new.value).token == new.record
    row = desk.audit()[-1]
    assert (row.operation, row.resource_id) == ("API_TOKEN_ROTATED", old.record.id)
    assert new.record.id in row.metadata


def test_a_rotation_may_set_another_end(desk: Desk) -> None:
    """In the future; else nothing is rotated."""
    old = desk.create({"expires_at": NOON + HOUR})

    dead_at_birth = refusal(lambda: desk.rotate(old.record.id, expires_at=NOON))
    new = desk.rotate(old.record.id, expires_at=NOON + 2 * HOUR)

    assert isinstance(dead_at_birth, ValidationError)
    assert new.record.expires_at == NOON + 2 * HOUR


def test_what_was_used_counts_on_after_a_rotation(desk: Desk) -> None:
    """Requests, tokens and cost of the day and of the whole life."""
    old = desk.create({"daily_request_limit": 3, "cost_cap_micros": 10})
    desk.use(old.value)
    desk.spend(old.record, tokens=7, cost=9)
    new = desk.rotate(old.record.id)
    desk.use(new.value)
    desk.flush()

    use = desk.used(new.record)
    desk.use(new.value)

    assert use == TokenUse(2, 2, 2, 7, 7, 9, 9)
    assert isinstance(refusal(partial(desk.use, new.value)), QuotaExceededError)


def test_a_rotation_that_fails_leaves_the_old_token_alive(desk: Desk) -> None:
    """It is one transaction."""
    old = desk.create()
    rotate = partial(desk.as_person, desk.bea, "api_tokens.rotate")

    def run(uow: UnitOfWork, principal: Principal) -> None:
        raising(lambda uow: rotate_api_token(uow, principal, old.record.id, minting=MINTING))(uow)

    with pytest.raises(RefusedError):
        rotate(run)

    assert desk.present(old.value).token == old.record
    page = desk.world.store.read(lambda uow: uow.api_tokens.page(ApiTokenFilter(now=NOON), Paging()))
    assert page.total == 1


def test_only_its_owner_rotates_a_token(desk: Desk) -> None:
    """An admin would get a credential of somebody else's."""
    token = desk.create().record

    refusals = [refusal(lambda each=each: desk.rotate(token.id, user_id=each)) for each in (desk.cy, desk.admin)]  # type: ignore[misc]

    assert [type(each) for each in refusals] == [ForbiddenError] * 2
    assert desk.stored(token.id) == token


Deed = Callable[[Desk, str], object]
DEEDS: dict[str, Deed] = {
    "update": lambda desk, token_id: desk.update(token_id, {"name": "new"}),
    "rotate": lambda desk, token_id: desk.rotate(token_id),
    "revoke": lambda desk, token_id: desk.revoke(token_id),
}


def inactive(desk: Desk, token_id: str) -> None:
    desk.update(token_id, {"is_active": False})


def expired(desk: Desk, token_id: str) -> None:
    desk.update(token_id, {"expires_at": NOON + 1})
    desk.world.clock.pass_s(1)


STATES: dict[str, Deed] = {
    "active": lambda *_: None,
    "inactive": inactive,
    "expired": expired,
    "rotated": DEEDS["rotate"],
    "revoked": DEEDS["revoke"],
}
OUTCOMES = {
    ("active", "update"): None,
    ("active", "rotate"): None,
    ("active", "revoke"): None,
    ("inactive", "update"): None,
    ("inactive", "rotate"): ApiTokenNotFoundError,
    ("inactive", "revoke"): None,
    ("expired", "update"): None,
    ("expired", "rotate"): ApiTokenNotFoundError,
    ("expired", "revoke"): None,
    ("rotated", "update"): ApiTokenRotatedError,
    ("rotated", "rotate"): ApiTokenNotFoundError,
    ("rotated", "revoke"): ApiTokenNotFoundError,
    ("revoked", "update"): ApiTokenRevokedError,
    ("revoked", "rotate"): ApiTokenNotFoundError,
    ("revoked", "revoke"): ApiTokenRevokedError,
}


@pytest.mark.parametrize(("state", "deed"), OUTCOMES)
def test_every_state_says_what_may_be_done(desk: Desk, state: str, deed: str) -> None:
    """The whole table of states; what is refused changes nothing."""
    token_id = desk.create().record.id
    STATES[state](desk, token_id)
    before = desk.stored(token_id)
    assert before.status_at(desk.world.clock.now()) == state

    outcome: object = None
    try:
        DEEDS[deed](desk, token_id)
    except RefusalError as error:
        outcome = type(error)

    assert outcome is OUTCOMES[state, deed]
    assert (desk.stored(token_id) == before) is (outcome is not None)


def test_a_revocation_is_remembered_with_its_reason(desk: Desk) -> None:
    """By whom, when and why; a second one tells when the first was."""
    token = desk.create().record

    ended = desk.revoke(token.id, user_id=desk.admin, reason="leaked")
    desk.world.clock.pass_s(1)
    again = refusal(lambda: desk.revoke(token.id))

    assert (ended.revoked_at, ended.revoked_by, ended.revoked_reason) == (NOON, desk.admin, "leaked")
    assert again.details == {"revoked_at": NOON}
    row = desk.audit()[-1]
    assert (row.operation, row.resource_id, row.actor_id, row.reason) == (
        "API_TOKEN_REVOKED", token.id, desk.admin, "leaked",
    )  # fmt: skip


def test_a_bad_reason_revokes_nothing(desk: Desk) -> None:
    """1 to 500 characters."""
    token = desk.create().record

    for reason in ("", "r" * 501, "a\0b"):
        error = refusal(lambda reason=reason: desk.revoke(token.id, reason=reason))  # type: ignore[misc]
        assert isinstance(error, ValidationError)

    assert desk.stored(token.id) == token


def test_all_tokens_of_a_user_end_together(desk: Desk) -> None:
    """Those that are switched off or expired too; those that ended before stay as they ended."""
    states = [desk.create({"name": name}, most=10).record for name in STATES]
    for token in states:
        if token.name != "expired":
            STATES[token.name](desk, token.id)
    expired(desk, states[2].id)
    before = [desk.stored(token.id) for token in states]

    number = desk.world.store.write(partial(end_api_tokens_of, user_id=desk.bea, reason="gone", actor=ADMIN))

    now = desk.world.clock.now()
    assert number == 4  # the fourth is what the rotated one was replaced by
    assert [desk.stored(token.id).status_at(now) for token in states] == [
        "revoked", "revoked", "revoked", "rotated", "revoked",
    ]  # fmt: skip
    assert desk.stored(states[4].id) == before[4]


# --- seen --------------------------------------------------------------------


def test_another_users_token_is_out_of_reach(desk: Desk) -> None:
    """It is there, and forbidden; one that is not there is not found, whatever its id looks like."""
    token = desk.create().record
    see = partial(desk.as_person, desk.cy, "api_tokens.read", used_api_token)

    foreign = [
        refusal(lambda: see(token.id)),
        refusal(lambda: desk.update(token.id, {"name": "x"}, user_id=desk.cy)),
        refusal(lambda: desk.revoke(token.id, user_id=desk.cy)),
    ]
    unknown = [refusal(partial(see, each)) for each in ("tok_" + 32 * "0", "-1", "", "tok_x")]

    assert [type(each) for each in foreign] == [ForbiddenError] * 3
    assert [type(each) for each in unknown] == [ApiTokenNotFoundError] * 4


def test_lists_hold_what_one_may_see(desk: Desk) -> None:
    """Users their own, whoever they ask for; an admin all or one user's."""
    beas, cys = desk.create().record, desk.create(user_id=desk.cy).record

    def seen(person: str, **fields: Any) -> set[str]:  # noqa: ANN401 - of the filter
        listing = desk.as_person(person, "api_tokens.read", list_api_tokens, ApiTokenFilter(**fields), Paging())
        return {token.id for token in listing.rows}

    assert seen(desk.bea) == seen(desk.bea, user_id=desk.cy) == {beas.id}
    assert seen(desk.admin) == {beas.id, cys.id}
    assert seen(desk.admin, user_id=desk.cy) == {cys.id}


def test_a_token_that_may_not_see_ic_tokens_sees_the_other_kind(desk: Desk) -> None:
    """And asked for IC tokens it sees nothing."""
    agent = desk.world.agent(owner_id=desk.bea)
    blind = desk.create({"scopes": ("tokens:read",)})
    seeing = desk.create({"scopes": ("tokens:read", "ic_tokens:read")})

    def kinds(value: str, which: TokenFilter) -> list[str]:
        principal = judged(desk.present(value), "tokens.list")
        page = desk.world.store.read(lambda uow: list_tokens(uow, principal, which, Paging()))
        assert page.total == len(page.rows)
        return sorted(entry.kind for entry in page.rows)

    assert kinds(blind.value, TokenFilter()) == ["api", "api"]
    assert kinds(blind.value, TokenFilter(kind="ic")) == []
    assert kinds(seeing.value, TokenFilter()) == ["api", "api", "ic"]
    assert kinds(seeing.value, TokenFilter(kind="ic", agent_id=agent.id)) == ["ic"]


def test_a_token_of_a_project_reaches_tokens_of_that_project_only(desk: Desk) -> None:
    """In lists and one by one; a token of no project is out of its reach, for that one could do more."""
    bound = desk.create({"project_id": MASTER_PROJECT})
    free = desk.create().record
    reader = judged(desk.present(bound.value), "api_tokens.read")

    page = desk.world.store.read(lambda uow: list_api_tokens(uow, reader, ApiTokenFilter(), Paging()))
    elsewhere = ApiTokenFilter(project_id=ORPHANED_PROJECT)
    nothing = desk.world.store.read(lambda uow: list_api_tokens(uow, reader, elsewhere, Paging()))

    assert [token.id for token in page.rows] == [bound.record.id]
    assert nothing.total == 0
    error = refusal(lambda: desk.world.store.read(lambda uow: used_api_token(uow, reader, free.id)))
    assert type(error) is ForbiddenError


def test_nothing_that_is_kept_or_said_holds_a_value_or_a_hash(desk: Desk) -> None:
    """Neither the audit log nor an error."""
    issued = desk.create()
    new = desk.rotate(issued.record.id)
    desk.update(new.record.id, {"name": "renamed"})
    desk.revoke(new.record.id)
    errors = [refusal(partial(desk.present, each.value)) for each in (issued, new)]

    said = repr(desk.audit()) + "".join(map(everything_said_by, errors))

    for each in (issued, new):
        assert each.value not in said
        assert each.record.hash not in said


# --- used --------------------------------------------------------------------


def test_the_request_after_the_last_one_of_the_day_is_refused(desk: Desk) -> None:
    """It uses up nothing and says when the day ends; the next day starts afresh."""
    issued = desk.create({"daily_request_limit": 2})
    desk.use(issued.value)
    desk.use(issued.value)

    error = refusal(partial(desk.use, issued.value))
    desk.flush()
    counted = desk.used(issued.record)
    desk.world.clock.instant = MIDNIGHT
    desk.use(issued.value)

    assert type(error) is QuotaExceededError
    assert error.details == {
        "quota": "daily_request_limit", "limit": 2, "used": 2, "resets_at": MIDNIGHT, "retry_after_s": 12 * 3600,
    }  # fmt: skip
    assert (counted.total_requests, counted.requests_today) == (2, 2)


def test_a_day_is_counted_on_from_what_is_stored(desk: Desk) -> None:
    """A server that starts again knows what was used today, and flushes in between change nothing."""
    issued = desk.create({"daily_request_limit": 3})
    desk.use(issued.value)
    desk.flush()
    desk.counter = TokenCounter(TokenBuckets())
    desk.use(issued.value)
    desk.flush()
    desk.use(issued.value)

    assert isinstance(refusal(partial(desk.use, issued.value)), QuotaExceededError)


def test_tokens_and_cost_of_the_day_stop_what_comes_after(desk: Desk) -> None:
    """What is reached is full; a call that ran over is booked in full all the same."""
    token = desk.create({"daily_token_limit": 100})
    cost = desk.create({"daily_limit_micros": 100})
    desk.spend(token.record, tokens=99)
    desk.spend(cost.record, cost=99)
    desk.use(token.value)
    desk.use(cost.value)
    desk.spend(token.record, tokens=1)
    desk.spend(cost.record, cost=50)

    tokens_full, cost_full = refusal(partial(desk.use, token.value)), refusal(partial(desk.use, cost.value))
    desk.world.clock.instant = MIDNIGHT - 1
    late = refusal(partial(desk.use, token.value))
    desk.world.clock.instant = MIDNIGHT
    desk.use(token.value)
    desk.use(cost.value)

    assert type(tokens_full) is QuotaExceededError
    assert (tokens_full.details["quota"], tokens_full.details["used"]) == ("daily_token_limit", 100)
    assert late.details["retry_after_s"] == 1
    assert type(cost_full) is CostQuotaExceededError
    assert (cost_full.details["quota"], cost_full.details["used"]) == ("daily_limit_usd", 149)


def test_a_cost_cap_is_for_life(desk: Desk) -> None:
    """No midnight helps."""
    issued = desk.create({"cost_cap_micros": 100})
    desk.spend(issued.record, cost=100)
    desk.world.clock.instant = NOON + 400 * MS_PER_DAY

    error = refusal(partial(desk.use, issued.value))

    assert type(error) is CostCapReachedError
    assert error.details == {"spent": 100, "limit": 100}


def test_a_token_makes_so_many_requests_a_second(desk: Desk) -> None:
    """The bucket refills all the time; a refused request is not counted, and is no request of the day."""
    issued = desk.create({"rate_limit_rps": 2, "daily_request_limit": 3})
    desk.use(issued.value)
    desk.use(issued.value)

    error = refusal(partial(desk.use, issued.value))
    desk.world.clock.pass_s(0.5)
    desk.use(issued.value)
    desk.flush()

    assert type(error) is RateLimitExceededError
    assert error.details == {"limit": 2, "window_seconds": 1, "retry_after_s": 1, "reset_at": NOON + 1000}
    assert desk.used(issued.record).total_requests == 3


def test_a_request_refused_by_a_quota_takes_nothing_from_the_second(desk: Desk) -> None:
    """The bucket is asked last."""
    issued = desk.create({"rate_limit_rps": 1, "daily_token_limit": 1})
    desk.spend(issued.record, tokens=1)
    refusal(partial(desk.use, issued.value))
    desk.update(issued.record.id, {"daily_token_limit": None})

    desk.use(issued.value)

    assert isinstance(refusal(partial(desk.use, issued.value)), RateLimitExceededError)


def test_use_is_seen_after_a_flush(desk: Desk) -> None:
    """By day and by minute; the last use is the newest; what is older than an hour is in the day only."""
    issued = desk.create()
    desk.use(issued.value)
    desk.world.clock.instant = NOON + 59 * 60_000
    desk.use(issued.value)
    desk.flush()
    within = desk.used(issued.record)
    desk.world.clock.instant = NOON + HOUR
    desk.use(issued.value)
    desk.flush()

    beyond = desk.used(issued.record)

    assert (within.requests_today, within.requests_last_hour) == (2, 2)
    assert (beyond.requests_today, beyond.requests_last_hour) == (3, 2)
    assert desk.stored(issued.record.id).last_used_at == NOON + HOUR


def test_counts_that_could_not_be_written_are_written_later_and_once(desk: Desk) -> None:
    """A batch that fails is put back beside what came since; one that is tried twice counts once."""
    issued = desk.create()
    desk.use(issued.value)
    failing = desk.counter.begin_flush()
    with pytest.raises(RefusedError):
        desk.world.store.write(raising(failing.apply))
    desk.world.clock.pass_s(1)
    desk.use(issued.value)
    desk.counter.end_flush(is_written=False)
    desk.flush()
    desk.flush()

    assert desk.used(issued.record).total_requests == 2
    assert desk.stored(issued.record.id).last_used_at == NOON + 1000
    assert desk.counter.begin_flush().is_empty


def test_threads_make_no_request_too_many(desk: Desk) -> None:
    """Checking and counting are one step, whoever flushes meanwhile."""
    issued = desk.create({"daily_request_limit": 50})

    def use(number: int) -> bool:
        if number % 10 == 0:
            with flushing:
                desk.flush()
        try:
            desk.use(issued.value)
        except QuotaExceededError:
            return False
        return True

    flushing = threading.Lock()
    with ThreadPoolExecutor(8) as threads:
        admitted = sum(threads.map(use, range(100)))
    desk.flush()

    assert admitted == 50
    assert desk.used(issued.record).total_requests == 50


def test_one_flush_at_a_time(desk: Desk) -> None:
    """Two could both be put back; an empty one needs no end."""
    assert desk.counter.begin_flush().is_empty
    desk.use(desk.create().value)
    assert not desk.counter.begin_flush().is_empty

    with pytest.raises(RuntimeError):
        desk.counter.begin_flush()


def test_old_minutes_are_forgotten(desk: Desk) -> None:
    """Those of the last hour stay."""
    issued = desk.create()
    for number in count():
        desk.world.clock.instant = NOON + number * 30 * 60_000
        desk.use(issued.value)
        desk.flush()
        if number == 6:
            break

    minutes = desk.world.store.read(lambda uow: uow.token_usage.of(issued.record.lineage, uow.now - HOUR))

    assert minutes.requests_last_hour == 1  # only the minute that both hours have
    assert desk.used(issued.record).total_requests == 7


def test_a_clock_set_back_over_midnight_forgets_no_count(desk: Desk) -> None:
    """What was counted before midnight still stands when it is before midnight again."""
    issued = desk.create({"daily_request_limit": 1})
    desk.world.clock.instant = MIDNIGHT - 1
    desk.use(issued.value)
    desk.world.clock.instant = MIDNIGHT
    desk.use(issued.value)
    desk.world.clock.instant = MIDNIGHT - 1

    assert isinstance(refusal(partial(desk.use, issued.value)), QuotaExceededError)


def test_an_agent_that_was_deleted_takes_no_tokens(desk: Desk) -> None:
    """It is not found, like one that never was."""
    agent = agent_row(desk.bea, deleted_at=NOON)
    desk.world.store.write(lambda uow: uow.agents.put(agent))

    assert isinstance(refusal(lambda: desk.create(agent_id=agent.id)), AgentNotFoundError)
