"""The table of settings: every variable of the environment with its default and its rule.

Rules that join variables, and defaults that depend on the deployment, stand in `settings`.

Source: contract identity.md 8 to 10, budget.md 0, resources.md 10.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from ironcage_core.domain.limit_classes import LIMITS, LimitClass, parse_overrides
from ironcage_core.domain.money import MICROS_PER_USD, Micros, parse_usd
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.errors.tree import StartupError, ValidationError
from ironcage_http.environment import UnsupportedError, Variable
from ironcage_storage.sealed.tokens import MIN_SECRET_CHARS
from ironcage_storage.sealed.vault import MasterKey

T = TypeVar("T")

DeploymentMode = Literal["production", "development", "pilot"]
LogLevel = Literal["error", "warn", "info", "debug", "trace"]
Database: TypeAlias = Path | Literal[":memory:"]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MEMORY: Final = ":memory:"
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_LARGEST: Final = 999_999_999_999
_ORIGIN: Final = re.compile(
    r"(https?)://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII
)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_EMAIL: Final = r"[^@\s]+@[^@\s]+"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _whole(name: str, default: int, low: int, high: int = _LARGEST, *, unit: str = "", note: str = "") -> Variable[int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    span = f"from {low} to {high}" if high < _LARGEST else f"of at least {low} and at most 12 digits"
    return Variable(name, default, f"a whole number{unit} {span}", parse, str(default), note)


def _money(name: str, default_usd: int, note: str) -> Variable[Micros]:
    def parse(text: str) -> Micros:
        try:
            micros = parse_usd(text, field=name)
        except ValidationError:
            raise ValueError from None
        if micros <= 0:
            raise ValueError
        return micros

    rule = "an amount in USD above 0 with at most 6 decimals"
    return Variable(name, default_usd * MICROS_PER_USD, rule, parse, str(default_usd), note)


def _flag(name: str, default: T, shown: str, note: str) -> Variable[bool | T]:
    def parse(text: str) -> bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError
        return text.lower() in _TRUE

    return Variable(name, default, "true or false", parse, shown, note)


def _text(name: str, rule: str, form: str, shown: str = "-", note: str = "") -> Variable[str | None]:
    def parse(text: str) -> str:
        if not re.fullmatch(form, text, re.DOTALL):
            raise ValueError
        return text

    return Variable(name, None, rule, parse, shown, note, is_verbatim=True)


def _mode(text: str) -> DeploymentMode:
    mode: DeploymentMode | None = next((each for each in get_args(DeploymentMode) if each == text.lower()), None)
    return mode or _no()


def log_level(text: str) -> LogLevel:
    """Read a level in whatever case.

    Raises:
        ValueError: No such level.
    """
    level: LogLevel | None = next((each for each in get_args(LogLevel) if each == text.lower()), None)
    return level or _no()


def _database(text: str) -> Database:
    scheme, _, rest = text.partition(":")
    if re.split(r"[+]", scheme.lower())[0] in {"postgres", "postgresql"}:
        raise UnsupportedError("PostgreSQL is not supported yet; use an sqlite: address")
    path, _, query = rest.partition("?")
    if scheme.lower() != "sqlite" or query not in {"", "mode=rwc"}:
        raise ValueError
    if path == MEMORY:
        return ":memory:"
    file = unquote(path.removeprefix("///"))
    if not path.startswith("///") or Path(file).name in {"", "..", MEMORY} or file.endswith("/") or "\0" in file:
        raise ValueError
    return Path(file)


def _host(text: str) -> str:
    return text if _HOST.fullmatch(text) or _is_address(text) else _no()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _master_key(text: str) -> MasterKey:
    try:
        return MasterKey.from_base64(text)
    except StartupError:
        raise ValueError from None


def _key(name: str, note: str) -> Variable[MasterKey | None]:
    return Variable(name, None, "base64 of exactly 32 bytes", _master_key, "-", note)


def _origins(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_origin(part) for part in _parts(text)))


def _origin(text: str) -> str:
    form = _ORIGIN.fullmatch(text)
    if form is None:
        raise ValueError
    scheme, host, port = form[1].lower(), form[2].lower(), int(form[4] or _DEFAULT_PORTS[form[1].lower()])
    if not 1 <= port <= 65_535 or ".." in host or (host[0] == "[" and not _is_address(host[1:-1])):
        raise ValueError
    # As a browser writes it, which leaves the scheme's own port out.
    return f"{scheme}://{host}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")


def is_local(origin: str) -> bool:
    """Tell whether an origin is this machine itself."""
    host = urlsplit(origin).hostname or ""
    if _is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in _parts(text))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _no() -> NoReturn:
    raise ValueError


# --- the table ---------------------------------------------------------------

_SECRET: Final = f"{MIN_SECRET_CHARS} characters or more"
_S: Final = " of seconds"
_ANY: Final = r".+"

MODE: Final[Variable[DeploymentMode | None]] = Variable(
    "IRON_DEPLOYMENT_MODE",
    None,
    "production, development or pilot",
    _mode,
    "production on Kubernetes, AWS or Heroku; else pilot",
)
DATABASE: Final[Variable[Database | None]] = Variable(
    "DATABASE_URL",
    None,
    "sqlite:///./relative.db, sqlite:////absolute.db or sqlite::memory:, with no option but ?mode=rwc",
    _database,
    "sqlite:///./iron.db; production: required",
    "PostgreSQL is not supported yet",
)
HOST: Final[Variable[str | None]] = Variable(
    "SERVER_HOST", None, "an IP address or a host name", _host, "127.0.0.1; production: 0.0.0.0"
)
PORT: Final = _whole("SERVER_PORT", 8080, 1, 65_535)
JWT_SECRET: Final = _text(
    "JWT_SECRET",
    "a text",
    _ANY,
    "a development value, only outside production on a loopback address",
    f"{_SECRET} in production and wherever `SERVER_HOST` is no loopback address; required there",
)
JWT_SECRET_PREVIOUS: Final = _text(
    "JWT_SECRET_PREVIOUS", "a text", _ANY, note="only verifies, during a rotation; as long as `JWT_SECRET` must be"
)
IC_TOKEN_SECRET: Final = _text(
    "IC_TOKEN_SECRET", _SECRET, f".{{{MIN_SECRET_CHARS},}}", "derived from `JWT_SECRET`", "no placeholder in production"
)
MASTER_KEY: Final = _key(
    "IRON_SECRETS_MASTER_KEY", "encrypts provider keys, which cannot be used without it; not all zero in production"
)
MASTER_KEY_PREVIOUS: Final = _key(
    "IRON_SECRETS_MASTER_KEY_PREVIOUS",
    "only opens what it encrypted, during a rotation; needs `IRON_SECRETS_MASTER_KEY`",
)
ACCESS_TTL: Final = _whole("JWT_ACCESS_TOKEN_TTL", 900, 60, 86_400, unit=_S)
REFRESH_TTL: Final = _whole("JWT_REFRESH_TOKEN_TTL", 604_800, 60, unit=_S, note="not below `JWT_ACCESS_TOKEN_TTL`")
SESSION_MAX_AGE: Final = _whole(
    "IRON_SESSION_MAX_AGE", 2_592_000, 60, unit=_S, note="not below `JWT_REFRESH_TOKEN_TTL`"
)
REUSE_GRACE: Final = _whole("IRON_REFRESH_REUSE_GRACE_SECONDS", 0, 0, 60, unit=_S)
MAX_SESSIONS: Final = _whole("IRON_MAX_SESSIONS_PER_USER", 0, 0, note="0: no limit")
LOCKOUT_THRESHOLD: Final = _whole("IRON_LOCKOUT_THRESHOLD", 10, 1, note="failed logins that lock an account")
LOCKOUT_SECONDS: Final = _whole("IRON_LOCKOUT_SECONDS", 1800, 1, unit=_S)
PASSWORD_MIN_LENGTH: Final = _whole("IRON_PASSWORD_MIN_LENGTH", 8, 8)
MAX_ACTIVE_TOKENS: Final = _whole("IRON_MAX_ACTIVE_TOKENS_PER_USER", 10, 1)
MAX_BODY: Final = _whole("IRON_MAX_BODY_BYTES", 1_048_576, 1, unit=" of bytes")
RATE_LIMIT: Final = _flag(
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
    _origins,
    "the local ports 5173, 4173 and 3000; production: none",
    "in production https and not localhost",
)
PROXIES: Final[Variable[tuple[Network, ...]]] = Variable(
    "IRON_TRUSTED_PROXIES",
    (),
    "a comma list of IP addresses and CIDR ranges",
    _networks,
    "-",
    "may set `X-Forwarded-For`",
)
METRICS_TOKEN: Final = _text(
    "IRON_METRICS_TOKEN",
    "visible ASCII characters without blanks",
    r"[!-~]+",
    note="opens `/metrics` as a Bearer token",
)
LEASE_DEFAULT: Final = _money(
    "IRON_LEASE_DEFAULT_USD", 10, "lent when a runtime asks for no amount; not above the next"
)
LEASE_MAX: Final = _money("IRON_LEASE_MAX_USD", 1000, "at most lent by one handshake or refresh")
LEASE_TTL: Final = _whole("IRON_LEASE_TTL_SECONDS", 3600, 1, 86_400, unit=_S)
LEASE_GRACE: Final = _whole("IRON_LEASE_GRACE_SECONDS", 60, 0, unit=_S)
LEASE_LIFETIME: Final = _whole(
    "IRON_LEASE_MAX_LIFETIME_SECONDS", 86_400, 1, unit=_S, note="not below `IRON_LEASE_TTL_SECONDS`"
)
LEASE_SWEEP: Final = _whole("IRON_LEASE_SWEEP_SECONDS", 5, 1, unit=_S)
LEASE_MAX_OPEN: Final = _whole("IRON_LEASE_MAX_OPEN", 50, 1, note="open leases of one agent")
REPORT_MAX: Final = _money("IRON_REPORT_MAX_USD", 1000, "the most that one report may cost")
REPORT_BATCH: Final = _whole("IRON_REPORT_BATCH_MAX", 1000, 1, note="reports in one batch")
AUDIT_RETENTION: Final = _whole("IRON_AUDIT_RETENTION_DAYS", 90, 1, unit=" of days")
LOG_LEVEL: Final[Variable[LogLevel | None]] = Variable(
    "IRON_LOG_LEVEL", None, "error, warn, info, debug or trace", log_level, "info", "wins over `RUST_LOG`"
)
RUST_LOG: Final = _text("RUST_LOG", LOG_LEVEL.rule, _ANY, "info", "read where `IRON_LOG_LEVEL` is unset")
ADMIN_EMAIL: Final = _text("IRON_ADMIN_EMAIL", "an email address", _EMAIL, note="the first admin's, with a password")
ADMIN_USERNAME: Final = _text("IRON_ADMIN_USERNAME", "a text", _ANY, "admin")
ADMIN_PASSWORD: Final = _text("IRON_ADMIN_PASSWORD", "a text", _ANY, note="or the next, not both")
ADMIN_PASSWORD_FILE: Final = _text(
    "IRON_ADMIN_PASSWORD_FILE",
    "a path",
    r"[^\0]+",
    note="a file that holds the password; one line break at its end is dropped",
)
RESET_DATABASE: Final = _flag("IRON_DEV_RESET_DB", False, "false", "true only in development")
DEMO_SEED: Final = _flag("ENABLE_DEMO_SEED", False, "false", "true is refused in production")

VARIABLES: Final[tuple[Variable[Any], ...]] = tuple(each for each in globals().values() if isinstance(each, Variable))
"""All of the above, in their order."""
