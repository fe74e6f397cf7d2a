"""The gate: one request's credentials are proven, admitted and judged, in the order of contract identity.md 1.

Signatures and hashes are checked outside the unit of work; whether a credential is alive, what its owner may do and
what its limits leave is decided inside, on the state that the use case then works on. A unit of work may run twice (a
read that turns out to write, a batch that is repeated): a request is counted once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ironcage_core.domain.access import Origin, Principal, check_password, judged
from ironcage_core.domain.ic_tokens import AgentIdentity, PresentedIcToken
from ironcage_core.domain.limit_classes import LIMITS, LimitClass, LimitKey
from ironcage_core.domain.rate_limits import Taken
from ironcage_core.errors.access import (
    AgentTokenForbiddenError,
    InvalidTokenError,
    RateLimitExceededError,
    WrongTokenTypeError,
)
from ironcage_core.errors.tree import CredentialError, RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.api_tokens import authenticate_api_token
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.sessions import authenticate_access
from ironcage_http.client_address import counted_as
from ironcage_http.credentials import Presented
from ironcage_http.errors import MissingTokenError
from ironcage_http.routing import Route
from ironcage_http.throttle import check
from ironcage_http.wiring import Wiring

AFTER_THE_ROLE: Final = frozenset(("keys", "api_token_make"))
"""Classes that count only attempts by a role that may. Source: contract identity.md 1.1."""

IN_THE_USE_CASE: Final = frozenset(("provider_key", "analytics_events"))
"""Classes that what answers the call counts by: only calls that would otherwise succeed, but for limits, money and
cryptography; or each event of a call. Source: contract resources.md 4.2, analytics.md 2.1."""

User = Callable[[UnitOfWork], Principal]
Agent = Callable[[UnitOfWork], AgentIdentity]


@dataclass(slots=True)
class Gate:
    """The gate of one request.

    `agent_id` is the agent that the path names, if it names one; `known` is who was proven to call, even if the call is
    then refused; `taken` is what its rate limit left.
    """

    wiring: Wiring
    route: Route
    origin: Origin
    agent_id: str | None = None
    known: Principal | AgentIdentity | None = None
    taken: Taken | None = None
    _is_admitted: bool = field(default=False)

    def check_address(self) -> None:
        """Take from the limit of the client's address, where the route has one; it comes before everything else.

        Raises:
            RateLimitExceededError: Too many requests.
        """
        name = self.route.limit_class
        if name is not None and LIMITS[name].key == "ip":
            self.limit_address(name)

    def user(self, credentials: Presented) -> User:
        """Return what tells, in a unit of work, which user calls, if he may do what the route does.

        Raises:
            CredentialError: No user's credential, or one that is not genuine.
        """
        prove = self._prove_user(credentials)

        def who(uow: UnitOfWork) -> Principal:
            self.known = principal = prove(uow)
            return self._admitted(uow, principal)

        return who

    def caller(self, credentials: Presented) -> User | Agent:
        """Return what tells who calls: a user, or an agent where no user's credential stands beside its token.

        Raises:
            CredentialError: No credential, or one that is not genuine.
        """
        if credentials.has_user or credentials.ic is None:
            return self.user(credentials)
        return self.agent(credentials)

    def agent(self, credentials: Presented, *, settles: bool = False) -> Agent:
        """Return what tells, in a unit of work, which agent calls by its IC token.

        Args:
            credentials: What the request carries.
            settles: Whether a value that died lately may come through, to settle its leases.

        Raises:
            MissingTokenError, WrongTokenTypeError: None, or only a user's credential.
            InvalidTokenError, TokenExpiredError: It is not genuine, or over.
        """
        if credentials.ic is None:
            return self._without_ic_token(credentials)
        proven = self._proven_ic_token(credentials.ic)
        settle = self.wiring.settings.leases.settle if settles else 0

        def who(uow: UnitOfWork) -> AgentIdentity:
            self.known = identity = authenticate(uow, proven, settle=settle, origin=self.origin)
            if self.route.limit_class not in AFTER_THE_ROLE | IN_THE_USE_CASE:
                self.count(identity)
            return identity

        return who

    def count(self, identity: AgentIdentity) -> None:
        """Count a call of an agent, once a request.

        Raises:
            RateLimitExceededError: Too many requests.
        """
        if not self._is_admitted:
            self._take_of(identity.agent_id, identity.agent_id)
            self._is_admitted = True

    def count_event(self, agent_id: str, *, is_duplicate: bool) -> RateLimitExceededError | None:
        """Count one event of an agent, and return the refusal of one too many."""
        try:
            self._take("analytics_duplicates" if is_duplicate else "analytics_events", agent_id)
        except RateLimitExceededError as refusal:
            return refusal
        return None

    def _admitted(self, uow: UnitOfWork, principal: Principal) -> Principal:
        action = self.route.action
        check_password(principal, action)
        if self.route.limit_class in AFTER_THE_ROLE:
            judged(principal, action)
        if not self._is_admitted:
            token = principal.token
            credential = principal.user_id if token is None else token.id
            self._take_of(principal.user_id, credential, principal.bound_project, self._agent_of(uow, principal))
            if token is not None:
                self._note(self.wiring.token_counter.admit(uow, token))
            self._is_admitted = True
        return judged(principal, action)

    def _agent_of(self, uow: UnitOfWork, principal: Principal) -> str | None:
        """Return the agent that the path names, if calls are counted by it and it is one of the caller's.

        All others count as one: else whoever makes up ids would have a limit of its own for each.
        """
        name = self.route.limit_class
        if name is None or LIMITS[name].key != "user and agent":
            return None
        try:
            return own_agent(uow, self.agent_id or "", principal).id
        except RefusalError:
            return None

    def _take_of(self, caller: str, credential: str, project: str | None = None, agent: str | None = None) -> None:
        name = self.route.limit_class
        if name is None or LIMITS[name].key == "ip":
            return
        route = self.route
        keys: Mapping[LimitKey, str] = {
            "user": caller,
            "agent": caller,
            "user and resource": f"{caller} {route.path.split('/')[1]}",
            "user and agent": f"{caller} {agent}",
            "user and project": f"{caller} {project}",
            "credential and route": f"{credential} {route.method} {route.path}",
        }
        self._take(name, keys[LIMITS[name].key])

    def limit_address(self, name: LimitClass) -> None:
        """Take from a limit by the client's address.

        Raises:
            RateLimitExceededError: Too many requests.
        """
        self._take(name, f"{self.route.path} {counted_as(self.origin.ip_address)}")

    def _note(self, taken: Taken | None) -> None:
        """Keep what the tightest limit has left, which is what the answer tells."""
        if taken is not None and (self.taken is None or taken.remaining < self.taken.remaining):
            self.taken = taken

    def _take(self, name: LimitClass, key: str) -> None:
        taken = self.wiring.throttle.take(name, key)
        self._note(taken)
        check(taken, self.wiring.clock.now())

    def _prove_user(self, credentials: Presented) -> User:
        if credentials.session is not None and self.route.rule.takes_sessions:
            claims = self.wiring.access_signer.prove(credentials.session, now=self.wiring.clock.now())
            return partial(authenticate_access, claims=claims, origin=self.origin)
        if credentials.api is not None:
            return self._prove_api_token(credentials.api)
        if credentials.has_user:
            raise WrongTokenTypeError
        if credentials.ic is None:
            raise MissingTokenError("A token is needed")
        agent = self.agent(credentials)

        def refuse(uow: UnitOfWork) -> Principal:
            agent(uow)  # a dead token is told no more than that it is dead
            raise AgentTokenForbiddenError

        return refuse

    def _prove_api_token(self, value: str) -> User:
        value_hash = self.wiring.api_token_hash(value)
        if value_hash is None:
            raise InvalidTokenError
        return partial(authenticate_api_token, value_hash=value_hash, origin=self.origin)

    def _proven_ic_token(self, value: str) -> PresentedIcToken:
        if value.startswith("ic_"):  # a second prefix
            raise InvalidTokenError
        return self.wiring.ic_signer.prove(value, now=self.wiring.clock.now())

    def _without_ic_token(self, credentials: Presented) -> Agent:
        """Tell a user's credential that it is of the wrong kind, and an agent's API token that it may not."""
        if not credentials.has_user:
            raise MissingTokenError("A token is needed")
        if credentials.api is None:
            raise WrongTokenTypeError
        try:
            prove = self._prove_api_token(credentials.api)
        except InvalidTokenError:
            raise WrongTokenTypeError from None

        def refuse(uow: UnitOfWork) -> AgentIdentity:
            try:
                principal = prove(uow)
            except CredentialError:
                raise WrongTokenTypeError from None
            self.known = principal
            if principal.token is not None and principal.token.agent_id is not None:
                raise AgentTokenForbiddenError
            raise WrongTokenTypeError

        return refuse
