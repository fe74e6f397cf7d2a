"""Make docs/reference/errors.md from the tree of errors, so that the page cannot be wrong."""

import inspect
from pathlib import Path

from ironcage_core.errors import access, faults, identity, money, resources, runtime, usage
from ironcage_core.errors.tree import IroncageError

_LEAVES = (access, faults, identity, money, resources, runtime, usage)
_MODULES = {"ironcage_core.errors.tree", *(module.__name__ for module in _LEAVES)}
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"
HEAD = """# Errors

Everything ironcage raises on purpose is an `IroncageError` of `ironcage_core.errors`, with a `message` for a person, a
stable `code` and `details` for programs (amounts in micro-USD). A `RefusalError` says that nothing was changed. No
message holds a secret.

This page is made by `python scripts/errors_reference.py`.

| error | code | when |
|---|---|---|
"""


def page() -> str:
    """Return the page's text."""
    return HEAD + "".join(_row(error) for error in _tree(IroncageError))


def _tree(error: type[IroncageError]) -> list[type[IroncageError]]:
    children = sorted(
        (child for child in error.__subclasses__() if child.__module__ in _MODULES), key=lambda child: child.__name__
    )
    return [error, *(grandchild for child in children for grandchild in _tree(child))]


def _row(error: type[IroncageError]) -> str:
    depth = len(error.__mro__) - len(IroncageError.__mro__)
    summary = (inspect.getdoc(error) or "").split("\n\n")[0].replace("\n", " ")
    return f"| {'&nbsp;&nbsp;' * depth}`{error.__name__}` | `{error.code}` | {summary} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
