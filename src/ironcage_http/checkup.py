"""A checkup: what an operator asks about an installation first, each answer with what to do about it.

Every check stands for itself: one that fails is a finding, and the others go on. Nothing is changed, not even made.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ironcage_core.errors.faults import DatabaseNewerError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.master_key import SecretsHealth, check_secrets
from ironcage_http import variables as v
from ironcage_http.environment import Environment
from ironcage_http.secrets_file import SecretsFileError, secrets_beside, secrets_path
from ironcage_http.settings import SettingsError, read_settings
from ironcage_http.settings_secrets import MasterKeys, master_keys
from ironcage_storage.sqlite.files import beside
from ironcage_storage.sqlite.inspection import Inspection, opened_by
from ironcage_storage.sqlite.shape import Deviation

State = Literal["ok", "note", "trouble"]

SHOWN: Final = 20
"""Complaints of one kind that are told one by one."""

LARGE_LOG: Final = 256 * 2**20
LITTLE_SPACE: Final = 64 * 2**20
"""Less is soon gone: a log alone grows to a quarter of it before it is emptied."""


class Finding(NamedTuple):
    """One line of the answer: what was looked at, how it is, and what to do unless all is well."""

    what: str
    state: State
    found: str
    advice: str = ""


def versions() -> Iterator[Finding]:
    """Tell which program this is."""
    yield Finding("ironcage", "ok", f"version {version('ironcage')}")
    yield Finding("sqlite", "ok", f"version {sqlite3.sqlite_version}")


# --- the file ----------------------------------------------------------------


def schema(look: Inspection, database: Path) -> Iterator[Finding]:
    """Tell whether the schema is that of this program."""
    try:
        standing = look.standing()
    except DatabaseNewerError:
        yield Finding("schema", "trouble", "written by a newer version of ironcage", "upgrade this program")
        return
    if not standing.missing:
        yield Finding("schema", "ok", f"the newest, {len(standing.applied)} migrations")
        yield from map(_deviating, look.deviations())
        return
    names = ", ".join(step.name for step in standing.missing)
    advice = f"ironcage backup {database} TARGET, then ironcage migrate {database}; a server does it when it starts"
    yield Finding("schema", "note", f"{len(standing.missing)} migrations are missing: {names}", advice)


def _deviating(part: Deviation) -> Finding:
    name = f"the {part.kind} {part.name}"
    if part.how == "strange" and part.kind != "trigger":
        return Finding("schema", "note", f"{name} is none of ironcage", "drop it, unless you know what it is for")
    found = f"{name} is none of ironcage" if part.how == "strange" else f"{name} is {part.how}"
    advice = (
        "somebody has changed the schema, and with it what guards the books: run ironcage verify, keep a copy, and"
        " restore a backup from before with ironcage restore"
    )
    return Finding("schema", "trouble", found, advice)


def pages(complaints: Sequence[str]) -> Iterator[Finding]:
    """Tell what SQLite complains of."""
    if not complaints:
        yield Finding("file", "ok", "every page, index and reference is sound")
    advice = "keep a copy, and restore a backup with ironcage restore; ironcage verify tells whether the sums hold"
    for complaint in complaints[:SHOWN]:
        yield Finding("file", "trouble", complaint, advice)
    if len(complaints) > SHOWN:
        yield Finding("file", "trouble", f"and {len(complaints) - SHOWN} more complaints", advice)


def modes(database: Path) -> Iterator[Finding]:
    """Tell who else may read or write the database."""
    mode = stat.S_IMODE(database.stat().st_mode)
    is_written = mode & (stat.S_IWGRP | stat.S_IWOTH)
    what = "change" if is_written else "read"
    if mode & 0o077:
        state: State = "trouble" if mode & stat.S_IWOTH else "note"
        found = f"others on this machine may {what} it (mode {mode:o})"
        yield Finding("database mode", state, found, f"chmod 600 {database}")
    else:
        yield Finding("database mode", "ok", f"only its owner may read it (mode {mode:o})")
    for place in (database, database.resolve().parent):  # SQLite needs the folder for its log
        if not os.access(place, os.W_OK):
            yield Finding("database mode", "note", f"{place} may only be read by who asks", "a server has to write it")


def space(database: Path) -> Iterator[Finding]:
    """Tell how large the database and its log are, and what room there is beside them."""
    size, log = _size(database), _size(beside(database, "-wal"))
    free = shutil.disk_usage(database.resolve().parent).free
    found = f"{_shown(free)} free, for a database of {_shown(size)} and a log of {_shown(log)}"
    if free < LITTLE_SPACE:
        advice = "make room now: without it every write is refused with 503"
        yield Finding("disk", "trouble", found, advice)
    elif free < size + log:
        yield Finding("disk", "note", found, "make room: a copy of the database, as a backup is, has none beside it")
    else:
        yield Finding("disk", "ok", found)
    if log > LARGE_LOG:
        advice = "a reader that never ends keeps it from being emptied: restart what has the database open"
        yield Finding("log", "note", f"{_shown(log)} are not in the database file yet", advice)
    else:
        yield Finding("log", "ok", _shown(log) if log else "none")


def holders(database: Path) -> Iterator[Finding]:
    """Tell whether somebody works on the database now."""
    holder = opened_by(database)
    if holder is None:
        yield Finding("in use", "ok", "no other process has it open")
    else:
        who = f"process {holder}" if holder else "a process that is not visible from here"
        yield Finding("in use", "ok", f"{who} has it open")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


# --- secrets -----------------------------------------------------------------


def secrets_file(database: Path) -> Iterator[Finding]:
    """Tell whether the secrets file can be used, if there is one."""
    path = secrets_path(database)
    try:
        stored = secrets_beside(database, may_create=False)
    except SecretsFileError as error:
        advice = "no server starts like this, and what it encrypted needs its key"
        yield Finding("secrets file", "trouble", error.message, advice)
        return
    if stored is None:
        yield Finding("secrets file", "ok", f"there is none ({path})")
        return
    yield Finding("secrets file", "ok", f"{path}, for its owner alone")
    if stored.previous_master_key is not None:
        advice = "ironcage keys rotate, then ironcage keys forget"
        yield Finding("rotation", "note", "the secrets file still holds an old master key", advice)


def known_keys(database: Path, environ: Mapping[str, str]) -> MasterKeys:
    """Return the master keys that can be had; what is wrong with the others is told elsewhere."""
    env = Environment(environ, [v.MASTER_KEY, v.MASTER_KEY_PREVIOUS])
    try:
        stored = secrets_beside(database, may_create=False)
    except SecretsFileError:
        stored = None
    return master_keys(env, stored)


def health_of(look: Inspection, known: MasterKeys) -> SecretsHealth:
    """Try to open every secret."""
    return look.read(partial(check_secrets, vault=known.vault()))


def secrets(health: SecretsHealth, known: MasterKeys) -> Iterator[Finding]:
    """Tell which secrets do not open, and what each master key has made."""
    count = len(health.unreadable)
    found = f"{health.total} provider keys, of which {count} do not decrypt"
    advice = (
        f"give the master key that made them as {v.MASTER_KEY_PREVIOUS.name} (as {v.MASTER_KEY.name} if it is the only"
        " one); if it is lost, enter those API keys anew with ironcage providers rotate"
    )
    yield Finding("secrets", "trouble" if count else "ok", found, advice if count else "")
    for key_id in health.unreadable[:SHOWN]:
        yield Finding("secret", "trouble", f"{key_id} does not decrypt", "see above")
    if count > SHOWN:
        yield Finding("secret", "trouble", f"and {count - SHOWN} more do not decrypt", "see above")
    if known.current is None:
        needed = f"set {v.MASTER_KEY.name}; a server without a configuration makes a secrets file with one instead"
        yield Finding("master key", "note", "none is known", needed)
    for made_by, kind in kinds_of(health, known).items():
        name = "damaged beyond a key id" if made_by is None else f"{made_by} ({kind})"
        made = health.by_key.get(made_by, 0)
        is_odd = kind == "unknown"
        yield Finding(
            "master key", "note" if is_odd else "ok", f"{name}: {made} secrets", "see secrets" if is_odd else ""
        )


def kinds_of(health: SecretsHealth, known: MasterKeys) -> dict[str | None, str]:
    """Return every master key that is known or has made a secret, and what it is: current, old or unknown."""
    kinds: dict[str | None, str] = {key.key_id: "old" for key in known.previous}
    if known.current is not None:
        kinds[known.current.key_id] = "current"
    return kinds | {made_by: "unknown" for made_by in health.by_key if made_by not in kinds}


# --- settings ----------------------------------------------------------------


def settings(environ: Mapping[str, str], database: Path) -> Iterator[Finding]:
    """Tell what a server that started in this environment would say of it, if it says anything to a server."""
    env = Environment(environ, ())
    if not any(env.has(each.name) for each in v.VARIABLES):
        yield Finding("settings", "ok", "no variable of a server is set here")
        return
    advice = "set it right; docs/reference/settings.md has every rule"
    try:
        read = read_settings(environ, may_create=False)
    except SettingsError as error:
        for problem in error.problems:
            yield Finding("settings", "trouble", problem, advice)
        return
    for warning in read.warnings:
        yield Finding("settings", "note", warning, advice)
    place = read.database
    is_other = not isinstance(place, Path) or place.resolve() != database.resolve()
    if is_other and env.has(v.DATABASE.name):
        found = f"a server started here would serve {place}"
        yield Finding("settings", "note", found, f"set {v.DATABASE.name} to the database that is meant")
    elif not read.warnings:
        yield Finding("settings", "ok", "a server would start with them")


# --- all of it ---------------------------------------------------------------


def tolerant(what: str, check: Callable[[], Iterator[Finding]], advice: str) -> list[Finding]:
    """Return the findings of a check; its own failure is one.

    Args:
        what: What it looks at.
        check: Does it.
        advice: What to do if it fails.
    """
    try:
        return list(check())
    except IroncageError as error:
        return [Finding(what, "trouble", told(error), advice)]
    except OSError as error:
        return [Finding(what, "trouble", os.strerror(error.errno or 0), advice)]


def told(error: IroncageError) -> str:
    """Return what an error says, with what SQLite said of it."""
    return f"{error.message} ({error.__cause__})" if isinstance(error.__cause__, sqlite3.Error) else error.message
