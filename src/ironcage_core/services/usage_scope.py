"""Usage scope: whose calls a caller may ask about, and what the filters of a question name.

Whose a call is follows who owns its agent now, or owned it last; of which project it is, when it was made.

Source: contract analytics.md 3, resources.md 8.
"""

from dataclasses import asdict, dataclass, replace

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.usage import UsageSums
from ironcage_core.errors.access import AgentTokenForbiddenError
from ironcage_core.errors.resources import ProviderNotFoundError
from ironcage_core.errors.tree import ForbiddenError
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import any_agent, scope_of


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Which calls a caller asks about; None means all. `user_id` is who owns their agents now."""

    agent_id: str | None = None
    provider_id: str | None = None
    provider: str | None = None
    model: str | None = None
    project_id: str | None = None
    user_id: str | None = None

    @property
    def used(self) -> dict[str, str | None]:
        """The filters as an answer tells them: always those of agent and provider key, the others where they say so."""
        always = {"agent_id", "provider_id"}
        return {name: value for name, value in asdict(self).items() if name in always or value is not None}


def usage_seen(principal: Principal) -> UsageFilter:
    """Return which usage a caller may see at all."""
    scope = scope_of(principal)
    return UsageFilter(scope.agent_id, scope.owner_id, scope.project_id)


def sums_of(uow: UnitOfWork, which: UsageFilter) -> UsageSums:
    """Return the sums over usage, zeros where there is none."""
    return uow.usage.sums(which).get((), UsageSums())


def agent_of_history(uow: UnitOfWork, agent_id: str, principal: Principal) -> Agent:
    """Return an agent whose calls the principal may see, deleted ones included; each call's project is another matter.

    Raises:
        AgentTokenForbiddenError: The principal is bound to another agent; also if there is none with this id.
        AgentNotFoundError: There never was one with this id.
        ForbiddenError: It is another user's.
    """
    if principal.bound_agent not in {None, agent_id}:
        raise AgentTokenForbiddenError
    agent = any_agent(uow, agent_id)
    if not reaches(principal, Target(agent.owner_id, agent.id)):
        raise ForbiddenError("The agent belongs to somebody else")
    return agent


def usage_filter(uow: UnitOfWork, asked: UsageQuestion, principal: Principal) -> UsageFilter | None:
    """Return which usage a question means within what the caller may see, at any time; None for none at all.

    Raises:
        AgentNotFoundError, ProviderNotFoundError: A filter names nothing.
        ForbiddenError: The agent is another user's, or only an admin may ask by user.
    """
    if asked.user_id is not None:
        check_may_ask_by_user(principal)
    if asked.agent_id is not None:
        agent_of_history(uow, asked.agent_id, principal)
    if asked.provider_id is not None:
        _check_provider(uow, asked.provider_id, principal)
    scope = scope_of(principal)
    if not is_in_project(asked.project_id, scope.project_id):
        return None
    return UsageFilter(
        agent_id=asked.agent_id or scope.agent_id,
        owner_id=scope.owner_id or asked.user_id,
        project_id=asked.project_id or scope.project_id,
        provider=asked.provider,
        provider_id=asked.provider_id,
        model=asked.model,
    )


def check_may_ask_by_user(principal: Principal) -> None:
    """Refuse a question by user of anybody but an admin.

    Raises:
        ForbiddenError: It is nobody else's.
    """
    if principal.reach != "all":
        raise ForbiddenError("Only an admin may ask by user")


def of_one(which: UsageFilter | None, **part: str) -> UsageFilter | None:
    """Return what a filter leaves of one project or one provider; None for none at all."""
    if which is None or any(getattr(which, name) not in {None, value} for name, value in part.items()):
        return None
    return replace(which, **part)  # type: ignore[arg-type]  # names of texts


def is_in_project(asked: str | None, bound: str | None) -> bool:
    """Tell whether a filter by project leaves anything of the project that a credential is bound to."""
    return asked is None or bound is None or asked == bound


def _check_provider(uow: UnitOfWork, provider_id: str, principal: Principal) -> None:
    seen = replace(usage_seen(principal), provider_id=provider_id)
    if uow.provider_keys.find(provider_id) is None and uow.usage.first_day(seen) is None:
        raise ProviderNotFoundError("No such provider key, and no call of one")
