"""The composition root: settings and a store become an app."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from litestar import Litestar, Request, Router
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from ironcage_core.errors import IroncageError
from ironcage_core.ports.storage import Store
from ironcage_core.services.expiry import sweep
from ironcage_core.services.key_lending import Sealing
from ironcage_http import openapi
from ironcage_http.calls import JSON, endpoint
from ironcage_http.edge import Edge
from ironcage_http.errors import on_exception, on_http_exception
from ironcage_http.metrics import Metrics
from ironcage_http.routes import agents, auth, budget, budgets, ic_tokens, leases, ledger, providers, reports, system
from ironcage_http.routing import Route
from ironcage_http.settings import Settings
from ironcage_http.wire import encode
from ironcage_http.wiring import Wiring
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.access_tokens import AccessTokenSigner, new_refresh_token
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault, NoVault
from ironcage_storage.system import SystemClock

logger = logging.getLogger(__name__)

ROUTES: Final[Sequence[Route]] = (
    *auth.ROUTES,
    *agents.ROUTES,
    *ic_tokens.ROUTES,
    *providers.ROUTES,
    *budget.ROUTES,
    *reports.ROUTES,
    *budgets.ROUTES,
    *leases.ROUTES,
    *ledger.ROUTES,
    *system.ROUTES,
)
SWEEP_LIMIT: Final = 256
_PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def wire(store: Store, settings: Settings) -> Wiring:
    """Return the ports of a control plane over a store."""
    previous = [settings.jwt_secret_previous] if settings.jwt_secret_previous else []
    hasher = Argon2PasswordHasher()
    vault = NoVault() if settings.master_key is None else AesGcmVault(settings.master_key)
    return Wiring(
        store=store,
        settings=settings,
        clock=SystemClock(),
        prices=bundled_prices(),
        ic_signer=IcTokenSigner(settings.ic_token_secret),
        access_signer=AccessTokenSigner(settings.jwt_secret, previous),
        sealing=Sealing(vault, IpTokenSealer()),
        hasher=hasher,
        nobodys_hash=hasher.hash(secrets.token_urlsafe()),
        new_refresh_token=new_refresh_token,
    )


def create_app(store: Store, settings: Settings) -> ASGIApp:
    """Return the ASGI app of a control plane.

    Args:
        store: Where everything is kept; the caller closes it after the app has stopped.
        settings: What the operator decided.
    """
    wiring = wire(store, settings)
    metrics = Metrics(lambda: store.queue_depth)
    document = openapi.describe(ROUTES)
    routers = [_router("/api/v1", wiring), _router("/api", wiring)]
    app = Litestar(
        route_handlers=[*routers, *_documents(document), _metrics(wiring, metrics)],
        exception_handlers={HTTPException: on_http_exception, Exception: on_exception},
        lifespan=[partial(_sweeping, store=store, every_s=settings.sweep_s)],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )
    is_production = settings.mode == "production"
    return Edge(app, origins=settings.allowed_origins, is_production=is_production, metrics=metrics)


def _router(base: str, wiring: Wiring) -> Router:
    handlers = [
        HTTPRouteHandler(_typed(route.path), http_method=route.method, media_type=JSON)(endpoint(route.handler, wiring))
        for route in ROUTES
    ]
    return Router(base, route_handlers=handlers)


def _typed(path: str) -> str:
    return path.replace("}", ":str}")


def _documents(document: dict[str, Any]) -> list[HTTPRouteHandler]:
    as_json, as_page = encode(document), openapi.page(document).encode()

    async def machine(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        return ASGIResponse(body=as_json, media_type=JSON)

    async def people(request: Request[Any, Any, Any]) -> ASGIResponse:  # noqa: ARG001 - Litestar passes it by name
        headers = {"Content-Security-Policy": _PAGE_POLICY}
        return ASGIResponse(body=as_page, media_type="text/html", headers=headers)

    return [
        HTTPRouteHandler("/api/openapi.json", http_method="GET")(machine),
        HTTPRouteHandler("/api/docs", http_method="GET")(people),
    ]


def _metrics(wiring: Wiring, metrics: Metrics) -> HTTPRouteHandler:
    handler = partial(system.exposition, metrics=metrics)
    return HTTPRouteHandler("/metrics", http_method="GET")(endpoint(handler, wiring))


@contextlib.asynccontextmanager
async def _sweeping(_: Litestar, store: Store, every_s: float) -> AsyncIterator[None]:
    task = asyncio.create_task(_sweep_for_ever(store, every_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sweep_for_ever(store: Store, every_s: float) -> None:
    """Give expired leases their end, in batches that let reports pass between them; at once at start."""
    while True:
        try:
            while (await store.write_async(partial(sweep, limit=SWEEP_LIMIT))).aged == SWEEP_LIMIT:
                pass
        except IroncageError:
            logger.exception("a sweep failed; the next one tries again")
        await asyncio.sleep(every_s)
