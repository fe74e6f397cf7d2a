"""Serving: the life of the server process, from its settings to a clean stop."""

import asyncio
import gc
import logging
import signal
import socket
from functools import partial

from rich.console import Console

from ironcage_core.domain.users import User, password_problem
from ironcage_core.errors.tree import StartupError
from ironcage_core.ports.secrecy import PasswordHasher
from ironcage_core.ports.storage import Store
from ironcage_core.services.accounts import first_admin
from ironcage_http.server import ApiServer
from ironcage_http.settings import Settings
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.store import SqliteStore

logger = logging.getLogger(__name__)


def serve(settings: Settings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is under way and close the database.

    Raises:
        StartupError: The database or the first admin cannot be used.
    """
    for warning in settings.warnings:
        logger.warning("%s", warning)
    check_address(settings.host, settings.port)  # before a password is made up that nobody would see again
    with SqliteStore(settings.database) as store:
        server = ApiServer(store, settings.port, host=settings.host, settings=settings)
        password = new_password()
        if make_first_admin(store, settings, Argon2PasswordHasher(), generated=password):
            first = f"first login: username admin, password {password} (to be changed at once)"
            console.print(first, markup=False)
        console.print(f"ironcage answers at {server.url} (description: {server.url}/api/docs)")
        leave_to_stay()
        asyncio.run(_until_signalled(server))


def leave_to_stay() -> None:
    """Keep what is there by now, and will be to the end, out of every later look of the garbage collector."""
    gc.collect()
    gc.freeze()


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        StartupError: It is in use, or not of this machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise StartupError(f"SERVER_HOST, SERVER_PORT: cannot listen on {host}:{port} ({error.strerror})") from error


async def _until_signalled(server: ApiServer) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


def make_first_admin(store: Store, settings: Settings, hasher: PasswordHasher, *, generated: str) -> bool:
    """Add the first admin where there was never any user; tell whether he got the generated password.

    Raises:
        StartupError: The admin of the settings breaks a rule.
    """
    if not store.read(lambda uow: uow.users.is_empty()):
        return False
    if settings.admin is not None:
        named = settings.admin
        problem = password_problem(
            named.password, username=named.username, email=named.email, shortest=settings.password_min_length
        )
        if problem:
            raise StartupError(f"IRON_ADMIN_PASSWORD {problem}")
        _add(store, hasher, named.email, named.username, named.password, force_change=False)
        return False
    if settings.mode == "production":
        logger.warning("there is no user: set IRON_ADMIN_EMAIL and IRON_ADMIN_PASSWORD to make the first admin")
        return False
    return _add(store, hasher, "admin@localhost", "admin", generated, force_change=True) is not None


def _add(
    store: Store, hasher: PasswordHasher, email: str, username: str, password: str, *, force_change: bool
) -> User | None:
    password_hash = hasher.hash(password)
    return store.write(
        partial(first_admin, email=email, username=username, password_hash=password_hash, force_change=force_change)
    )
