"""The composition root: settings and a store become an app."""

import secrets
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Any, Final

from litestar import Litestar, Request
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from ironcage_core.domain.rate_limits import FailureWindow, TokenBuckets
from ironcage_core.ports.storage import Store
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.token_quotas import TokenCounter
from ironcage_http import asyncapi, openapi
from ironcage_http.calls import JSON
from ironcage_http.edge import Edge
from ironcage_http.endpoints import endpoint
from ironcage_http.errors import on_exception, on_http_exception, upgrade_required
from ironcage_http.feed_hub import FeedHub
from ironcage_http.feed_sockets import PATHS, FeedSockets
from ironcage_http.maintenance import maintained
from ironcage_http.metrics import Metrics
from ironcage_http.routes import (
    agent_budgets,
    agent_keys,
    agent_metrics,
    agents,
    analytics_budgets,
    analytics_calls,
    analytics_events,
    analytics_exports,
    analytics_series,
    analytics_spending,
    analytics_usage,
    api_tokens,
    audit,
    auth,
    auth_checks,
    budget,
    budget_requests,
    budgets,
    ic_tokens,
    keys,
    leases,
    ledger,
    limits,
    me,
    projects,
    providers,
    reports,
    reservations,
    system,
    telemetry,
    tokens,
    traces,
    usage,
    users,
)
from ironcage_http.routing import Route
from ironcage_http.secret_watch import SecretWatch
from ironcage_http.settings import Settings
from ironcage_http.shortcuts import Handler, Shortcuts
from ironcage_http.sweeping import Sweeper
from ironcage_http.throttle import Throttle
from ironcage_http.wire import encode
from ironcage_http.wiring import Wiring
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.access_tokens import AccessTokenSigner, new_refresh_token
from ironcage_storage.sealed.api_tokens import api_token_hash, new_api_token
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault, NoVault
from ironcage_storage.system import SystemClock

ROUTES: Final[Sequence[Route]] = (
    *auth.ROUTES,
    *auth_checks.ROUTES,
    *me.ROUTES,
    *users.ROUTES,
    *api_tokens.ROUTES,
    *tokens.ROUTES,
    *agents.ROUTES,
    *agent_keys.ROUTES,
    *agent_metrics.ROUTES,
    *agent_budgets.ROUTES,
    *ic_tokens.ROUTES,
    *providers.ROUTES,
    *projects.ROUTES,
    *keys.ROUTES,
    *limits.ROUTES,
    *budget.ROUTES,
    *reports.ROUTES,
    *reservations.ROUTES,
    *budgets.ROUTES,
    *budget_requests.ROUTES,
    *leases.ROUTES,
    *ledger.ROUTES,
    *usage.ROUTES,
    *analytics_spending.ROUTES,
    *analytics_usage.ROUTES,
    *analytics_budgets.ROUTES,
    *analytics_series.ROUTES,
    *analytics_calls.ROUTES,
    *analytics_exports.ROUTES,
    *traces.ROUTES,
    *analytics_events.ROUTES,
    *telemetry.ROUTES,
    *audit.ROUTES,
    *system.ROUTES,
)
_PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def wire(store: Store, settings: Settings) -> Wiring:
    """Return the ports of a control plane over a store."""
    previous = [settings.jwt_secret_previous] if settings.jwt_secret_previous else []
    hasher = Argon2PasswordHasher()
    vault = (
        NoVault() if settings.master_key is None else AesGcmVault(settings.master_key, settings.previous_master_keys)
    )
    return Wiring(
        store=store,
        settings=settings,
        clock=SystemClock(),
        prices=bundled_prices(),
        ic_signer=IcTokenSigner(settings.ic_token_secret),
        access_signer=AccessTokenSigner(settings.jwt_secret, previous),
        sealing=Sealing(vault, IpTokenSealer()),
        hasher=hasher,
        throttle=Throttle(settings, TokenBuckets(), FailureWindow()),
        denials=TokenBuckets(),
        token_counter=TokenCounter(TokenBuckets()),
        sweeper=Sweeper(store),
        metrics=Metrics(lambda: store.queue_depth),
        nobodys_hash=_nobodys_hash(),
        new_refresh_token=new_refresh_token,
        new_api_token=new_api_token,
        api_token_hash=api_token_hash,
    )


@cache
def _nobodys_hash() -> str:
    """Return what a password is held against where there is no user: nothing fits it."""
    return Argon2PasswordHasher().hash(secrets.token_urlsafe())


