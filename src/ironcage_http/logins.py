"""The stored login of the command line: one file that only its owner may read, for one control plane.

A refresh token works once, so of two commands that run at once only one may use it: whoever renews a session holds the
lock of the file, and looks first whether somebody else has just done it.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from ironcage_http.answers import NoAnswerError
from ironcage_http.private_files import NotPrivateError, read_private, write_private

FILE: Final = "login.json"
_VERSION: Final = 1


class LoginFileError(Exception):
    """The stored login cannot be read or written; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who somebody is to a control plane.

    Args:
        url: Where it is, down to the base path of the interface.
        username: As whom; None for an API token, which does not say.
        access_token: What is shown with each request, or the API token.
        refresh_token: What renews a session; None for an API token.
    """

    url: str
    username: str | None
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)


def login_of(url: str, username: str | None, session: Any) -> Login:  # noqa: ANN401 - JSON
    """Return the login that a server has answered with.

    Args:
        url: Where it is.
        username: As whom.
        session: What it answered.

    Raises:
        NoAnswerError: Its tokens are not there.
    """
    try:
        tokens = {name: session[name] for name in ("access_token", "refresh_token")}
        return msgspec.convert({"url": url, "username": username, **tokens}, Login)
    except (LookupError, TypeError, msgspec.ValidationError):  # some other service took it for a request of its own
        raise NoAnswerError("answered, and not as ironcage does") from None


class LoginFile:
    """Where the login is stored.

    Args:
        folder: Of the command line's own; made, for its owner alone, when something is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def load(self) -> Login | None:
        """Return the stored login; None where there is none.

        Raises:
            LoginFileError: It cannot be used.
        """
        try:
            self._check_folder()
            text = read_private(self.path)
        except NotPrivateError as error:
            raise LoginFileError(f"The login file {self.path} {error}") from None
        except OSError as error:
            raise LoginFileError(f"The login file {self.path} cannot be read: {error.strerror}") from error
        if text is None:
            return None
        login = _parse(text)
        if login is None:
            raise LoginFileError(f"The login file {self.path} is damaged: run ironcage login again")
        return login

    def save(self, login: Login) -> None:
        """Store a login in the place of whatever was there.

        Raises:
            LoginFileError: It cannot be written; what was there still is.
        """
        try:
            self._make_folder()
            write_private(self.path, msgspec.json.encode((_VERSION, login)))
        except OSError as error:
            raise LoginFileError(f"The login file {self.path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Forget the login.

        Raises:
            LoginFileError: It cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise LoginFileError(f"The login file {self.path} cannot be removed: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from renewing the login meanwhile.

        Raises:
            LoginFileError: There can be no lock.
        """
        lock = self.path.with_suffix(".lock")
        try:
            self._make_folder()
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LoginFileError(f"The lock {lock} cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_folder(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_folder()

    def _check_folder(self) -> None:
        """Refuse a folder in which others could put a login of theirs in the place of yours.

        Raises:
            LoginFileError: It is one.
            OSError: It cannot be looked at.
        """
        folder = self.path.parent
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            return
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise LoginFileError(f"Others may write into the folder {folder}: run chmod go-w on it")


def _parse(text: bytes) -> Login | None:
    try:
        version, login = msgspec.json.decode(text, type=tuple[int, Login])
    except (ValueError, RecursionError):  # also bytes that are no text
        return None
    return login if version == _VERSION else None
