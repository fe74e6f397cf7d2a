"""The wire: JSON in and out, exact to the last micro-USD.

Amounts leave as JSON numbers made from decimals; a float is nowhere on the way. Bodies are read without guessing:
`"1"` is no integer, and what is wrong is told per field. Reading never raises: a caller's standing is judged first,
and only then what he sent (contract identity.md 1), so the outcome waits in a `Read`.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

import msgspec

from ironcage_core.domain.instants import Instant, format_instant
from ironcage_core.domain.money import Micros, is_plain_number, parse_usd, usd
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_http.json_syntax import syntax_fault

S = TypeVar("S", bound=msgspec.Struct)

MAX_STRANGERS: Final = 20
_NO_JSON: Final = "The body is not valid JSON"  # and nothing of the decoder's own text, which may quote it
_FIELD_NAME: Final = re.compile(r"[a-z_]{1,40}")

encode = msgspec.json.Encoder(decimal_format="number").encode


class MalformedJsonError(RefusalError):
    """The body is not JSON, or nests too deep."""

    code = "MALFORMED_JSON"


class UnsupportedMediaTypeError(RefusalError):
    """The body is not declared as JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"


def amount(micros: Micros) -> Decimal:
    """Return micro-USD as the number in USD that goes on the wire."""
    return usd(micros)


def micros(value: Decimal, *, field: str, problems: dict[str, str]) -> Micros:
    """Return an amount of a body in micro-USD; if it cannot be read, -1, which none may be, and `problems` says why."""
    try:
        return parse_usd(value, field=field)
    except ValidationError as error:
        problems.update(error.fields)
        return -1


def moment(instant: Instant | None) -> str | None:
    """Return an instant as RFC 3339 in UTC, or None."""
    return None if instant is None else format_instant(instant)


