"""The operations of the simulation that control budgets: setting aside, asking for more, stopping, limiting."""

import operator
from dataclasses import dataclass
from typing import Literal

from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_changes import delete_agent, update_agent
from ironcage_core.services.agent_keys import assign_agent_keys
from ironcage_core.services.agent_states import start_agent, stop_agent
from ironcage_core.services.budget_requests import cancel_request, submit_request
from ironcage_core.services.budget_reviews import approve, reject
from ironcage_core.services.ic_token_changes import replace_ic_token, revoke_ic_token
from ironcage_core.services.ic_tokens import issue_ic_token
from ironcage_core.services.provider_key_changes import update_provider_key
from ironcage_core.services.reserving import ReserveRequest, cancel_reservation, reserve
from ironcage_core.services.usage_limits import change_limit, create_limit, delete_limit
from ironcage_core.services.user_changes import activate_user, suspend_user
from tests.simulation.model import UNKNOWN, Books, Limits, Retry
from tests.simulation.operations import (
    MS,
    POLICY,
    TERMS,
    Answer,
    Call,
    Cast,
    Named,
    Pick,
    Sweep,
    as_key,
    keyed,
    lease_no,
)
from tests.support.world import ADMIN

REASON = "Because this is what the day needs."


@dataclass(frozen=True)
class Reserve:
    """A thin runtime sets something aside; for a new call, or for one that was reserved or reported before."""

    agent: int
    lease: Pick | None
    amount: int | Literal["all", "more than all"]
    known: int | None = None
    ttl_s: int = 300
    token: int = 0
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, value = cast.agents[self.agent], cast.value(books, self.agent, self.token)
        number = None if self.lease is None else self.lease.number(books, agent)
        name = known_call(books, agent, self.known) or cast.new_request()
        amount = self._amount(books, agent, number)

        def ask_model(books: Books, retry: Retry | None) -> Answer:
            answer = books.reserve(value, number, name, amount, self.ttl_s * MS, retry)
            return ("reserved", lease_no(answer.lease), *answer[1:])

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            lease_id = None if number is None else cast.id_of(number)
            request = ReserveRequest(name, amount, lease_id, self.ttl_s)
            answer = reserve(uow, cast.identity(uow, value), request, policy=POLICY, retry=as_key(retry))
            made = answer.reservation
            told = (made.lease_id, made.amount, made.expires_at, answer.available)
            return ("reserved", *told, answer.is_new, answer.replayed)

        def make(retry: Retry | None) -> Call:
            told = f"{self!r} as {name} of {amount} on {number} by value {value}"
            return Call(told, cast, lambda books: ask_model(books, retry), lambda uow: ask_store(uow, retry))

        return keyed(cast, books, self.key, f"{agent} reserve", repr((number, name, amount, self.ttl_s)), make)

    def _amount(self, books: Books, agent: str, number: int | None) -> int:
        if isinstance(self.amount, int):
            return self.amount
        mine = books.open_of(agent) if number is None else [number]
        if not mine or mine[0] == UNKNOWN:
            return 1
        return books.available(books.effective(mine[0])) + (self.amount == "more than all")


def known_call(books: Books, agent: str, back: int | None) -> str | None:
    """Return a call of the agent that was reserved or reported."""
    known = [request for who, request in (*books.records, *books.reservations) if who == agent]
    return known[-1 - back % len(known)] if known and back is not None else None


@dataclass(frozen=True)
class CancelReservation:
    """A thin runtime gives up a call."""

    agent: int
    known: int
    token: int = 0

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, value = cast.agents[self.agent], cast.value(books, self.agent, self.token)
        name = known_call(books, agent, self.known) or "req-of-nobody"
        return Call(
            f"{self!r} of {name} by value {value}",
            cast,
            lambda books: ("released", books.cancel_reservation(value, name)),
            lambda uow: ("released", cancel_reservation(uow, cast.identity(uow, value), name)),
        )


