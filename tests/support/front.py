"""The front door: a user with a password, and what she does there."""

from dataclasses import dataclass, field
from functools import partial

from ironcage_core.domain.access import Origin, Principal
from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.lockouts import DEFAULT_LOCKOUT_POLICY, LockoutPolicy
from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, Session, SessionPolicy
from ironcage_core.domain.users import User
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.logins import Attempt, LoggedIn, RefusedLogin, log_in
from ironcage_core.services.sessions import (
    Reused,
    authenticate_access,
    end_session,
    end_session_by_refresh,
    refresh_session,
)
from ironcage_storage.sealed.access_tokens import AccessTokenSigner, new_refresh_token
from tests.support.world import ADMIN, SIGNING_SECRET, World

HASH = "$argon2id$old"
NEW_HASH = "$argon2id$new"
ORIGIN = Origin("192.0.2.1", "browser", "req-1")


@dataclass
class Front:
    """What the front door does: bea has an account with a password, and these are her calls."""

    world: World
    policy: SessionPolicy = DEFAULT_SESSION_POLICY
    lockouts: LockoutPolicy = DEFAULT_LOCKOUT_POLICY
    signer: AccessTokenSigner = field(default_factory=lambda: AccessTokenSigner(SIGNING_SECRET))
    user_id: str = ""

    def __post_init__(self) -> None:
        self.user_id = self.add("Bea", name="Bea B.").id

    def add(self, username: str, email: str = "", name: str | None = None) -> User:
        add = partial(add_user, username=username, email=email or f"{username}@Test", name=name, password_hash=HASH)
        return self.world.store.write(partial(add, role="viewer", actor=ADMIN))

    def attempt(
        self, checked_hash: str | None = HASH, new_hash: str | None = None, identifier: str = "bea"
    ) -> LoggedIn | RefusedLogin:
        return self.world.store.write(
            partial(
                log_in,
                attempt=Attempt(identifier, checked_hash, new_hash),
                origin=ORIGIN,
                policy=self.policy,
                lockouts=self.lockouts,
                signer=self.signer,
                new_secret=new_refresh_token,
            )
        )

    def login(self, checked_hash: str = HASH, new_hash: str | None = None) -> LoggedIn:
        answer = self.attempt(checked_hash, new_hash)
        assert isinstance(answer, LoggedIn)
        return answer

    def refusal(self, checked_hash: str | None = None, identifier: str = "bea") -> RefusalError:
        answer = self.attempt(checked_hash, identifier=identifier)
        assert isinstance(answer, RefusedLogin)
        return answer.refusal

    def exchange(self, refresh_token: str) -> LoggedIn | Reused:
        return self.world.store.write(
            partial(
                refresh_session,
                refresh_token=refresh_token,
                origin=ORIGIN,
                policy=self.policy,
                signer=self.signer,
                new_secret=new_refresh_token,
            )
        )

    def refresh(self, refresh_token: str) -> LoggedIn:
        answer = self.exchange(refresh_token)
        assert isinstance(answer, LoggedIn)
        return answer

    def whoami(self, access_token: str) -> Principal:
        claims = self.signer.prove(access_token, now=self.world.clock.now())
        return self.world.store.read(partial(authenticate_access, claims=claims, origin=ORIGIN))

    def logout(self, access_token: str, *, all_sessions: bool = False) -> int:
        claims = self.signer.prove(access_token, now=self.world.clock.now())
        return self.world.store.write(
            lambda uow: end_session(uow, authenticate_access(uow, claims), all_sessions=all_sessions)
        )

    def logout_by_refresh(self, refresh_token: str) -> int | Reused:
        return self.world.store.write(
            partial(end_session_by_refresh, refresh_hash=self.signer.digest(refresh_token), origin=ORIGIN)
        )

    def change(self, **fields: object) -> None:
        self.world.store.write(lambda uow: uow.users.put(self.user(uow)._replace(**fields)))  # type: ignore[arg-type]

    def user(self, uow: UnitOfWork) -> User:
        user = uow.users.find(self.user_id)
        assert user is not None
        return user

    def stored(self) -> User:
        return self.world.store.read(self.user)

    def session(self, login: LoggedIn) -> Session:
        session_id = login.principal.session_id or ""
        session = self.world.store.read(lambda uow: uow.sessions.find(session_id))
        assert session is not None
        return session

    def audited(self, operation: str) -> list[AuditRow]:
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [row for row in rows if row.operation == operation]
