"""The system about itself: health, version, metrics. Source: contract resources.md 10."""

import hmac
from ipaddress import ip_address
from typing import Final

from anyio import fail_after, to_thread
from litestar.response.base import ASGIResponse

from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.tree import ForbiddenError, IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.calls import Call, answer
from ironcage_http.credentials import bearer_of
from ironcage_http.metrics import Metrics
from ironcage_http.routing import Route
from ironcage_http.wire import moment

HEALTH_TIMEOUT_S: Final = 2
NO_COMMIT: Final = "0000000"


async def health(call: Call) -> ASGIResponse:
    """Ask the database one real question."""
    try:
        with fail_after(HEALTH_TIMEOUT_S):
            # A thread cannot be cancelled, only left behind.
            await to_thread.run_sync(call.wiring.store.read, _ask, abandon_on_cancel=True)
    except Exception:  # noqa: BLE001 - whatever it is, the database does not answer
        return answer({"status": "unhealthy", "database": "disconnected"}, status=503)
    return answer({"status": "healthy", "database": "connected"})


def _ask(uow: UnitOfWork) -> object:
    return uow.users.find("")


async def version(call: Call) -> ASGIResponse:
    """Tell which versions of the interface are served, and from which build."""
    settings = call.wiring.settings
    return answer(
        {
            "current_version": "v1",
            "supported_versions": ["v1"],
            "deprecated_versions": [],
            "latest_endpoint": "/api/v1",
            "build": {
                "commit": settings.build_commit or NO_COMMIT,
                "timestamp": moment(settings.build_time or 0),
                "environment": settings.mode,
            },
        }
    )


async def exposition(call: Call, metrics: Metrics) -> ASGIResponse:
    """Return the metrics to a loopback peer, an admin, or the bearer of the metrics token."""
    if not _is_local(call) and not _bears_metrics_token(call):
        try:
            await call.see(call.user())
        except ForbiddenError:  # to anyone but an admin there are no metrics
            raise InvalidTokenError from None
    try:
        metrics.tell_leases(await call.glance(lambda uow: uow.leases.totals()))
    except IroncageError:  # the other numbers are told all the more
        metrics.tell_leases(None)
    return ASGIResponse(body=metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _is_local(call: Call) -> bool:
    """Tell whether somebody on this machine calls, and not a proxy on it for who knows whom."""
    is_forwarded = "x-forwarded-for" in call.headers and not call.wiring.settings.trusted_proxies
    return not is_forwarded and _is_loopback(call.client_ip)


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ip_address(address).is_loopback
    except ValueError:
        return False


def _bears_metrics_token(call: Call) -> bool:
    expected = call.wiring.settings.metrics_token
    sent = bearer_of(call.headers)
    return bool(expected and sent) and hmac.compare_digest(str(sent).encode(), str(expected).encode())


ROUTES: Final = (
    Route("GET", "/health", health, "Whether the server and its database answer", action="system.read", limit="none"),
    Route("GET", "/version", version, "Which versions of the interface are served", action="system.read", limit="none"),
)
