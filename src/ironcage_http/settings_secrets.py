"""The secrets among the settings: which count, which are too weak for where the server stands, which are made up.

A variable comes before the secrets file, the file before what is derived or public.

Source: contract identity.md 10.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ironcage_http import variable_kinds as kinds
from ironcage_http import variables as v
from ironcage_http.environment import Environment, Variable
from ironcage_http.secrets_file import SecretsFileError, StoredSecrets, secrets_beside, secrets_path
from ironcage_storage.sealed.tokens import MIN_SECRET_CHARS
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, NoVault

DEVELOPMENT_JWT_SECRET: Final = "dev-secret-change-in-production"  # noqa: S105 - public, and refused where it matters

_MAIN: Final = (v.DATABASE.name, v.JWT_SECRET.name, v.MASTER_KEY.name)
_PLACEHOLDERS: Final = ("change-in-production", "change-me", "changeme", "dev-secret", "dev-ic-token-secret")
_IC_TOKEN_LABEL: Final = b"ironcage:ic-token-secret:v1"


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """The admin to make where there is no user at all."""

    email: str
    username: str
    password: str = field(repr=False)


class Deployment(NamedTuple):
    """Where the server stands; a guarded one takes no public and no short secret."""

    mode: kinds.DeploymentMode
    host: str
    database: kinds.Database
    is_guarded: bool

    @property
    def is_production(self) -> bool:
        """Whether the rules of production hold."""
        return self.mode == "production"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets that count."""

    jwt: str = field(repr=False)
    ic_token: str = field(repr=False)
    master_key: MasterKey | None
    previous_master_keys: tuple[MasterKey, ...]


class MasterKeys(NamedTuple):
    """The key that seals, None for none, and those that only open what they sealed."""

    current: MasterKey | None
    previous: tuple[MasterKey, ...]

    def vault(self) -> AesGcmVault | NoVault:
        """Return what seals and opens with them."""
        return NoVault() if self.current is None else AesGcmVault(self.current, self.previous)


def master_keys(env: Environment, stored: StoredSecrets | None) -> MasterKeys:
    """Return every master key that is known: a variable's comes first, the secrets file's open what they sealed."""
    given = [env.read(v.MASTER_KEY), env.read(v.MASTER_KEY_PREVIOUS)]
    kept = [stored.master_key, stored.previous_master_key] if stored else []
    current = given[0] or (stored.master_key if stored else None)
    # By their id, so that none is there twice, and none in the place of another.
    known = {key.key_id: key for key in (*given, *kept) if key is not None and key != current}
    return MasterKeys(current, tuple(known.values()))


def read_secrets(env: Environment, here: Deployment, *, may_create: bool) -> Secrets:
    """Return the secrets that count; a missing or weak one is a problem of `env`. Call it when all else is read.

    The secrets file is made here, if that may be and `env` has no problem by then.
    """
    _check_given(env, here)
    makes_own = not here.is_production and not any(env.has(name) for name in _MAIN)
    stored = _find_stored(env, here, may_create=may_create and makes_own and not env.problems)
    jwt = env.read(v.JWT_SECRET) or (stored.jwt_secret if stored else None)
    if jwt is None:
        # What would have been made up, but for a problem found before or because nothing may be made, is no problem.
        env.refuse_if(here.is_guarded and not makes_own, f"{v.JWT_SECRET.name} is required: {_where()}")
        is_public = not here.is_guarded and not makes_own
        env.warn_if(is_public, f"{v.JWT_SECRET.name} is not set; sessions are signed with a public secret")
        jwt = DEVELOPMENT_JWT_SECRET
    master_key, previous = master_keys(env, stored)
    env.warn_if(master_key is None and not makes_own, f"{v.MASTER_KEY.name} is not set; provider keys cannot be used")
    ic_token = env.read(v.IC_TOKEN_SECRET) or (stored.ic_token_secret if stored else None)
    is_derived = here.is_production and ic_token is None
    env.warn_if(
        is_derived, f"{v.IC_TOKEN_SECRET.name} is derived from JWT_SECRET; changing that will end all IC tokens"
    )
    return Secrets(jwt=jwt, ic_token=ic_token or _derived(jwt), master_key=master_key, previous_master_keys=previous)


