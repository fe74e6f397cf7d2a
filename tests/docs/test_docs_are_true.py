"""The documentation says what is: its program runs, its links lead somewhere, its error table is the code's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ironcage_core.domain.ledger import EFFECTS
from scripts.errors_reference import PAGE, page

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_s_program_prints_what_the_readme_says(tmp_path: Path) -> None:
    """A newcomer can copy it."""
    text = (ROOT / "README.md").read_text()
    story = text.partition("## A lease in Python")[2]
    program, expected = re.findall(r"```(?:python|text)\n(.*?)```", story, re.DOTALL)

    done = subprocess.run(  # noqa: S603 - the program of our own README
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.stderr, done.stdout) == ("", expected)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path: Path) -> None:
    """Relative links only name what is there."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())

    missing = [link for link in links if not (path.parent / link).exists()]

    assert missing == []


def test_every_page_is_reachable_from_the_readme() -> None:
    """No page is forgotten."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        path = todo.pop().resolve()
        if path in seen or path.suffix != ".md":
            continue
        seen.add(path)
        todo += [path.parent / link for link in re.findall(r"\]\(([^)#:]+)", path.read_text())]

    assert {path.resolve() for path in PAGES} - seen == set()


def test_the_error_table_is_that_of_the_code() -> None:
    """Made by a script; this says when it must run again."""
    assert PAGE.read_text() == page()


def test_the_ledger_s_page_names_every_kind() -> None:
    """One row per kind of entry."""
    text = (ROOT / "docs" / "reference" / "ledger.md").read_text()

    assert [kind for kind in EFFECTS if f"| `{kind}` " not in text] == []


def test_every_make_target_of_the_readme_exists() -> None:
    """What the README tells to run can be run."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text())) <= targets
