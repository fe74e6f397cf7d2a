"""Serving: the life of the server process, from its settings to a clean stop."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from rich.console import Console

from ironcage_core.domain.users import User, password_problem
from ironcage_core.errors.tree import RefusalError, StartupError
from ironcage_core.ports.secrecy import PasswordHasher
from ironcage_core.ports.storage import Store
from ironcage_core.services.accounts import first_admin
from ironcage_http import logs
from ironcage_http.app import wire
from ironcage_http.demo_plans import ROLES, beginning
from ironcage_http.demo_world import SettableClock, make_demo_world
from ironcage_http.routes.system import NO_COMMIT
from ironcage_http.server import ApiServer
from ironcage_http.settings import Settings
from ironcage_storage.sealed.passwords import Argon2PasswordHasher, new_password
from ironcage_storage.sqlite.removal import remove_database
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock

logger = logging.getLogger(__name__)

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
_KILLED: Final = 128
"""What a shell adds to the number of the signal that ended a process."""


class Greeting(NamedTuple):
    """What somebody needs who wants to use the server, each password shown this once."""

    url: str
    docs: str
    first_login: Mapping[str, str] | None
    demo_logins: Sequence[Mapping[str, str]]


def serve(settings: Settings, console: Console, greet: Callable[[Greeting], None] = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is under way and close the database. A second one ends at once.

    Args:
        settings: What the operator decided.
        console: Where a person is told how to use it.
        greet: Is told the same once it answers.

    Raises:
        StartupError: The database or the first admin cannot be used.
    """
    logs.configure(settings.log_level, settings.log_format)
    for warning in settings.warnings:
        logger.warning("%s", warning)
    check_address(settings.host, settings.port)  # before a password is made up that nobody would see again
    if settings.reset_database:
        reset_database(settings.database)
    clock = SettableClock(SystemClock())
    with SqliteStore(settings.database, clock=clock) as store:
        server = ApiServer(store, settings.port, host=settings.host, settings=settings)
        greeting = Greeting(server.url, f"{server.url}/api/docs", *_people(store, clock, settings, console))
        console.print(f"ironcage answers at {greeting.url} (description: {greeting.docs})")
        leave_to_stay()
        asyncio.run(_until_signalled(server, settings, partial(greet, greeting)))
    logger.info("stopped")


def _people(
    store: Store, clock: SettableClock, settings: Settings, console: Console
) -> tuple[Mapping[str, str] | None, Sequence[Mapping[str, str]]]:
    """Make those who are there from the start, where they are not, and print and return how to log in as each."""
    password = new_password()
    first = None
    if settings.demo_seed:
        clock.instant = beginning(clock.now())  # the first admin is there before the demo world, which has a past
    if make_first_admin(store, settings, Argon2PasswordHasher(), generated=password):
        console.print(f"first login: username admin, password {password} (to be changed at once)", markup=False)
        first = {"username": "admin", "password": password}
    clock.instant = None
    return first, _demo_world(store, clock, settings, console) if settings.demo_seed else ()


def _demo_world(
    store: Store, clock: SettableClock, settings: Settings, console: Console
) -> Sequence[Mapping[str, str]]:
    try:
        logins = make_demo_world(wire(store, settings), clock, [new_password() for _ in ROLES])
    except RefusalError as error:
        logger.warning("ENABLE_DEMO_SEED: no demo world was made: %s", error.message)
        return ()
    for login in logins:
        console.print(
            f"demo login: username {login.username} ({login.role}), password {login.password} (to be changed at once)",
            markup=False,
        )
    return [{"username": each.username, "role": each.role, "password": each.password} for each in logins]


def reset_database(database: Path | str) -> None:
    """Remove the database, so that the start finds none; the secrets beside it stay.

    Raises:
        DatabaseDamagedError: The file is damaged, or it is somebody else's.
        UnavailableError: Another program has it open.
        StorageError: It cannot be removed.
    """
    if isinstance(database, Path) and remove_database(database):
        logger.warning("IRON_DEV_RESET_DB: the database %s was removed with all that was in it", database)


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


async def _until_signalled(server: ApiServer, settings: Settings, greet: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        for each in _STOPPING:
            loop.remove_signal_handler(each)
            signal.signal(each, _end_at_once)  # to the very end, which is after that of the loop
        logger.info("stopping", extra={"signal": number.name})
        server.stop()

    for number in _STOPPING:
        loop.add_signal_handler(number, stop, number)
    await server.serve(partial(_tell_start, server.url, settings, greet))


def _end_at_once(number: int, _: FrameType | None) -> None:
    logger.warning("ended at once by a second signal", extra={"signal": signal.Signals(number).name})
    os._exit(_KILLED + number)  # whatever was acknowledged is on disk


def _tell_start(url: str, settings: Settings, greet: Callable[[], None]) -> None:
    greet()
    facts = {
        "url": url,
        "version": version("ironcage"),
        "commit": settings.build_commit or NO_COMMIT,
        "mode": settings.mode,
        "database": str(settings.database),
        "pid": os.getpid(),
    }
    logger.info("started", extra=facts)


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
