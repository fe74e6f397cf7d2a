"""The threat model's checklist: what it names to show a defence is there, and tests."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
CHECKLIST = PAGE.partition("<!-- checklist -->")[2]
NAMED = [name.partition("::") for name in re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", CHECKLIST)]
ROWS = [line for line in CHECKLIST.splitlines() if line.startswith("| ") and not line.startswith("| threat ")]


def names_in(file: Path) -> set[str]:
    """Return the names of the tests of a file."""
    nodes = ast.parse(file.read_text()).body
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_test_of_the_checklist_is_there() -> None:
    """By its file and its name."""
    missing = [
        f"{file}::{test}"
        for file, _, test in NAMED
        if not (ROOT / file).is_file() or (test and test not in names_in(ROOT / file))
    ]

    assert missing == []
    assert len(NAMED) > 40


def test_every_line_of_the_checklist_names_a_test() -> None:
    """A defence that nothing shows is no line of it."""
    assert [row for row in ROWS if len(row.split(" | ")) != 3 or "`tests/" not in row.split(" | ")[2]] == []


def test_every_test_of_security_is_in_the_checklist() -> None:
    """So it is as long as what is tested."""
    files = {f"tests/security/{file.name}" for file in (ROOT / "tests" / "security").glob("test_*.py")}

    assert files - {file for file, _, _ in NAMED} == set()
