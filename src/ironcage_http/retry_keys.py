"""Retry keys over the wire: the header `Idempotency-Key` and what it binds. Source: contract budget.md 3."""

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Final

from ironcage_core.domain.access import Principal
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.errors.tree import ValidationError
from ironcage_http.calls import Call

REPLAYED: Final = {"Idempotent-Replayed": "true"}
"""The header of an answer that was given before."""

_HEADER: Final = "idempotency-key"
_FORM: Final = re.compile(r"[!-~]{1,200}")
# Rounds nothing and refuses nothing: what is too large for it counts as infinite.
_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def retry_key(call: Call, caller: AgentIdentity | Principal) -> RetryKey | None:
    """Return the key that a request names, bound to who calls, to method and path, and to the body without a token.

    Args:
        call: The request; its body was read and is an object, or empty.
        caller: Who calls; retries of somebody else are other requests.

    Raises:
        ValidationError: Not 1 to 200 visible ASCII characters.
    """
    key = call.headers.get(_HEADER)
    if key is None:
        return None
    if not _FORM.fullmatch(key):
        raise ValidationError({"Idempotency-Key": "must have 1 to 200 visible ASCII characters without blanks"})
    who = caller.agent_id if isinstance(caller, AgentIdentity) else caller.user_id
    path = call.request.url.path.removeprefix("/api").removeprefix("/v1").rstrip("/")
    return RetryKey(f"{who} {call.gate.route.method} {path}", key, _hash(call.raw))


def _hash(raw: bytes) -> str:
    """Return a hash of what a body says, however it is written; fields that the route does not know are part of it.

    Members that are null count as left out, numbers of the same value are one, a string of digits stays a string.
    """
    body = json.loads(raw, object_hook=_members, parse_float=_number, parse_int=_number) if raw.strip() else {}
    body.pop("ic_token", None)
    return hashlib.sha256(ascii(body).encode()).hexdigest()


def _members(found: Mapping[str, object]) -> dict[str, object]:
    return {name: found[name] for name in sorted(found) if found[name] is not None}


def _number(text: str) -> Decimal:
    value = _EXACT.create_decimal(text)
    return _EXACT.normalize(value) if value else Decimal(0)
