"""Feed audience: who is told of an event, by whose the agent is at the moment of telling.

An admin is told everything, a user of his agents, an IC token of its own. The bindings of an API token narrow that.
What is about a user's month is for that user and for admins, whoever owns the agent by now.

Source: contract analytics.md 6.2.
"""

from typing import Literal, NamedTuple, Protocol

from ironcage_core.domain.access import Principal


class Audience(NamedTuple):
    """Who listens on a connection; made from the credential, as it is now.

    `owner_id` is the user who listens, None for an IC token. `agent_id` and `project_id` are what the credential is
    bound to; an IC token is bound to its agent.
    """

    kind: Literal["all", "owner", "agent"]
    is_viewer: bool = False
    owner_id: str | None = None
    agent_id: str | None = None
    project_id: str | None = None


class Belonging(NamedTuple):
    """Whose an agent is now, and of which project."""

    owner_id: str
    project_id: str


class Addressed(Protocol):
    """What the rule looks at of an event."""

    @property
    def agent_id(self) -> str | None:
        """Whom it is about; None for the system."""
        ...

    @property
    def user_id(self) -> str | None:
        """The one user it is for besides admins; None if it is for whoever the agent's events are for."""
        ...


def audience_of(principal: Principal) -> Audience:
    """Return who listens with a session or an API token; the principal is judged for `feed.subscribe`."""
    return Audience(
        kind="all" if principal.reach == "all" else "owner",
        is_viewer=principal.role == "viewer",
        owner_id=principal.user_id,
        agent_id=principal.bound_agent,
        project_id=principal.bound_project,
    )


def sees(audience: Audience, event: Addressed, belonging: Belonging | None) -> bool:
    """Tell whether somebody is told of an event.

    Args:
        audience: Who listens.
        event: What happened.
        belonging: Where its agent belongs now; None for an event of the system, or if the agent is not known.
    """
    if audience.agent_id is not None and audience.agent_id != event.agent_id:
        return False
    if audience.project_id is not None and (belonging is None or belonging.project_id != audience.project_id):
        return False
    if audience.kind == "all":
        return True
    if event.user_id is not None and event.user_id != audience.owner_id:
        return False
    if audience.kind == "agent":
        return event.agent_id is not None and event.agent_id == audience.agent_id
    return event.agent_id is not None and belonging is not None and belonging.owner_id == audience.owner_id
