"""Refusals about agents, provider keys, projects and usage limits."""

from ironcage_core.errors.tree import ConflictError, ForbiddenError, NotFoundError, RefusalError, TooManyRequestsError


class AgentNotFoundError(NotFoundError):
    """No such agent, or it was deleted."""

    code = "AGENT_NOT_FOUND"


class AgentInactiveError(ForbiddenError):
    """The agent is stopped, failed or inactive; `details.reason` says which."""

    code = "AGENT_INACTIVE"


class OwnerSuspendedError(ForbiddenError):
    """The agent's owner is suspended: no new money; open leases run on."""

    code = "OWNER_SUSPENDED"


class InvalidProviderIdError(RefusalError):
    """A provider key id that is not of the form `prov_` + 32 hex digits."""

    code = "INVALID_PROVIDER_ID"


class UnsupportedProviderError(RefusalError):
    """A provider name this product does not know."""

    code = "UNSUPPORTED_PROVIDER"


class ProviderNotFoundError(NotFoundError):
    """No such provider key, or it is not assigned to this agent."""

    code = "PROVIDER_NOT_FOUND"


class NoProviderAssignedError(ForbiddenError):
    """The agent has no enabled provider key of the asked kind."""

    code = "NO_PROVIDER_ASSIGNED"


class ProviderKeyMismatchError(ForbiddenError):
    """The named provider key belongs to another provider than the one asked for."""

    code = "PROVIDER_KEY_MISMATCH"


class ProviderKeyDisabledError(ForbiddenError):
    """The named provider key is disabled."""

    code = "PROVIDER_KEY_DISABLED"


class ProviderNotAssignedError(NotFoundError):
    """The provider key is not assigned here."""

    code = "PROVIDER_NOT_ASSIGNED"


class ProviderExistsError(ConflictError):
    """A provider key has this name, in whatever case."""

    code = "PROVIDER_EXISTS"


class TokenNotInProjectError(RefusalError):
    """An API token that is bound to no project, where the project's key is asked for."""

    code = "TOKEN_NOT_IN_PROJECT"


class NoProviderKeyError(NotFoundError):
    """The project has no provider key of the asked kind."""

    code = "NO_PROVIDER_KEY"


class ProjectNotFoundError(NotFoundError):
    """No such project, or one that the caller may not see: one answer for both."""

    code = "PROJECT_NOT_FOUND"


class ProjectExistsError(ConflictError):
    """A project has this name, in whatever case."""

    code = "PROJECT_EXISTS"


class ProjectProtectedError(ConflictError):
    """One of the projects that are always there, as they are."""

    code = "PROJECT_PROTECTED"


class ProjectNotEmptyError(ConflictError):
    """The project has live agents or active API tokens; `details.{agents,api_tokens}` say how many."""

    code = "PROJECT_NOT_EMPTY"


class LimitNotFoundError(NotFoundError):
    """No such usage limit."""

    code = "LIMIT_NOT_FOUND"


class LimitExistsError(ConflictError):
    """The user has a usage limit in all, or in this project; `details.limit_id` names it."""

    code = "LIMIT_EXISTS"


class UsageLimitExceededError(TooManyRequestsError):
    """A user has used what a usage limit allows of tokens or requests; `details.{limit_id,limit,cap,used,resets_at}`.

    `limit` is the name of the cap.
    """

    code = "USAGE_LIMIT_EXCEEDED"