class Read(Generic[S]):
    """What became of a body: the value, or the refusal to raise when its turn comes.

    Args:
        raw: The body's bytes.
        content_type: The header, or None.
        kind: The struct it must fit.
        may_be_empty: Whether no body means a struct of defaults.
        is_strict: Whether an unknown field is refused instead of ignored.
        coding: How the body is packed, or None; what is packed is refused.
    """

    __slots__ = ("_kind", "_syntax", "fields", "found", "problems")

    def __init__(
        self,
        raw: bytes,
        content_type: str | None,
        kind: type[S],
        *,
        may_be_empty: bool = False,
        is_strict: bool = False,
        coding: str | None = None,
    ) -> None:
        self._kind = kind
        self._syntax: RefusalError | None = None
        self.found: S | None = None
        self.fields: dict[str, msgspec.Raw] = {}
        self.problems: dict[str, str] = {}
        if not raw.strip():
            self._read_nothing(kind, may_be_empty=may_be_empty)
        elif coding and coding.lower() != "identity":
            self._syntax = UnsupportedMediaTypeError("The body must be sent unpacked, without a Content-Encoding")
        elif not _is_json(content_type):
            self._syntax = UnsupportedMediaTypeError("The body must be sent as application/json")
        else:
            self._read(raw, kind, is_strict=is_strict)

    def _read_nothing(self, kind: type[S], *, may_be_empty: bool) -> None:
        if may_be_empty:
            self.found = kind()
        else:
            self._syntax = MalformedJsonError("A JSON body is needed")

    def _read(self, raw: bytes, kind: type[S], *, is_strict: bool) -> None:
        if fault := syntax_fault(raw):
            self._syntax = MalformedJsonError(f"The body {fault}")
            return
        try:
            if not is_strict:
                self.found = decoded(raw, kind)
                return
        except msgspec.ValidationError:
            pass  # the slow path names every bad field
        except (msgspec.DecodeError, RecursionError):
            self._syntax = MalformedJsonError(_NO_JSON)
            return
        self._read_field_by_field(raw, kind, is_strict=is_strict)

    def _read_field_by_field(self, raw: bytes, kind: type[S], *, is_strict: bool) -> None:
        try:
            self.fields = _FIELDS.decode(raw)
        except msgspec.ValidationError:
            self.problems = {"body": "must be a JSON object"}
            return
        except (msgspec.DecodeError, RecursionError):
            self._syntax = MalformedJsonError(_NO_JSON)
            return
        self.problems = _problems_of(self.fields, kind)
        if is_strict:
            known = {field.encode_name for field in _fields_of(kind)}
            self.problems |= _strangers([name for name in self.fields if name not in known])
        if not self.problems:
            try:
                self.found = _decoder(kind).decode(raw)
            except msgspec.ValidationError as error:
                self.problems = {"body": _phrase(error)}

    def check_syntax(self) -> None:
        """Refuse a body that could not be read at all.

        Raises:
            UnsupportedMediaTypeError, MalformedJsonError: It is no JSON.
        """
        if self._syntax is not None:
            raise self._syntax

    def value(self) -> S:
        """Return the body.

        Raises:
            UnsupportedMediaTypeError, MalformedJsonError: It is no JSON.
            ValidationError: It breaks a rule.
        """
        self.check_syntax()
        if self.problems or self.found is None:
            raise ValidationError(self.problems or {"body": "is needed"})
        return self.found

    def parts(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the fields that can be read, and what is wrong with the others, so that all faults are told at once.

        Raises:
            UnsupportedMediaTypeError, MalformedJsonError: It is no JSON.
            ValidationError: It is no object, or has nothing in it and needs something.
        """
        self.check_syntax()
        if self.found is not None or not self.fields:
            return msgspec.structs.asdict(self.value()), {}
        kinds = {field.encode_name: field.type for field in _fields_of(self._kind)}
        fine = [name for name in self.fields if name in kinds and name not in self.problems]
        return {name: _field_decoder(kinds[name]).decode(self.fields[name]) for name in fine}, self.problems


def decoded(raw: bytes | msgspec.Raw, kind: type[S]) -> S:
    """Return what JSON says, judged as a whole.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: It does not fit, or an amount is spelled as no JSON number is.
    """
    found: S = _decoder(kind).decode(raw)
    amounts = _amounts_of(kind)
    if amounts is None or not amounts.may_be_quoted(bytes(raw)):
        return found
    if any(_is_odd(each) for each in msgspec.structs.astuple(amounts.texts.decode(raw))):
        raise msgspec.ValidationError
    return found


_EXPECTED: Final = re.compile(r"Expected `([^`]+)`, got `(\w+)")
_KINDS: Final = {
    "int": "an integer",
    "float": "a number",
    "decimal": "a number or a numeric string in USD",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a JSON object",
}
_TEXT: Final = msgspec.json.Decoder(str | None)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_AMOUNT: Final = msgspec.Raw(b"null")


@lru_cache
def _fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


@lru_cache
def _decoder(kind: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(kind)


@lru_cache
def _field_decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any annotation of a struct
    return msgspec.json.Decoder(kind)


class _Amounts(NamedTuple):
    """The amounts of a kind of body: what reads them as they are spelled, and what finds one that is quoted."""

    texts: msgspec.json.Decoder[msgspec.Struct]
    quoted: re.Pattern[bytes]

    def may_be_quoted(self, raw: bytes) -> bool:
        """Tell whether an amount may be a text; with an escape in the body, its name may be spelled otherwise."""
        return b"\\" in raw or self.quoted.search(raw) is not None


@lru_cache
def _amounts_of(kind: type[msgspec.Struct]) -> _Amounts | None:
    """Return what looks at the amounts of a body as they are spelled, for msgspec is lenient; None if it has none."""
    names = [field.encode_name for field in _fields_of(kind) if _is_amount(field.type)]
    if not names:
        return None
    fields = [(name, msgspec.Raw, msgspec.field(default=_NO_AMOUNT)) for name in names]
    quoted = re.compile("|".join(rf'"{re.escape(name)}"\s*:\s*"' for name in names).encode())
    return _Amounts(msgspec.json.Decoder(msgspec.defstruct("Amounts", fields)), quoted)


def _is_amount(kind: Any) -> bool:  # noqa: ANN401 - any annotation of a struct
    return kind is Decimal or Decimal in get_args(kind)


def _is_odd(raw: msgspec.Raw) -> bool:
    text = text_of(raw) if b'"' in bytes(raw) else None
    return isinstance(text, str) and not is_plain_number(text)


def _problems_of(fields: dict[str, msgspec.Raw], kind: type[msgspec.Struct]) -> dict[str, str]:
    problems = {}
    for field in _fields_of(kind):
        raw = fields.get(field.encode_name)
        if raw is None:
            if field.required:
                problems[field.encode_name] = "is required"
            continue
        try:
            _field_decoder(field.type).decode(raw)
        except msgspec.ValidationError as error:
            is_absent = field.required and bytes(raw).strip() == b"null"
            problems[field.encode_name] = "is required" if is_absent else _phrase(error)
        else:
            if _is_amount(field.type) and _is_odd(raw):
                problems[field.encode_name] = "must be a number in USD"
    return problems


def text_of(raw: msgspec.Raw) -> object:
    """Return the value of a field that is a text or null; for any other, a thing that is neither."""
    try:
        return _TEXT.decode(raw)
    except msgspec.DecodeError:  # also a number that is beyond all numbers
        return msgspec.UNSET


def _strangers(names: Sequence[str]) -> dict[str, str]:
    """Return what to say of unknown fields: a few, and by name only if it looks like one, for it may be a secret."""
    shown = [name for name in names if _FIELD_NAME.fullmatch(name)][:MAX_STRANGERS]
    if names and not shown:
        return {"body": "has a field that it must not have"}
    return dict.fromkeys(shown, "is not a field of this body")


def _phrase(error: msgspec.ValidationError) -> str:
    """Return msgspec's complaint as a clause for a person; it names types and paths, never the value."""
    text, _, path = str(error).removesuffix("`").partition(" - at `$")
    if (found := _EXPECTED.match(text)) is None:
        return (text[:1].lower() + text[1:]).partition(" '")[0]  # which would be the value
    kinds = [_KINDS.get(kind, kind) for kind in found[1].split(" | ") if kind != "null"]
    clause = "may not be null" if found[2] == "null" else f"must be {' or '.join(kinds)}"
    return f"{path.removeprefix('.')} {clause}".lstrip()


def _is_json(content_type: str | None) -> bool:
    if content_type is None:
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
