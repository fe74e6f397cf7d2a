"""The secrets file: what a server without any configuration signs and encrypts with, kept beside its database.

It is made once, and changes only when its master key is renewed. A new one is linked to its place, which fails where
another process was faster; a changed one is renamed over the one it replaces.
No error holds what the file says, nor does anything chained to it.

Source: contract identity.md 10, "No configuration".
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ironcage_core.errors.tree import StartupError
from ironcage_http.private_files import NotPrivateError, read_private, write_private
from ironcage_storage.sealed.vault import MasterKey

SUFFIX: Final = ".secrets"

_VERSION: Final = 1
_SECRET_BYTES: Final = 32
_MIN_CHARS: Final = 32


class SecretsFileError(StartupError):
    """The secrets file cannot be made or must not be used; the message names it."""


@dataclass(frozen=True, slots=True)
class StoredSecrets:
    """What a secrets file holds."""

    jwt_secret: str = field(repr=False)
    ic_token_secret: str = field(repr=False)
    master_key: MasterKey
    previous_master_key: MasterKey | None = None
    """During a rotation: it only opens what it sealed."""


def secrets_path(database: Path) -> Path:
    """Return where the secrets of a database lie: beside it, `iron.db.secrets` for `iron.db`."""
    return database.with_name(database.name + SUFFIX)


def secrets_beside(database: Path, *, may_create: bool) -> StoredSecrets | None:
    """Read the secrets file of a database; two processes that make it at once get the same secrets.

    Args:
        database: The database file, which need not exist yet.
        may_create: Make the file where there is none.

    Returns:
        None where there is no file and none may be made.

    Raises:
        SecretsFileError: Unreadable, malformed, open to group or others, or it cannot be made.
    """
    path = secrets_path(database)
    try:
        text = _read(path)
        if text is None and may_create:
            _make(path)
            text = _read(path)
            if text is None:
                raise SecretsFileError(f"The secrets file {path} is a link that leads nowhere: mend it or take it away")
    except OSError as error:
        advice = "make it a file that you may read, in a folder that is there, or put a backup of it back"
        raise SecretsFileError(f"The secrets file {path} cannot be used: {error.strerror}; {advice}") from error
    if text is None:
        return None
    found = _parse(text)
    if found is None:
        raise SecretsFileError(f"The secrets file {path} is damaged: put a backup of it back in its place")
    return found


def renew_master_key(database: Path) -> StoredSecrets:
    """Put a new master key into the secrets file of a database; the old one stays in it, to open what it sealed.

    Raises:
        SecretsFileError: There is no such file, it cannot be used, or it has an old key in it already.
    """
    stored = _existing(database)
    if stored.previous_master_key is not None:
        raise SecretsFileError(
            f"{secrets_path(database)} holds an old master key already: end that rotation first, with"
            " ironcage keys rotate and ironcage keys forget"
        )
    return _replace(database, replace(stored, master_key=MasterKey.generate(), previous_master_key=stored.master_key))


def forget_previous_master_key(database: Path) -> StoredSecrets:
    """Take the old master key out of the secrets file of a database, where there is one.

    Raises:
        SecretsFileError: There is no such file, or it cannot be used.
    """
    return _replace(database, replace(_existing(database), previous_master_key=None))


def _existing(database: Path) -> StoredSecrets:
    stored = secrets_beside(database, may_create=False)
    if stored is None:
        raise SecretsFileError(
            f"There is no secrets file {secrets_path(database)}: a server without a configuration makes one, with one"
            " the key is in its variables"
        )
    return stored


def _replace(database: Path, stored: StoredSecrets) -> StoredSecrets:
    path = secrets_path(database)
    previous = stored.previous_master_key
    try:
        write_private(path, _content(stored.jwt_secret, stored.ic_token_secret, stored.master_key, previous))
    except OSError as error:
        advice = "nothing was changed; look whether its folder may be written to"
        raise SecretsFileError(f"The secrets file {path} cannot be replaced: {error.strerror}; {advice}") from error
    return stored


def _read(path: Path) -> bytes | None:
    try:
        return read_private(path)
    except NotPrivateError as error:
        raise SecretsFileError(f"The secrets file {path} {error}") from None


def _make(path: Path) -> None:
    jwt_secret, ic_token_secret = (secrets.token_urlsafe(_SECRET_BYTES) for _ in range(2))
    write_private(path, _content(jwt_secret, ic_token_secret, MasterKey.generate(), None), _link)


def _link(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return  # another process was faster: its secrets count


def _content(jwt_secret: str, ic_token_secret: str, master_key: MasterKey, previous: MasterKey | None) -> bytes:
    content = {
        "version": _VERSION,
        "jwt_secret": jwt_secret,
        "ic_token_secret": ic_token_secret,
        "master_key": master_key.to_base64(),
    }
    if previous is not None:
        content["previous_master_key"] = previous.to_base64()
    return json.dumps(content, indent=2).encode() + b"\n"


def _parse(text: bytes) -> StoredSecrets | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        return None
    jwt_secret, ic_token_secret = _long(content, "jwt_secret"), _long(content, "ic_token_secret")
    master_key, previous = _key(content, "master_key"), _key(content, "previous_master_key")
    is_odd = previous is None and "previous_master_key" in content
    if jwt_secret is None or ic_token_secret is None or master_key is None or is_odd:
        return None
    return StoredSecrets(jwt_secret, ic_token_secret, master_key, previous)


def _long(content: Mapping[str, object], name: str) -> str | None:
    value = content.get(name)
    return value if isinstance(value, str) and len(value) >= _MIN_CHARS else None


def _key(content: Mapping[str, object], name: str) -> MasterKey | None:
    value = content.get(name)
    try:
        return MasterKey.from_base64(value) if isinstance(value, str) else None
    except StartupError:
        return None
