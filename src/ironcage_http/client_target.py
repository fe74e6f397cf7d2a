"""Where a runtime's control plane is and as whom it is called: what is wrong with a url or a token is told at once."""

import base64
import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

import httpx
import msgspec

from ironcage_http.client_wire import UNREADABLE

_VISIBLE: Final = re.compile(r"[!-~]+")
_LONGEST_KEY: Final = 200


def api_url(
    url: str, *, allows_http: bool, what: str = "the IC token", permission: str = "pass allows_http=True"
) -> httpx.URL:
    """Return where the API is, for the url that a user gave.

    Args:
        url: What was given.
        allows_http: Whether secrets may go to another machine without TLS.
        what: What would go there, for a person.
        permission: How to allow it.

    Raises:
        ValueError: No http or https url, one with credentials or a query in it, or http to another machine.
    """
    parsed = _parsed(url)
    if parsed is None or parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("the url of the control plane must look like https://ironcage.example.com")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError(f"take user, password, query and fragment out of the url; {what} has a place of its own")
    if parsed.scheme == "http" and not allows_http and not is_local(parsed.host):
        raise ValueError(
            f"http:// would send {what} to {parsed.host} for everybody to read: use https://, or {permission}"
            " if nobody else is on that network"
        )
    path = parsed.raw_path.decode("ascii").partition("?")[0].rstrip("/")
    rest = "" if path.endswith("/api/v1") else "/v1" if path.endswith("/api") else "/api/v1"
    return parsed.copy_with(raw_path=(path + rest).encode("ascii"), fragment=None)


def _parsed(url: str) -> httpx.URL | None:
    try:
        return httpx.URL(url.strip())
    except httpx.InvalidURL:
        return None


def is_local(host: str) -> bool:
    """Tell whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_pass_proxies(url: httpx.URL) -> bool:
    """Tell whether proxies of the environment may carry it: what goes to this machine unencrypted must not leave it."""
    return url.scheme == "https" or not is_local(url.host)


def way_to(url: httpx.URL) -> dict[str, Any]:
    """Return what tells httpx by which way requests go there.

    What goes to this machine unencrypted passes no proxy and meets no certificate; to read those that are trusted takes
    longer than most requests.
    """
    if may_pass_proxies(url):
        return {"trust_env": True}
    return {"trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def token_value(token: str) -> str:
    """Return an IC token without the blanks around it.

    Raises:
        ValueError: Nothing is left, or what no header can carry.
    """
    value = token.strip()
    if not _VISIBLE.fullmatch(value):
        raise ValueError("the IC token is empty or has characters that no token has; copy it again")
    return value


def retry_header(key: str) -> Mapping[str, str]:
    """Return the header that makes retries of a request one request.

    Raises:
        ValueError: The key is not 1 to 200 visible ASCII characters.
    """
    if len(key) > _LONGEST_KEY or not _VISIBLE.fullmatch(key):
        raise ValueError("an idempotency key must have 1 to 200 visible ASCII characters")
    return {"Idempotency-Key": key}


def agent_of(token: str) -> str | None:
    """Return the agent that a token names, without any proof; None if it cannot be read."""
    _, _, rest = token.partition(".")
    payload = rest.partition(".")[0]
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=dict[str, Any])
    except UNREADABLE:
        return None
    agent_id = claims.get("agent_id")
    return agent_id if isinstance(agent_id, str) and agent_id else None
