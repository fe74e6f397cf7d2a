"""Permissions: who may do what, as one table.

A rule says which permission an action needs, how far each role reaches with it, and which credentials may carry it.
What is not in the table is refused: a route cannot be registered without a rule. API tokens are narrowed by scopes of
the same vocabulary, never widened.

Source: contract identity.md 5, resources.md 6.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

Permission = Literal[
    "users:read", "users:write", "agents:read", "agents:write", "agents:manage", "agents:stop", "tokens:read",
    "tokens:write", "ic_tokens:read", "ic_tokens:write", "providers:read", "providers:write", "projects:read",
    "projects:write", "keys:read", "usage:read", "analytics:read", "limits:read", "limits:write", "traces:read",
    "budget:read", "budget:request", "budget:approve", "budget:write", "audit:read", "events:subscribe",
]  # fmt: skip
Reach = Literal["all", "own", "none"]

PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)

_VIEWER: Final[tuple[Permission, ...]] = (
    "agents:read", "tokens:read", "ic_tokens:read", "providers:read", "projects:read", "usage:read", "analytics:read",
    "limits:read", "traces:read", "budget:read", "events:subscribe",
)  # fmt: skip
_USER: Final[tuple[Permission, ...]] = (
    *_VIEWER, "agents:write", "agents:stop", "tokens:write", "ic_tokens:write", "keys:read", "budget:request",
)  # fmt: skip

ROLE_PERMISSIONS: Final[Mapping[str, tuple[Permission, ...]]] = MappingProxyType(
    {"viewer": _VIEWER, "user": _USER, "admin": PERMISSIONS}
)
"""A role that is not here has none."""


class Rule(NamedTuple):
    """Who may do one thing.

    Args:
        permission: What an API token's scopes must hold; None means that any of the user's credentials will do.
        admin: Whose things an admin reaches.
        user: Likewise a user.
        viewer: Likewise a viewer.
        takes_sessions: Whether a session will do; else only an API token.
        takes_tokens: Whether an API token will do, by its scopes; else only a session.
        takes_project_tokens: Whether an API token that is bound to a project will do: not for what is of no project.
        takes_agent_tokens: Whether an API token that is bound to an agent will do, for that agent.
        ic: Whether an agent's IC token will do: for its own agent beside users, or as the only credential there is.
        is_public: Whether no credential is asked for.
        may_owe_password: Whether it is open to a session whose password must be changed first.
    """

    permission: Permission | None = None
    admin: Reach = "all"
    user: Reach = "none"
    viewer: Reach = "none"
    takes_sessions: bool = True
    takes_tokens: bool = True
    takes_project_tokens: bool = True
    takes_agent_tokens: bool = False
    ic: Literal["no", "too", "only"] = "no"
    is_public: bool = False
    may_owe_password: bool = False

    def reach(self, role: str) -> Reach:
        """Return whose things a role reaches; a role that is not known reaches nothing."""
        reaches: dict[str, Reach] = {"admin": self.admin, "user": self.user, "viewer": self.viewer}
        return reaches.get(role, "none")


def _reads(permission: Permission, **others: Any) -> Rule:  # noqa: ANN401 - the other fields of a rule
    return Rule(permission, user="own", viewer="own", **others)


def _writes(permission: Permission, **others: Any) -> Rule:  # noqa: ANN401 - the other fields of a rule
    return Rule(permission, user="own", **others)


_PUBLIC: Final = Rule(is_public=True)
_SELF: Final = Rule(admin="own", user="own", viewer="own", may_owe_password=True)
_OWN_SESSION: Final = _SELF._replace(takes_tokens=False)
_RUNTIME: Final = Rule(admin="none", ic="only")

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "system.read": _PUBLIC,
        "system.metrics": Rule(takes_tokens=False),
        "auth.login": _PUBLIC,
        "auth.refresh": _PUBLIC,
        "auth.validate": _PUBLIC,
        "auth.verify": _SELF,
        "auth.logout": _OWN_SESSION,
        "auth.change_password": _OWN_SESSION,
        "users.me": _SELF,
        "users.change_me": _OWN_SESSION._replace(may_owe_password=False),
        "users.list": Rule("users:read", takes_project_tokens=False),
        "users.get": _reads("users:read", takes_project_tokens=False),
        "users.write": Rule("users:write", takes_project_tokens=False),
        "api_tokens.validate": _PUBLIC,
        "api_tokens.create": _writes("tokens:write", takes_tokens=False)._replace(admin="own"),
        "api_tokens.rotate": _writes("tokens:write", takes_tokens=False)._replace(admin="own"),
        "api_tokens.read": _reads("tokens:read"),
        "api_tokens.update": _writes("tokens:write", takes_tokens=False),
        "api_tokens.revoke": _reads("tokens:write"),
        "tokens.list": _SELF._replace(admin="all", may_owe_password=False),
        "ic_tokens.read": _reads("ic_tokens:read"),
        "ic_tokens.write": _writes("ic_tokens:write"),
        "agents.list": _reads("agents:read"),
        "agents.read": _reads("agents:read", takes_agent_tokens=True),
        "agents.list_tokens": _reads("agents:read"),
        "agents.manage": Rule("agents:manage"),
        "agents.write": _writes("agents:write"),
        "agents.stop": _writes("agents:stop"),
        "agents.provider_key": _RUNTIME,
        "providers.read": Rule("providers:read", user="all", viewer="all"),
        "providers.write": Rule("providers:write", takes_project_tokens=False),
        "projects.read": _reads("projects:read"),
        "projects.write": Rule("projects:write", takes_project_tokens=False),
        "keys.release": _writes("keys:read", takes_sessions=False)._replace(admin="own"),
        "usage.read": _reads("usage:read"),
        "limits.read": _reads("limits:read"),
        "limits.write": Rule("limits:write", takes_project_tokens=False),
        "agent_budgets.read": _reads("limits:read", takes_agent_tokens=True),
        "agent_budgets.write": Rule("budget:write"),
        "traces.read": _reads("traces:read", takes_agent_tokens=True),
        "budget.read": _reads("budget:read", ic="too"),
        "budget.read_ledger": _writes("budget:read"),
        "budget.revoke_lease": _writes("agents:stop"),
        "budget.history": _reads("budget:read"),
        "budget.spend": _RUNTIME,
        "budget_requests.create": _writes("budget:request"),
        "budget_requests.read": _reads("budget:read"),
        "budget_requests.decide": Rule("budget:approve"),
        "budget_requests.cancel": _writes("budget:request"),
        "analytics.write": _RUNTIME,
        "analytics.read": _reads("analytics:read"),
        "audit.read": Rule("audit:read", takes_project_tokens=False),
        "feed.subscribe": _reads("events:subscribe", takes_agent_tokens=True, ic="too"),
    }
)
"""Every action there is; what is not here is done by nobody."""
