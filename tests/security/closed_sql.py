"""Closed SQL: whether a statement is made of what stands in the code alone, as far as the code itself shows.

An expression is closed if it is a literal, a name in capitals, or made of closed ones: an f-string, a sum, a choice, a
join, an item of a closed table. A name is what is assigned to it, a call what the function returns, an argument what
callers give. What is left open is named, for a person to judge: `file: expression`.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef

SINKS: Final[Mapping[str, Sequence[int]]] = {
    "execute": [0], "executemany": [0], "executescript": [0], "query": [0], "select": [0], "rows": [0],
    "known_rows": [0], "unsettled_rows": [0], "preload": [1], "_purge": [0],
}  # fmt: skip
"""The calls that take SQL, of `sqlite3` and of our own, and which of their arguments it is."""

_NUMBERS: Final = ("int", "len", "str")


class Place(NamedTuple):
    """Where an expression stands: in which function, and what its parameters are if that is known."""

    function: Function | None
    given: Mapping[str, tuple[ast.expr, "Place"]]


class Reader:
    """Reads a package; `open_parts` says what in its SQL is not closed.

    Args:
        files: The modules of it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._modules = {file.name: ast.parse(file.read_text()) for file in files}
        self._functions: dict[str, list[Function]] = {}
        for module in self._modules.values():
            for node in ast.walk(module):
                if isinstance(node, Function):
                    self._functions.setdefault(node.name, []).append(node)
        self._seen: set[tuple[int, int]] = set()

    def open_parts(self) -> set[str]:
        """Return every part of a statement that the code does not show to be closed."""
        return {
            f"{file}: {part}"
            for file, module in self._modules.items()
            for call, place in _calls(module, Place(None, {}))
            for part in self._of_call(call, place)
        }

    def statements(self) -> int:
        """Return how many calls take SQL."""
        return sum(
            isinstance(call.func, ast.Attribute) and call.func.attr in SINKS
            for module in self._modules.values()
            for call, _ in _calls(module, Place(None, {}))
        )

    def _of_call(self, call: ast.Call, place: Place) -> Iterator[str]:
        if isinstance(call.func, ast.Attribute) and call.func.attr in SINKS:
            for position in SINKS[call.func.attr]:
                self._seen.clear()
                yield from self._open(call.args[position], place) if len(call.args) > position else ["no argument"]

    def _open(self, part: ast.AST, place: Place) -> Iterator[str]:
        match part:
            case ast.Name(id=name):
                yield from self._open_name(name, place)
            case ast.Call():
                yield from self._open_call(part, place)
            case ast.Attribute():
                yield from () if _is_closed(part) else [ast.unparse(part)]
            case _:
                made_of = _made_of(part)
                yield from [ast.unparse(part)] if made_of is None else self._open_each(made_of, place)

    def _open_each(self, parts: Sequence[ast.AST], place: Place) -> Iterator[str]:
        for part in parts:
            yield from self._open(part, place)

    def _open_name(self, name: str, place: Place) -> Iterator[str]:
        function = place.function
        key = (id(function), hash(name))
        if _is_constant(name) or key in self._seen:
            return
        if name in place.given:
            argument, caller = place.given[name]
            yield from self._open(argument, caller)
            return
        self._seen.add(key)
        values = list(_assigned(name, function)) if function else []
        yield from self._open_each(values, place) if values else self._open_parameter(name, function)
        self._seen.discard(key)

    def _open_parameter(self, name: str, function: Function | None) -> Iterator[str]:
        names = [each.arg for each in function.args.args if each.arg != "self"] if function else []
        if function and name in names and names.index(name) in SINKS.get(function.name, ()):
            return  # each call of it is looked at
        yield name

    def _open_call(self, call: ast.Call, place: Place) -> Iterator[str]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        if name in _NUMBERS:
            return
        if name in {"join", "conjunction"}:
            yield from self._open_each(call.args, place)
        elif name == "map":
            yield from self._open_each([ast.Call(call.args[0], [each], []) for each in call.args[1:]], place)
        elif name in self._functions:
            for function in self._functions[name]:
                yield from self._open_results(function, call, place)
        else:
            yield f"{name}()"

    def _open_results(self, function: Function, call: ast.Call, place: Place) -> Iterator[str]:
        key = (id(function), id(call))
        if key in self._seen:
            return
        self._seen.add(key)
        within = Place(function, _given(function, call, place))
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
        yield from self._open_each(returned, within)
        self._seen.discard(key)


def _is_constant(name: str) -> bool:
    return name.replace("_", "").isupper()


def _is_closed(attribute: ast.Attribute) -> bool:
    """Tell whether an attribute is a constant, one of a constant, or the fields of a row type."""
    root: ast.expr = attribute
    while isinstance(root, ast.Attribute):
        root = root.value
    is_of_constant = isinstance(root, ast.Name) and _is_constant(root.id)
    return attribute.attr == "_fields" or attribute.attr.isupper() or is_of_constant


def _made_of(part: ast.AST) -> Sequence[ast.AST] | None:
    """Return what the text of an expression comes from; None if nothing is known of it."""
    match part:
        case ast.Constant() | ast.BinOp(op=ast.Mult()):
            return []
        case ast.JoinedStr(values=parts) | ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            return parts
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
            return [one, other]
        case ast.Dict(keys=keys, values=values):  # of terms: what they bind is no SQL
            return [value if key is None else key for key, value in zip(keys, values, strict=True)]
        case (
            ast.Subscript(value=one) | ast.FormattedValue(value=one) | ast.Starred(value=one)
            | ast.GeneratorExp(elt=one) | ast.ListComp(elt=one)
        ):  # fmt: skip
            return [one]
    return None


def _calls(node: ast.AST, place: Place) -> Iterator[tuple[ast.Call, Place]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, place
        yield from _calls(child, Place(child, {}) if isinstance(child, Function) else place)


def _assigned(name: str, function: Function) -> Iterator[ast.AST]:
    """Return everything that a name of a function may be."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.NamedExpr(target=target, value=value):
                yield from _matched(name, target, value)
            case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                yield value
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                if any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(target)):
                    yield value


def _matched(name: str, target: ast.expr, value: ast.expr) -> Iterator[ast.AST]:
    match target, value:
        case ast.Name(id=found), _ if found == name:
            yield value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for each, part in zip(targets, values, strict=True):
                yield from _matched(name, each, part)
        case ast.Tuple(elts=targets), _ if any(isinstance(each, ast.Name) and each.id == name for each in targets):
            yield value


def _given(function: Function, call: ast.Call, place: Place) -> dict[str, tuple[ast.expr, Place]]:
    """Return what a call gives for each parameter, its defaults included."""
    every = function.args
    names = [each.arg for each in every.args if each.arg != "self"]
    defaults = dict(zip(reversed(names), reversed(every.defaults), strict=False))
    kept = {each.arg: value for each, value in zip(every.kwonlyargs, every.kw_defaults, strict=True) if value}
    given = dict(zip(names, call.args, strict=False))
    named = {each.arg: each.value for each in call.keywords if each.arg}
    outside = {name: (value, Place(None, {})) for name, value in {**defaults, **kept}.items()}
    return {**outside, **{name: (value, place) for name, value in {**given, **named}.items()}}