@dataclass(frozen=True)
class Submit:
    """Somebody asks for a larger allocation."""

    agent: int
    user: int
    amount: int
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, principal = cast.agents[self.agent], cast.principals[self.user]
        is_admin = principal is cast.admin

        def ask_model(books: Books, retry: Retry | None) -> Answer:
            count = len(books.requests)
            number = books.submit(agent, principal.user_id, self.amount, is_admin=is_admin, retry=retry)
            return ("submitted", Named("request", number, number == count))

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            options = {"highest": TERMS.highest_request, "retry": as_key(retry)}
            seen = submit_request(uow, agent, self.amount, REASON, principal=principal, **options)  # type: ignore[arg-type]
            return ("submitted", seen.request.id)

        def make(retry: Retry | None) -> Call:
            return Call(
                repr(self), cast, lambda books: ask_model(books, retry), lambda uow: ask_store(uow, retry)
            )  # fmt: skip

        return keyed(cast, books, self.key, f"{principal.user_id} submit", repr((agent, self.amount)), make)


@dataclass(frozen=True)
class Decide:
    """An admin approves or rejects a request, or somebody cancels it."""

    what: Literal["approve", "reject", "cancel"]
    back: int
    amount: int | None = None
    user: int = -1
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        count = len(books.requests)
        number = count - 1 - self.back % count if count and self.back < 9 else UNKNOWN
        principal = cast.principals[self.user]

        def ask_model(books: Books, retry: Retry | None) -> Answer:
            if self.what == "approve":
                return ("approved", *books.approve(number, self.amount, retry))
            if self.what == "reject":
                books.reject(number, retry)
            else:
                books.cancel(number, principal.user_id, is_admin=principal is cast.admin)
            return (f"{self.what} is done",)

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            request_id, key = cast.id_of(number, "request"), as_key(retry)
            if self.what == "approve":
                done = approve(
                    uow, request_id, principal=cast.admin, approved=self.amount,
                    highest=TERMS.highest_request, retry=key, levels=POLICY.alert_levels,
                )  # fmt: skip
                return ("approved", done.old_budget, done.new_budget)
            if self.what == "reject":
                reject(uow, request_id, REASON, principal=cast.admin, retry=key)
            else:
                cancel_request(uow, request_id, principal=principal)
            return (f"{self.what} is done",)

        def make(retry: Retry | None) -> Call:
            told = f"{self!r} of {number}"
            return Call(told, cast, lambda books: ask_model(books, retry), lambda uow: ask_store(uow, retry))

        key = None if self.what == "cancel" else self.key
        return keyed(cast, books, key, f"admin {self.what} {number}", repr(self.amount), make)


