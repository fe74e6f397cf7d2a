"""The table of settings: every variable of the environment with its default and its rule.

Rules that join variables, and defaults that depend on the deployment, stand in `settings`.

Source: contract identity.md 8 to 10, budget.md 0, resources.md 9 and 10.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ironcage_core.domain.alerts import DEFAULT_LEVELS
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.limit_classes import LIMITS, LimitClass, parse_overrides
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.rate_limits import Rate
from ironcage_http import variable_kinds as kinds
from ironcage_http.environment import Variable
from ironcage_storage.sealed.tokens import MIN_SECRET_CHARS

_SECRET: Final = f"{MIN_SECRET_CHARS} characters or more"
_S: Final = " of seconds"

MODE: Final[Variable[kinds.DeploymentMode | None]] = Variable(
    "IRON_DEPLOYMENT_MODE",
    None,
    "production, development or pilot",
    kinds.deployment_mode,
    "production on Kubernetes, AWS or Heroku; else pilot",
)
DATABASE: Final[Variable[kinds.Database | None]] = Variable(
    "DATABASE_URL",
    None,
    "sqlite:///./relative.db, sqlite:////absolute.db or sqlite::memory:, with no option but ?mode=rwc",
    kinds.database_url,
    "sqlite:///./iron.db; production: required",
    "PostgreSQL is not supported yet",
)
HOST: Final[Variable[str | None]] = Variable(
    "SERVER_HOST", None, "an IP address or a host name", kinds.host_name, "127.0.0.1; production: 0.0.0.0"
)
PORT: Final = kinds.whole("SERVER_PORT", 8080, 1, 65_535)
JWT_SECRET: Final = kinds.plain_text(
    "JWT_SECRET",
    "a text",
    kinds.ANY,
    "a development value, only outside production on a loopback address",
    f"{_SECRET} in production and wherever `SERVER_HOST` is no loopback address; required there",
)
JWT_SECRET_PREVIOUS: Final = kinds.plain_text(
    "JWT_SECRET_PREVIOUS", "a text", kinds.ANY, note="only verifies, during a rotation; as long as `JWT_SECRET` must be"
)
IC_TOKEN_SECRET: Final = kinds.plain_text(
    "IC_TOKEN_SECRET", _SECRET, f".{{{MIN_SECRET_CHARS},}}", "derived from `JWT_SECRET`", "no placeholder in production"
)
MASTER_KEY: Final = kinds.sealing_key(
    "IRON_SECRETS_MASTER_KEY", "encrypts provider keys, which cannot be used without it; not all zero in production"
)
MASTER_KEY_PREVIOUS: Final = kinds.sealing_key(
    "IRON_SECRETS_MASTER_KEY_PREVIOUS",
    "only opens what it encrypted, during a rotation; needs `IRON_SECRETS_MASTER_KEY`",
)
ACCESS_TTL: Final = kinds.whole("JWT_ACCESS_TOKEN_TTL", 900, 60, 86_400, unit=_S)
REFRESH_TTL: Final = kinds.whole("JWT_REFRESH_TOKEN_TTL", 604_800, 60, unit=_S, note="not below `JWT_ACCESS_TOKEN_TTL`")
SESSION_MAX_AGE: Final = kinds.whole(
    "IRON_SESSION_MAX_AGE", 2_592_000, 60, unit=_S, note="not below `JWT_REFRESH_TOKEN_TTL`"
)
REUSE_GRACE: Final = kinds.whole("IRON_REFRESH_REUSE_GRACE_SECONDS", 0, 0, 60, unit=_S)
MAX_SESSIONS: Final = kinds.whole("IRON_MAX_SESSIONS_PER_USER", 0, 0, note="0: no limit")
LOCKOUT_THRESHOLD: Final = kinds.whole("IRON_LOCKOUT_THRESHOLD", 10, 1, note="failed logins that lock an account")
LOCKOUT_SECONDS: Final = kinds.whole("IRON_LOCKOUT_SECONDS", 1800, 1, unit=_S)
PASSWORD_MIN_LENGTH: Final = kinds.whole("IRON_PASSWORD_MIN_LENGTH", 8, 8)
MAX_ACTIVE_TOKENS: Final = kinds.whole("IRON_MAX_ACTIVE_TOKENS_PER_USER", 10, 1)
MAX_BODY: Final = kinds.whole("IRON_MAX_BODY_BYTES", 1_048_576, 1, unit=" of bytes")
RATE_LIMIT: Final = kinds.flag(
    "IRON_RATE_LIMIT_ENABLED",
    None,
    "true in production and wherever `SERVER_HOST` is no loopback address; else false",
    "false is refused in production",
)
RATE_LIMITS: Final[Variable[Mapping[LimitClass, Rate]]] = Variable(
    "IRON_RATE_LIMITS",
    MappingProxyType({}),
    'a JSON object of rates by class such as {"login": "120/min"}, the period s, min, h, d or a number of seconds',
    parse_overrides,
    "-",
    f"takes the place of the built-in rate; the classes are {', '.join(LIMITS)}",
)
ORIGINS: Final[Variable[tuple[str, ...] | None]] = Variable(
    "ALLOWED_ORIGINS",
    None,
    "a comma list of origins such as https://panel.example.com:8443, without * and without a path",
    kinds.origins,
    "the local ports 5173, 4173 and 3000; production: none",
    "in production https and not localhost",
)
PROXIES: Final[Variable[tuple[kinds.Network, ...]]] = Variable(
    "IRON_TRUSTED_PROXIES",
    (),
    "a comma list of IP addresses and CIDR ranges",
    kinds.networks,
    "-",
    "may set `X-Forwarded-For`",
)
ALLOWED_PROVIDERS: Final[Variable[tuple[str, ...]]] = Variable(
    "IRON_ALLOWED_PROVIDERS",
    KNOWN_PROVIDERS,
    f"a comma list of {' and '.join(KNOWN_PROVIDERS)}",
    kinds.provider_kinds,
    ",".join(KNOWN_PROVIDERS),
    "keys of another kind are not assigned to agents; those they have stay",
)
METRICS_TOKEN: Final = kinds.plain_text(
    "IRON_METRICS_TOKEN",
    "visible ASCII characters without blanks",
    r"[!-~]+",
    note="opens `/metrics` as a Bearer token",
)
LEASE_DEFAULT: Final = kinds.money(
    "IRON_LEASE_DEFAULT_USD", 10, "lent when a runtime asks for no amount; not above the next"
)
LEASE_MAX: Final = kinds.money("IRON_LEASE_MAX_USD", 1000, "at most lent by one handshake or refresh")
LEASE_TTL: Final = kinds.whole("IRON_LEASE_TTL_SECONDS", 3600, 1, 86_400, unit=_S)
LEASE_GRACE: Final = kinds.whole("IRON_LEASE_GRACE_SECONDS", 60, 0, unit=_S)
LEASE_LIFETIME: Final = kinds.whole(
    "IRON_LEASE_MAX_LIFETIME_SECONDS", 86_400, 1, unit=_S, note="not below `IRON_LEASE_TTL_SECONDS`"
)
LEASE_SWEEP: Final = kinds.whole("IRON_LEASE_SWEEP_SECONDS", 5, 1, unit=_S)
LEASE_MAX_OPEN: Final = kinds.whole("IRON_LEASE_MAX_OPEN", 50, 1, note="open leases of one agent")
REPORT_MAX: Final = kinds.money("IRON_REPORT_MAX_USD", 1000, "the most that one report may cost")
REPORT_BATCH: Final = kinds.whole("IRON_REPORT_BATCH_MAX", 1000, 1, note="reports in one batch")
SETTLE: Final = kinds.whole(
    "IRON_SETTLE_SECONDS", 86_400, 0, unit=_S, note="after its death an IC token may settle its leases"
)
BUDGET_REQUEST_MAX: Final = kinds.money(
    "IRON_BUDGET_REQUEST_MAX_USD", 10_000, "the largest budget that may be asked for or approved on request"
)
ALERT_LEVELS: Final[Variable[tuple[int, ...]]] = Variable(
    "IRON_BUDGET_ALERT_LEVELS",
    DEFAULT_LEVELS,
    "a comma list of whole percents from 1 to 1000, rising",
    kinds.percents,
    ",".join(map(str, DEFAULT_LEVELS)),
    "an alert is published when a budget or a month is used up to one of them",
)
AUDIT_RETENTION: Final = kinds.whole("IRON_AUDIT_RETENTION_DAYS", 90, 1, unit=" of days")
USAGE_RETENTION: Final = kinds.whole("IRON_USAGE_RETENTION_DAYS", 90, 7, 2555, unit=" of days", note="for single calls")
HOUR_ROLLUP_RETENTION: Final = kinds.whole("IRON_HOUR_ROLLUP_RETENTION_DAYS", 90, 2, 2555, unit=" of days")
SAFETY_RETENTION: Final = kinds.whole(
    "IRON_SAFETY_RETENTION_DAYS", 365, 7, 2555, unit=" of days", note="for what runtimes tell of personal data"
)
CALL_KEY_RETENTION: Final = kinds.whole(
    "IRON_CALL_KEY_RETENTION_DAYS",
    0,
    0,
    unit=" of days",
    note="for the keys that let a call count once, and then older events are refused; 0: for ever, else not below "
    "`IRON_USAGE_RETENTION_DAYS`",
)
FEED_RETENTION_HOURS: Final = kinds.whole("IRON_FEED_RETENTION_HOURS", 24, 1, 8760, unit=" of hours")
FEED_RETENTION_EVENTS: Final = kinds.whole(
    "IRON_FEED_RETENTION_EVENTS", 100_000, 1000, 100_000_000, note="whichever of the two keeps less"
)
LOG_LEVEL: Final[Variable[kinds.LogLevel | None]] = Variable(
    "IRON_LOG_LEVEL", None, "error, warn, info, debug or trace", kinds.log_level, "info", "wins over `RUST_LOG`"
)
RUST_LOG: Final = kinds.plain_text(
    "RUST_LOG", LOG_LEVEL.rule, kinds.ANY, "info", "read where `IRON_LOG_LEVEL` is unset"
)
LOG_FORMAT: Final[Variable[kinds.LogFormat | None]] = Variable(
    "IRON_LOG_FORMAT", None, "json or text", kinds.log_format, "text on a terminal, else json"
)
BUILD_COMMIT: Final[Variable[str | None]] = Variable(
    "IRON_BUILD_COMMIT",
    None,
    "7 to 64 hexadecimal digits",
    kinds.commit,
    "-",
    "what `/api/v1/version` tells; images set it",
)
BUILD_TIME: Final[Variable[Instant | None]] = Variable(
    "IRON_BUILD_TIME", None, "an RFC 3339 time", kinds.instant, "-", "for `/api/v1/version`; images set it"
)
ADMIN_EMAIL: Final = kinds.plain_text(
    "IRON_ADMIN_EMAIL", "an email address", kinds.EMAIL, note="the first admin's, with a password"
)
ADMIN_USERNAME: Final = kinds.plain_text("IRON_ADMIN_USERNAME", "a text", kinds.ANY, "admin")
ADMIN_PASSWORD: Final = kinds.plain_text("IRON_ADMIN_PASSWORD", "a text", kinds.ANY, note="or the next, not both")
ADMIN_PASSWORD_FILE: Final = kinds.plain_text(
    "IRON_ADMIN_PASSWORD_FILE",
    "a path",
    r"[^\0]+",
    note="a file that holds the password; one line break at its end is dropped",
)
RESET_DATABASE: Final = kinds.flag("IRON_DEV_RESET_DB", False, "false", "true only in development")
DEMO_SEED: Final = kinds.flag("ENABLE_DEMO_SEED", False, "false", "true is refused in production")

VARIABLES: Final[tuple[Variable[Any], ...]] = tuple(each for each in globals().values() if isinstance(each, Variable))
"""All of the above, in their order: the settings of a server."""

CLI_URL: Final = kinds.plain_text(
    "IRON_URL", "an address such as https://ironcage.example.com", r"\s*\S+\s*", note="which control plane to ask"
)
CLI_TOKEN: Final = kinds.plain_text(
    "IRON_API_TOKEN",
    "visible ASCII characters without blanks",
    r"[!-~]+",
    note="an API token to ask with, instead of the stored login",
)
CONFIG_FOLDER: Final = kinds.plain_text(
    "IRON_CONFIG_DIR", "a path", r"[^\0]+", "`ironcage` in the user's configuration folder", "where the login is stored"
)
OF_THE_COMMAND_LINE: Final[tuple[Variable[Any], ...]] = (CLI_URL, CLI_TOKEN, CONFIG_FOLDER)
"""What the commands that ask a server read; a server passes over them."""