def read_first_admin(env: Environment, folder: Path) -> FirstAdmin | None:
    """Return the admin that the environment names, or None; half of one is a problem of `env`."""
    email, password_name, file_name = v.ADMIN_EMAIL.name, v.ADMIN_PASSWORD.name, v.ADMIN_PASSWORD_FILE.name
    has_password = env.has(password_name) or env.has(file_name)
    env.refuse_if(env.has(email) and not has_password, f"{email} needs {password_name} or {file_name}")
    env.refuse_if(has_password and not env.has(email), f"{password_name} and {file_name} need {email}")
    env.refuse_if(env.has(password_name) and env.has(file_name), f"only one of {password_name}, {file_name} may be set")
    is_alone = env.has(v.ADMIN_USERNAME.name) and not env.has(email)
    env.warn_if(is_alone, f"{v.ADMIN_USERNAME.name} has no effect without {email}")
    password = env.read(v.ADMIN_PASSWORD) or _password_in_file(env, folder)
    address = env.read(v.ADMIN_EMAIL)
    if address is None or password is None:
        return None
    return FirstAdmin(address, env.read(v.ADMIN_USERNAME) or "admin", password)


def _check_given(env: Environment, here: Deployment) -> None:
    for variable in (v.JWT_SECRET, v.JWT_SECRET_PREVIOUS):
        secret = env.read(variable)
        is_weak = secret is not None and (len(secret) < MIN_SECRET_CHARS or _is_placeholder(secret))
        env.refuse_if(is_weak and here.is_guarded, f"{variable.name} is too weak: {_where()}")
        env.warn_if(is_weak and not here.is_guarded, f"{variable.name} is weak")
    is_known = _is_placeholder(env.read(v.IC_TOKEN_SECRET) or "")
    env.refuse_if(is_known and here.is_production, f"{v.IC_TOKEN_SECRET.name} must not be a placeholder in production")
    key = env.read(v.MASTER_KEY)
    is_alone = key is None and env.has(v.MASTER_KEY_PREVIOUS.name)
    env.refuse_if(is_alone, f"{v.MASTER_KEY_PREVIOUS.name} needs {v.MASTER_KEY.name}")
    is_zero = key is not None and not any(key.raw)
    env.refuse_if(is_zero and here.is_production, f"{v.MASTER_KEY.name} must not be all zero in production")
    env.warn_if(is_zero and not here.is_production, f"{v.MASTER_KEY.name} is all zero")


def _where() -> str:
    return (
        f"in production, and wherever SERVER_HOST is no loopback address, it must be {MIN_SECRET_CHARS} characters "
        "or more and no placeholder"
    )


def _is_placeholder(secret: str) -> bool:
    return any(part in secret.lower() for part in _PLACEHOLDERS)


def _find_stored(env: Environment, here: Deployment, *, may_create: bool) -> StoredSecrets | None:
    if not isinstance(here.database, Path):
        return None
    path = secrets_path(here.database)
    is_late = may_create and here.database.exists() and not path.exists()
    env.warn_if(is_late, f"{path} was made new for a database that was there; what was sealed before does not open")
    try:
        return secrets_beside(here.database, may_create=may_create)
    except SecretsFileError as error:
        env.refuse_if(True, error.message)
        return None


def _derived(jwt_secret: str) -> str:
    kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=_IC_TOKEN_LABEL)
    return kdf.derive(jwt_secret.encode("utf-8", "surrogatepass")).hex()


def _password_in_file(env: Environment, folder: Path) -> str | None:
    name: Variable[str | None] = v.ADMIN_PASSWORD_FILE
    path = env.read(name)
    if path is None:
        return None
    try:
        text = (folder / path).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    password = text.removesuffix("\n").removesuffix("\r")
    env.refuse_if(not password, f"{name.name} must be a file that can be read and holds a password in UTF-8")
    return password or None
