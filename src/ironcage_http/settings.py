"""Settings: what the environment says, checked as a whole before anything starts.

All problems are found before one error tells them, by name and rule and never with a value, and only an environment
without any problem makes a secrets file. A deployment is guarded in production and wherever it can be reached from
other machines: there no secret may be a public or a short one.

Source: contract identity.md 10.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.limit_classes import LimitClass
from ironcage_core.domain.money import Micros
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.errors.tree import StartupError
from ironcage_http import variable_kinds as kinds
from ironcage_http import variables as v
from ironcage_http.environment import Environment, Variable
from ironcage_http.settings_secrets import Deployment, FirstAdmin, Secrets, read_first_admin, read_secrets
from ironcage_storage.sealed.vault import MasterKey

DEFAULT_DATABASE: Final = Path("iron.db")
DEFAULT_ORIGINS: Final = ("http://localhost:5173", "http://localhost:4173", "http://localhost:3000")

_CLUSTER_MARKS: Final = ("KUBERNETES_SERVICE_HOST", "AWS_EXECUTION_ENV", "DYNO")
_SHORT_METRICS_TOKEN: Final = 16


class SettingsError(StartupError):
    """The environment breaks rules; the message lists every one, without values."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("The settings cannot be used:\n" + "\n".join(f"- {each}" for each in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator decides; durations in seconds, but for the lease policy, and money in micro-USD.

    `admin` is None where the environment names none, `call_key_retention_days` where keys of calls are kept for ever.
    `max_sessions` 0 means no limit. `rate_limits` holds only those that differ from the contract's.
    """

    mode: kinds.DeploymentMode
    database: kinds.Database
    host: str
    port: int
    jwt_secret: str = field(repr=False)
    jwt_secret_previous: str | None = field(repr=False)
    ic_token_secret: str = field(repr=False)
    master_key: MasterKey | None
    previous_master_keys: tuple[MasterKey, ...]
    access_ttl_s: int
    refresh_ttl_s: int
    session_max_age_s: int
    reuse_grace_s: int
    max_sessions: int
    lockout_threshold: int
    lockout_s: int
    password_min_length: int
    max_active_tokens: int
    max_body_bytes: int
    leases: LeasePolicy
    sweep_s: int
    budget_request_max: Micros
    allowed_origins: tuple[str, ...]
    trusted_proxies: tuple[kinds.Network, ...]
    allowed_providers: tuple[str, ...]
    rate_limit_enabled: bool
    rate_limits: Mapping[LimitClass, Rate]
    audit_retention_days: int
    usage_retention_days: int
    hour_rollup_retention_days: int
    safety_retention_days: int
    call_key_retention_days: int | None
    feed_retention_hours: int
    feed_retention_events: int
    metrics_token: str | None = field(repr=False)
    log_level: kinds.LogLevel
    log_format: kinds.LogFormat | None
    build_commit: str | None
    build_time: Instant | None
    admin: FirstAdmin | None
    reset_database: bool
    demo_seed: bool
    warnings: tuple[str, ...]


def read_settings(environ: Mapping[str, str], *, folder: Path = Path(), may_create: bool = True) -> Settings:
    """Read and check the whole environment; make the secrets file where nothing is configured.

    Args:
        environ: Names and values; an option of the command line overlays it.
        folder: Where relative paths start.
        may_create: Make that file; without it nothing is changed, and the settings are none to serve with.

    Raises:
        SettingsError: At least one rule is broken; all of them are listed, and nothing was made.
    """
    env = Environment(environ, v.VARIABLES)
    env.warn_of_strangers("IRON_", known=[each.name for each in (*v.VARIABLES, *v.OF_THE_COMMAND_LINE)])
    here = _read_deployment(env, folder)
    _check_relations(env)
    plain = _read_plain(env, here, folder)
    secrets = read_secrets(env, here, may_create=may_create)
    if env.problems:
        raise SettingsError(tuple(env.problems))
    return _settings(env, here, plain, secrets)


def settings_reference() -> str:
    """Return the table of all variables in Markdown."""
    head = "| variable | default | rule |\n|---|---|---|\n"
    return head + "".join(f"| `{each.name}` | {each.shown} | {_rule(each)} |\n" for each in v.VARIABLES)


def _rule(variable: Variable[Any]) -> str:
    return f"{variable.rule}; {variable.note}" if variable.note else variable.rule


class _Plain(NamedTuple):
    origins: tuple[str, ...]
    is_limited: bool
    log_level: kinds.LogLevel
    admin: FirstAdmin | None


def _settings(env: Environment, here: Deployment, plain: _Plain, secrets: Secrets) -> Settings:
    return Settings(
        mode=here.mode,
        database=here.database,
        host=here.host,
        port=env.read(v.PORT),
        jwt_secret=secrets.jwt,
        jwt_secret_previous=env.read(v.JWT_SECRET_PREVIOUS),
        ic_token_secret=secrets.ic_token,
        master_key=secrets.master_key,
        previous_master_keys=secrets.previous_master_keys,
        access_ttl_s=env.read(v.ACCESS_TTL),
        refresh_ttl_s=env.read(v.REFRESH_TTL),
        session_max_age_s=env.read(v.SESSION_MAX_AGE),
        reuse_grace_s=env.read(v.REUSE_GRACE),
        max_sessions=env.read(v.MAX_SESSIONS),
        lockout_threshold=env.read(v.LOCKOUT_THRESHOLD),
        lockout_s=env.read(v.LOCKOUT_SECONDS),
        password_min_length=env.read(v.PASSWORD_MIN_LENGTH),
        max_active_tokens=env.read(v.MAX_ACTIVE_TOKENS),
        max_body_bytes=env.read(v.MAX_BODY),
        leases=_lease_policy(env),
        sweep_s=env.read(v.LEASE_SWEEP),
        budget_request_max=env.read(v.BUDGET_REQUEST_MAX),
        allowed_origins=plain.origins,
        trusted_proxies=env.read(v.PROXIES),
        allowed_providers=env.read(v.ALLOWED_PROVIDERS),
        rate_limit_enabled=plain.is_limited,
        rate_limits=env.read(v.RATE_LIMITS),
        audit_retention_days=env.read(v.AUDIT_RETENTION),
        usage_retention_days=env.read(v.USAGE_RETENTION),
        hour_rollup_retention_days=env.read(v.HOUR_ROLLUP_RETENTION),
        safety_retention_days=env.read(v.SAFETY_RETENTION),
        call_key_retention_days=env.read(v.CALL_KEY_RETENTION) or None,
        feed_retention_hours=env.read(v.FEED_RETENTION_HOURS),
        feed_retention_events=env.read(v.FEED_RETENTION_EVENTS),
        metrics_token=env.read(v.METRICS_TOKEN),
        log_level=plain.log_level,
        log_format=env.read(v.LOG_FORMAT),
        build_commit=env.read(v.BUILD_COMMIT),
        build_time=env.read(v.BUILD_TIME),
        admin=plain.admin,
        reset_database=env.read(v.RESET_DATABASE),
        demo_seed=env.read(v.DEMO_SEED),
        warnings=tuple(env.warnings),
    )


def _lease_policy(env: Environment) -> LeasePolicy:
    return LeasePolicy(
        default_grant=env.read(v.LEASE_DEFAULT),
        max_grant=env.read(v.LEASE_MAX),
        ttl=env.read(v.LEASE_TTL) * MS_PER_S,
        grace=env.read(v.LEASE_GRACE) * MS_PER_S,
        max_lifetime=env.read(v.LEASE_LIFETIME) * MS_PER_S,
        max_open=env.read(v.LEASE_MAX_OPEN),
        max_report=env.read(v.REPORT_MAX),
        max_batch=env.read(v.REPORT_BATCH),
        settle=env.read(v.SETTLE) * MS_PER_S,
        alert_levels=env.read(v.ALERT_LEVELS),
    )


def _check_relations(env: Environment) -> None:
    for high, low in (
        (v.REFRESH_TTL, v.ACCESS_TTL),
        (v.SESSION_MAX_AGE, v.REFRESH_TTL),
        (v.LEASE_MAX, v.LEASE_DEFAULT),
        (v.LEASE_LIFETIME, v.LEASE_TTL),
    ):
        env.refuse_if(env.read(high) < env.read(low), f"{high.name} must not be below {low.name}")
    keys, calls = v.CALL_KEY_RETENTION, v.USAGE_RETENTION
    env.refuse_if(0 < env.read(keys) < env.read(calls), f"{keys.name} must be 0 or not below {calls.name}")


# --- the deployment ----------------------------------------------------------


def _read_deployment(env: Environment, folder: Path) -> Deployment:
    mode = env.read(v.MODE)
    if mode is None:
        mark = next((name for name in _CLUSTER_MARKS if env.has(name)), None)
        mode = "pilot" if mark is None else "production"
        warning = f"IRON_DEPLOYMENT_MODE is not set; the rules of production hold because of {mark}"
        env.warn_if(mark is not None and not env.has(v.MODE.name), warning)
    is_production = mode == "production"
    env.refuse_if(is_production and not env.has(v.DATABASE.name), f"{v.DATABASE.name} is required in production")
    database = env.read(v.DATABASE) or DEFAULT_DATABASE
    env.warn_if(is_production and database == kinds.MEMORY, f"{v.DATABASE.name} keeps nothing after the process ends")
    host = env.read(v.HOST) or ("0.0.0.0" if is_production else "127.0.0.1")  # noqa: S104 - the contract's default
    place = folder / database if isinstance(database, Path) else database
    return Deployment(mode, host, place, is_guarded=is_production or not _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# --- what depends on the deployment ------------------------------------------


def _read_plain(env: Environment, here: Deployment, folder: Path) -> _Plain:
    is_production = here.is_production
    not_limited = env.read(v.RATE_LIMIT) is False
    env.refuse_if(is_production and not_limited, f"{v.RATE_LIMIT.name} must not be false in production")
    env.refuse_if(is_production and env.read(v.DEMO_SEED), f"{v.DEMO_SEED.name} must not be true in production")
    may_reset = here.mode == "development" or not env.read(v.RESET_DATABASE)
    env.refuse_if(not may_reset, f"{v.RESET_DATABASE.name} may be true in development only")
    token = env.read(v.METRICS_TOKEN)
    env.warn_if(token is not None and len(token) < _SHORT_METRICS_TOKEN, f"{v.METRICS_TOKEN.name} is short")
    trusts_all = any(network.prefixlen == 0 for network in env.read(v.PROXIES))
    env.warn_if(trusts_all, f"{v.PROXIES.name} trusts every address, so a client can choose the address it is known by")
    limited = env.read(v.RATE_LIMIT)
    return _Plain(
        origins=_read_origins(env, here),
        is_limited=here.is_guarded if limited is None else limited,
        log_level=_read_log_level(env),
        admin=read_first_admin(env, folder),
    )


def _read_origins(env: Environment, here: Deployment) -> tuple[str, ...]:
    origins = env.read(v.ORIGINS)
    if origins is None:
        return () if here.is_production else DEFAULT_ORIGINS
    is_open = any(not origin.startswith("https:") or kinds.is_local(origin) for origin in origins)
    rule = f"{v.ORIGINS.name} must hold only https: origins, and no localhost, in production"
    env.refuse_if(here.is_production and is_open, rule)
    return origins


def _read_log_level(env: Environment) -> kinds.LogLevel:
    level = env.read(v.LOG_LEVEL)
    text = env.read(v.RUST_LOG)
    if level is None and text is not None and not env.has(v.LOG_LEVEL.name):
        try:
            return kinds.log_level(text.strip())
        except ValueError:
            env.refuse_if(True, f"{v.RUST_LOG.name} must be {v.LOG_LEVEL.rule}")
    return level or "info"
