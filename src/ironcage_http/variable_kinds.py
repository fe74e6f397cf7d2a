"""Kinds of settings: how a text of the environment is read, and the rule that a person is told of it.

A reader raises `ValueError` for what breaks its rule.
"""

import ipaddress
import re
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from ironcage_core.domain.instants import Instant, parse_instant
from ironcage_core.domain.money import MICROS_PER_USD, Micros, parse_usd
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.errors.tree import StartupError, ValidationError
from ironcage_http.environment import UnsupportedError, Variable
from ironcage_storage.sealed.vault import MasterKey

T = TypeVar("T")

DeploymentMode = Literal["production", "development", "pilot"]
LogLevel = Literal["error", "warn", "info", "debug", "trace"]
LogFormat = Literal["json", "text"]
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
EMAIL: Final = r"[^@\s]+@[^@\s]+"
ANY: Final = r".+"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def whole(name: str, default: int, low: int, high: int = _LARGEST, *, unit: str = "", note: str = "") -> Variable[int]:
    """Return a whole number within a span."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    span = f"from {low} to {high}" if high < _LARGEST else f"of at least {low} and at most 12 digits"
    return Variable(name, default, f"a whole number{unit} {span}", parse, str(default), note)


def money(name: str, default_usd: int, note: str) -> Variable[Micros]:
    """Return an amount in USD, read as micro-USD."""

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


def flag(name: str, default: T, shown: str, note: str) -> Variable[bool | T]:
    """Return a yes or no."""

    def parse(text: str) -> bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError
        return text.lower() in _TRUE

    return Variable(name, default, "true or false", parse, shown, note)


def plain_text(name: str, rule: str, form: str, shown: str = "-", note: str = "") -> Variable[str | None]:
    """Return a text of a form."""

    def parse(text: str) -> str:
        if not re.fullmatch(form, text, re.DOTALL):
            raise ValueError
        return text

    return Variable(name, None, rule, parse, shown, note, is_verbatim=True)


def deployment_mode(text: str) -> DeploymentMode:
    """Read a deployment mode in whatever case."""
    mode: DeploymentMode | None = next((each for each in get_args(DeploymentMode) if each == text.lower()), None)
    return mode or _no()


def log_level(text: str) -> LogLevel:
    """Read a level in whatever case.

    Raises:
        ValueError: No such level.
    """
    level: LogLevel | None = next((each for each in get_args(LogLevel) if each == text.lower()), None)
    return level or _no()


def log_format(text: str) -> LogFormat:
    """Read a format in whatever case."""
    form: LogFormat | None = next((each for each in get_args(LogFormat) if each == text.lower()), None)
    return form or _no()


def commit(text: str) -> str:
    """Read the name of a commit."""
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{7,64}", text) else _no()


def instant(text: str) -> Instant:
    """Read a point in time."""
    try:
        return parse_instant(text, field="")
    except ValidationError:
        raise ValueError from None


def database_url(text: str) -> Database:
    """Read where the database is."""
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


def host_name(text: str) -> str:
    """Read an address or a name."""
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


def sealing_key(name: str, note: str) -> Variable[MasterKey | None]:
    """Return a master key."""
    return Variable(name, None, "base64 of exactly 32 bytes", _master_key, "-", note)


def origins(text: str) -> tuple[str, ...]:
    """Read a list of origins, each as a browser writes it."""
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


def networks(text: str) -> tuple[Network, ...]:
    """Read a list of addresses and ranges."""
    return tuple(ipaddress.ip_network(part) for part in _parts(text))


def provider_kinds(text: str) -> tuple[str, ...]:
    """Read a list of kinds of providers."""
    named = tuple(dict.fromkeys(_parts(text)))
    return named if named and set(named) <= set(KNOWN_PROVIDERS) else _no()


def percents(text: str) -> tuple[int, ...]:
    """Read a rising list of whole percents."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", part, re.ASCII) for part in parts):
        raise ValueError
    levels = tuple(map(int, parts))
    return levels if levels == tuple(sorted(set(levels))) and 1 <= levels[0] <= levels[-1] <= 1000 else _no()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _no() -> NoReturn:
    raise ValueError
