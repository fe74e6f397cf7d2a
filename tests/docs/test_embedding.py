"""The page about embedding: its programs print what it says, and its fixture carries the tests that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "embed.md").read_text()
PROGRAMS: Final = re.findall(r"```python\n((?!# \w+\.py\n).*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
FILES: Final = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
TESTS: Final = 3


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a reader whose home is a folder."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(  # noqa: S603 - the programs of our own page
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_page_shows_what_is_run_here() -> None:
    """Two programs with their output, a fixture, and tests that use it."""
    assert len(PROGRAMS) == 2
    assert [name for name, _ in FILES] == ["conftest.py", "test_answering.py"]
    assert PAGE.count("```python") == len(PROGRAMS) + len(FILES)


@pytest.mark.parametrize(("program", "expected"), PROGRAMS)
def test_a_program_of_the_page_prints_what_the_page_says(program: str, expected: str, tmp_path: Path) -> None:
    """A reader can copy it."""
    done = run(tmp_path, "-c", program)

    assert (done.stderr, done.stdout) == ("", expected)


def test_the_fixture_of_the_page_carries_the_tests_of_the_page(tmp_path: Path) -> None:
    """In a folder of their own, with nothing of ours around them."""
    for name, content in FILES:
        (tmp_path / name).write_text(content)

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")

    assert done.returncode == 0, done.stdout
    assert f"{TESTS} passed" in done.stdout
