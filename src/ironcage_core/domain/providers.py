"""Provider keys: the secrets ironcage exists to protect, and how little of them may be shown."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypedDict
from urllib.parse import urlsplit

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.tree import ValidationError

KNOWN_PROVIDERS: Final = ("openai", "anthropic")
"""Source: contract resources.md 2.3."""

_MASK_FROM: Final = 16
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME: Final = 50
_LONGEST_DESCRIPTION: Final = 500
_MOST_MODELS: Final = 100
_LONGEST_MODEL: Final = 100
_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]{1,500}")


class ProviderKey(NamedTuple):
    """One stored provider key; a column each, in order. `ciphertext` opens only with the master key and this id."""

    id: str
    name: str
    provider: str
    base_url: str | None
    ciphertext: str
    masked_key: str
    is_enabled: int
    created_by: str
    created_at: Instant
    updated_at: Instant
    last_used_at: Instant | None
    description: str | None = None
    models: str = "[]"  # a JSON list of texts; empty means any


class ProviderKeyFields(TypedDict, total=False):
    """What an admin decides about a provider key; what is absent is not spoken of, None is no value."""

    provider: str
    api_key: str | None
    name: str | None
    base_url: str | None
    description: str | None
    models: Sequence[str] | None
    is_enabled: bool | None


def key_problems(fields: ProviderKeyFields, *, allows_http: bool) -> dict[str, str]:
    """Return what is wrong with the given fields, by name; nothing of an API key is told.

    Args:
        fields: Those that are spoken of.
        allows_http: Whether a base URL of this machine may do without TLS.

    Source: contract resources.md 2.3.
    """
    problems: dict[str, str] = {}
    checks: dict[str, Callable[[Any], object]] = {
        "provider": check_provider,
        "api_key": check_api_key,
        "name": check_key_name,
        "base_url": partial(check_base_url, allows_http=allows_http),
        "description": check_description,
        "models": check_models,
        "is_enabled": _check_flag,
    }
    for name, value in fields.items():
        try:
            checks[name](value)
        except ValidationError as error:
            problems.update(error.fields)
    return problems


def columns_of(fields: ProviderKeyFields) -> dict[str, Any]:
    """Return the columns of checked fields, but for the API key, which needs sealing."""
    readings: dict[str, Callable[[Any], object]] = {
        "base_url": lambda url: url or None,
        "description": lambda text: text or None,
        "models": lambda models: json.dumps(check_models(models), ensure_ascii=False),
        "is_enabled": int,
    }
    told = {name: value for name, value in fields.items() if name != "api_key"}
    return {name: readings[name](value) if name in readings else value for name, value in told.items()}


def check_provider(provider: object) -> str:
    """Return the kind of provider.

    Raises:
        ValidationError: None that is known.
    """
    if not isinstance(provider, str) or provider not in KNOWN_PROVIDERS:
        raise ValidationError({"provider": f"must be one of {', '.join(KNOWN_PROVIDERS)}"})
    return provider


def check_description(description: str | None) -> str | None:
    """Return the description, or None for none.

    Raises:
        ValidationError: Over 500 characters, or not a text for people.
    """
    problem = text_problem(description, longest=_LONGEST_DESCRIPTION) if description else None
    if problem:
        raise ValidationError({"description": problem})
    return description or None


def check_models(models: object) -> list[str]:
    """Return the models that a key is for, each once in their order.

    Raises:
        ValidationError: No list, more than 100, or one that has not 1 to 100 characters; each bad one is named.
    """
    if not isinstance(models, Sequence) or isinstance(models, str) or len(models) > _MOST_MODELS:
        raise ValidationError({"models": f"must be a list of at most {_MOST_MODELS}"})
    found = {f"models[{index}]": text_problem(model, longest=_LONGEST_MODEL) for index, model in enumerate(models)}
    if problems := {name: problem for name, problem in found.items() if problem}:
        raise ValidationError(problems)
    return [*dict.fromkeys(models)]


def _check_flag(is_enabled: object) -> None:
    if not isinstance(is_enabled, bool):
        raise ValidationError({"is_enabled": "must be true or false"})


def check_base_url(base_url: str | None, *, allows_http: bool = True) -> str | None:
    """Return the URL at which a provider is reached, or None for its usual place.

    Args:
        base_url: Anything.
        allows_http: Whether one of this machine may do without TLS.

    Raises:
        ValidationError: Not an absolute https URL (http for localhost) of at most 500 characters without user
            information and fragment.
    """
    if not base_url:
        return None
    problem = text_problem(base_url, longest=500)
    if problem is None:
        try:
            url = urlsplit(base_url)
            is_local = url.hostname in {"localhost", "127.0.0.1", "::1"}
            fits = (
                bool(url.hostname)
                and url.port != 0
                and (url.scheme == "https" or (url.scheme == "http" and is_local and allows_http))
            )
        except ValueError:
            fits = False
        else:
            fits = fits and base_url.isascii() and "@" not in url.netloc and not set(base_url) & set(" \\#")
        problem = None if fits else "must be an absolute https URL without user information and fragment"
    if problem:
        raise ValidationError({"base_url": problem})
    return base_url


def check_key_name(name: object) -> str:
    """Return the name of a provider key.

    Raises:
        ValidationError: Not 1 to 50 lower-case letters and digits, in parts joined by single hyphens.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _SLUG.fullmatch(name):
        raise ValidationError({"name": "must be 1 to 50 lower-case letters and digits, joined by single hyphens"})
    return name


def mask(api_key: str) -> str:
    """Return what may be shown of a key: nothing of a short one, else the first 4 and last 3 characters."""
    return "***" if len(api_key) < _MASK_FROM else f"{api_key[:4]}...{api_key[-3:]}"


def check_api_key(api_key: object) -> str:
    """Return the key without surrounding blanks.

    Raises:
        ValidationError: Empty, over 500 characters, or not printable ASCII without spaces; the key is not echoed.
    """
    trimmed = api_key.strip() if isinstance(api_key, str) else ""
    if not _HEADER_SAFE.fullmatch(trimmed):
        raise ValidationError({"api_key": "must be 1 to 500 printable ASCII characters without spaces"})
    return trimmed