@dataclass(frozen=True)
class Steer:
    """An admin stops an agent, starts it, puts it out of use and into use again, or deletes it."""

    agent: int
    what: Literal["stop", "start", "inactive", "active", "delete"]

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        agent = cast.agents[self.agent]

        def ask_model(books: Books) -> Answer:
            if self.what == "stop":
                return ("stopped", books.stop(agent))
            if self.what == "start":
                books.start(agent)
            elif self.what == "delete":
                books.delete_agent(agent)
            else:
                books.set_status(agent, is_inactive=self.what == "inactive")
            return (f"{self.what} is done",)

        def ask_store(uow: UnitOfWork) -> Answer:
            if self.what == "stop":
                return ("stopped", stop_agent(uow, agent, principal=cast.admin).leases_revoked)
            if self.what == "start":
                start_agent(uow, agent, principal=cast.admin)
            elif self.what == "delete":
                delete_agent(uow, agent, principal=cast.admin)
            else:
                update_agent(uow, agent, {"status": self.what}, principal=cast.admin)
            return (f"{self.what} is done",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class SwitchKey:
    """An admin disables a provider key or enables it."""

    key: int
    is_enabled: bool

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books

        def ask_model(books: Books) -> Answer:
            books.set_key(self.key, is_enabled=self.is_enabled)
            return ("switched",)

        def ask_store(uow: UnitOfWork) -> Answer:
            fields = {"is_enabled": self.is_enabled}
            update_provider_key(uow, cast.keys[self.key], fields, actor=ADMIN, vault=cast.sealing.vault)  # type: ignore[arg-type]
            return ("switched",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class AssignKeys:
    """An admin says which provider keys an agent may be lent."""

    agent: int
    keys: tuple[int, ...]

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        agent = cast.agents[self.agent]

        def ask_model(books: Books) -> Answer:
            books.assign_keys(agent, self.keys)
            return ("assigned",)

        def ask_store(uow: UnitOfWork) -> Answer:
            assign_agent_keys(uow, agent, [cast.keys[key] for key in self.keys], principal=cast.admin)
            return ("assigned",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class ChangeToken:
    """An admin replaces an agent's IC token, takes it away, or gives it one."""

    agent: int
    what: Literal["regenerate", "revoke", "issue"]
    overlap_s: int = 0
    revokes_leases: bool = False

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        agent = cast.agents[self.agent]

        def ask_model(books: Books) -> Answer:
            if self.what == "revoke":
                return ("revoked", books.revoke_token(agent))
            if self.what == "issue":
                return ("issued", Named("value", books.issue(agent), is_new=True))
            overlap = self.overlap_s * MS
            value = books.regenerate(agent, overlap, revokes_leases=self.revokes_leases)
            return ("issued", Named("value", value, is_new=True))

        def ask_store(uow: UnitOfWork) -> Answer:
            if self.what == "revoke":
                return ("revoked", revoke_ic_token(uow, agent, actor=ADMIN) is not None)
            if self.what == "issue":
                return ("issued", issue_ic_token(uow, agent, actor=ADMIN, signer=cast.signer).value)
            replaced = replace_ic_token(
                uow, agent, overlap_s=self.overlap_s, revokes_leases=self.revokes_leases,
                actor=ADMIN, signer=cast.signer,
            )  # fmt: skip
            return ("issued", replaced.issued.value)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class SetLimits:
    """An admin limits what an owner's agents may use, in all or in a project, or lifts the limit."""

    owner: int
    limits: Limits
    project: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        owner = cast.owners[self.owner]
        project = None if self.project is None else cast.projects[self.project]

        def ask_model(books: Books) -> Answer:
            books.set_limits(owner, project, self.limits)
            return ("limited",)

        def ask_store(uow: UnitOfWork) -> Answer:
            self._set(uow, owner, project)
            return ("limited",)

        return Call(repr(self), cast, ask_model, ask_store)

    def _set(self, uow: UnitOfWork, owner: str, project: str | None) -> None:
        known, levels = uow.limits.find_of(owner, project), POLICY.alert_levels
        month, tokens, requests = self.limits
        if self.limits == Limits():
            if known is not None:
                delete_limit(uow, known.id, actor=ADMIN)
        elif known is None:
            create_limit(
                uow,
                {
                    "user_id": owner,
                    "project_id": project,
                    "max_cost_per_month": month,
                    "max_tokens_per_day": tokens,
                    "max_requests_per_minute": requests,
                },
                actor=ADMIN,
                levels=levels,
            )
        else:
            change_limit(
                uow,
                known.id,
                {
                    "max_cost_per_month": month,
                    "max_tokens_per_day": tokens,
                    "max_requests_per_minute": requests,
                },
                actor=ADMIN,
                levels=levels,
            )


@dataclass(frozen=True)
class Suspend:
    """An admin suspends an owner, or lets him in again."""

    owner: int
    is_suspended: bool

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        owner = cast.owners[self.owner]

        def ask_model(books: Books) -> Answer:
            (books.suspend if self.is_suspended else books.activate)(owner)
            return ("suspended",)

        def ask_store(uow: UnitOfWork) -> Answer:
            if self.is_suspended:
                suspend_user(uow, owner, principal=cast.admin)
            else:
                activate_user(uow, owner, actor=ADMIN)
            return ("suspended",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class Again:
    """A request with an idempotency key comes once more, with its own body or with another."""

    back: int
    is_changed: bool = False

    def resolve(self, cast: Cast, books: Books) -> Call:
        # What was drawn in a unit of work that was given up may speak of what does not exist.
        known = [each for each in cast.keyed if all(map(operator.le, each.there, books.sizes))]
        if not known:
            return Sweep().resolve(cast, books)
        again = known[-1 - self.back % len(known)]
        body = again.retry.body + " or more" if self.is_changed else again.retry.body
        call = again.make(again.retry._replace(body=body))
        call.name = f"{self!r} with {body} of {call.name}"
        return call
