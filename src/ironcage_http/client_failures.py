"""What it means that a control plane did not answer, or not with a success, and what its Date header tells of clocks.

Messages tell what to do; a body is quoted only if it is a refusal in the control plane's own shape.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from ironcage_core.domain.instants import MS_PER_S, Instant, from_datetime
from ironcage_core.errors.runtime import ControlPlaneError, UnreachableError
from ironcage_http import client_wire as wire

_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_NOTICED_MS: Final = 2 * MS_PER_S
"""Date headers count whole seconds and may be a second old, so less than this says nothing."""

_ADVICE: Final = {
    401: " ({url}); was the IC token regenerated or deleted? An owner of the agent can issue another one",
    404: " ({url}); if nothing is found at all, check the url",
}
"""What to do about refusals that do not say so themselves, by status."""

_OURS: Final = frozenset(("self", "message", "status", "reason"))
"""Names that a refusal's own details may not take."""


def unanswered(url: str, error: httpx.HTTPError) -> UnreachableError:
    """Return the failure to get any answer."""
    return UnreachableError(
        f"The control plane at {url} does not answer ({_phrase(error)}); check that it runs, the url, the network and"
        " proxy settings",
        retry_after_s=None,
    )


def unreadable(url: str, response: httpx.Response) -> UnreachableError:
    """Return the failure to understand an answer: it is somebody else's, such as the error page of a proxy."""
    return UnreachableError(
        f"What answers at {url} is no control plane, or something changes its answers: status {response.status_code},"
        f" {_kind(response)}; check the url and what stands in between",
        retry_after_s=None,
        status=response.status_code,
    )


def refused(
    url: str, response: httpx.Response, content: bytes, server_now: Instant
) -> UnreachableError | ControlPlaneError:
    """Return what an answer that is no success means."""
    status, refusal = response.status_code, wire.refusal(content)
    if response.next_request is not None:
        return ControlPlaneError(
            f"{url} redirects to {_target(response.next_request.url)}; correct the url if that is the control plane",
            status=status,
            reason="REDIRECTED",
        )
    if status == 429 or status >= 500:
        said = f"{status} {refusal.code}: {refusal.error}" if refusal else f"{status}, {_kind(response)}"
        return UnreachableError(
            f"The control plane at {url} cannot serve now ({said}); try again later",
            retry_after_s=_retry_after(response, server_now),
            status=status,
            reason=refusal.code if refusal else None,
        )
    if refusal is None and status == 413:  # a proxy's own limit
        refusal = wire.Refusal(f"Something in front of {url} finds the request too large", "PAYLOAD_TOO_LARGE")
    if refusal is None:
        return unreadable(url, response)
    details = {f"server_{name}" if name in _OURS else name: value for name, value in refusal.details.items()}
    advice = _ADVICE.get(status, "").format(url=url)
    return ControlPlaneError(f"{refusal.error}{advice}", **{**details, "status": status, "reason": refusal.code})


def date_of(response: httpx.Response) -> Instant | None:
    """Return the time of the Date header; None for none, or none that can be read."""
    return _http_date(response.headers.get("date", ""))


def _http_date(text: str) -> Instant | None:
    try:
        moment = parsedate_to_datetime(text)
        return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def offset_of(date: Instant, sent: Instant, received: Instant) -> int:
    """Return the server's clock minus ours, if a Date header shows that they differ.

    The header was written at some time between `sent` and `received`.
    """
    offset = date - min(max(date, sent), received)
    return offset if abs(offset) > _NOTICED_MS else 0


def _retry_after(response: httpx.Response, server_now: Instant) -> float | None:
    """Return the seconds that an answer asks to wait, given as such or as a date."""
    text = str(response.headers.get("retry-after", "")).strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    date = _http_date(text)
    return None if date is None else max(0, date - server_now) / MS_PER_S


def _phrase(error: httpx.HTTPError) -> str:
    """Name a failure; only those of connecting tell more, because others may quote what was sent."""
    kind = type(error).__name__
    return f"{kind}: {error}" if type(error) is httpx.ConnectError else kind


def is_json(response: httpx.Response) -> bool:
    """Tell whether an answer may be a control plane's."""
    return str(response.headers.get("content-type", "")).startswith("application/json")


def _kind(response: httpx.Response) -> str:
    """Name the content type, as far as it is one."""
    kind = str(response.headers.get("content-type", "")).partition(";")[0].strip()
    return f"content type {kind}" if 0 < len(kind) <= 40 else "no content type"


def _target(url: httpx.URL) -> str:
    """Name the host of a redirect; the rest of its address is nobody's business."""
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