def create_app(store: Store, settings: Settings) -> ASGIApp:
    """Return the ASGI app of a control plane.

    Args:
        store: Where everything is kept; the caller closes it after the app has stopped.
        settings: What the operator decided.
    """
    wiring = wire(store, settings)
    metrics = wiring.metrics
    hub = FeedHub(store, wiring.clock, count_sent=metrics.count_feed_messages, count_slow=metrics.count_slow_consumer)
    metrics.watch_store(store)
    metrics.tell_build(version("ironcage"), settings.build_commit or system.NO_COMMIT, settings.mode)
    metrics.watch_feed(lambda: len(hub.registry.connections))
    answering = _endpoints("/api/v1", ROUTES, wiring)
    answering |= _endpoints("/v1", telemetry.ROUTES, wiring)  # the path that runtimes were promised
    app = Litestar(
        route_handlers=[
            *_handlers(answering),
            *_documents(),
            _metrics(wiring, metrics),
            *_plain_feed(),
        ],
        exception_handlers={HTTPException: on_http_exception, Exception: on_exception},
        lifespan=[partial(maintained, wiring=wiring, watch=SecretWatch(wiring, metrics)), hub.running],
        openapi_config=None,
        logging_config=None,
    )
    is_production = settings.mode == "production"
    sockets = FeedSockets(wiring, hub)
    plain = {place: answer for place, answer in answering.items() if "{" not in place[1]}
    short = Shortcuts(app, plain)
    return Edge(short, sockets, origins=settings.allowed_origins, is_production=is_production, metrics=metrics)


def _endpoints(base: str, routes: Sequence[Route], wiring: Wiring) -> dict[tuple[str, str], Handler]:
    """Return what answers routes, by method and path."""
    return {(route.method, base + route.path): endpoint(route, wiring) for route in routes}


def _handlers(answering: Mapping[tuple[str, str], Handler]) -> list[HTTPRouteHandler]:
    """Return one handler for each method: what the framework works out for each of its own makes a slow start."""

    async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await answering[request.method, request.scope["path_template"]](request)

    async def options(request: Request[Any, Any, Any]) -> ASGIResponse:
        methods = [method for method, path in answering if path == request.scope["path_template"]]
        return ASGIResponse(status_code=204, headers={"Allow": ", ".join(sorted([*methods, "OPTIONS"]))})

    paths: dict[Any, list[str]] = {}
    for method, path in answering:
        paths.setdefault(method, []).append(_typed(path))
    every = sorted({path for of_method in paths.values() for path in of_method})
    return [
        # Before the others, or the framework makes one of its own for each path.
        HTTPRouteHandler(every, http_method="OPTIONS", status_code=200, media_type=JSON)(options),
        # Every answer brings its own status; Litestar would take that of a DELETE for 204 and refuse a body.
        *(
            HTTPRouteHandler(of_method, http_method=method, status_code=200, media_type=JSON)(handle)
            for method, of_method in paths.items()
        ),
    ]


def _typed(path: str) -> str:
    return path.replace("}", ":str}")


@cache
def _described() -> tuple[bytes, bytes, bytes]:
    """Return what describes the interface, for machines and for people, and the feed."""
    document = openapi.describe(ROUTES)
    return encode(document), openapi.page(document).encode(), encode(asyncapi.describe())


def _documents() -> list[HTTPRouteHandler]:
    as_json, as_page, of_feed = _described()

    async def machine(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        return ASGIResponse(body=as_json, media_type=JSON)

    async def listeners(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        return ASGIResponse(body=of_feed, media_type=JSON)

    async def people(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        headers = {"Content-Security-Policy": _PAGE_POLICY}
        return ASGIResponse(body=as_page, media_type="text/html", headers=headers)

    return [
        HTTPRouteHandler("/api/openapi.json", http_method="GET")(machine),
        HTTPRouteHandler("/api/asyncapi.json", http_method="GET")(listeners),
        HTTPRouteHandler("/api/docs", http_method="GET")(people),
    ]


def _plain_feed() -> list[HTTPRouteHandler]:
    async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        return upgrade_required()

    return [HTTPRouteHandler(path, http_method="GET")(handle) for path in PATHS]


def _metrics(wiring: Wiring, metrics: Metrics) -> HTTPRouteHandler:
    handler = partial(system.exposition, metrics=metrics)
    route = Route("GET", "/metrics", handler, "Metrics for Prometheus", action="system.metrics", limit="none")
    return HTTPRouteHandler("/metrics", http_method="GET")(endpoint(route, wiring))
