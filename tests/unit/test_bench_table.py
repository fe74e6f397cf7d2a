"""The table of the benches: what is held against what, and what a part that fails does to the rest."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import pytest
from rich.console import Console

from benchmarks import all as bench
from benchmarks.layers import OTHER, Profile, layer_of, read_profile
from benchmarks.setup import Effort
from benchmarks.table import Asked, Group, Line, Measured, failed, least, markdown, most, number, rows_of, show

ROUNDS = ({"report": 50.0, "echo": 100.0}, {"report": 90.0, "echo": 300.0}, {"report": 60.0, "echo": 100.0})


def measure_little(effort: Effort) -> Measured:
    """Stand for a part that works and misses what was asked."""
    return Measured(
        "of nothing", rows_of([Line("report", "report", asked=least(1_000, "here"))], ROUNDS[: effort.rounds])
    )


def measure_nothing(effort: Effort) -> Measured:
    """Stand for a part that fails."""
    raise RuntimeError(f"no {effort} | disk\n[left]")


Written = dict[str, list[dict[str, Any]]]


class Run(Protocol):
    """Runs parts with options of the command line."""

    def __call__(self, *options: str, parts: Sequence[bench.Part] = ...) -> tuple[int, Written]:
        """Return the exit code and the rows that were written, by part."""


WORKS = bench.Part("works", "What works", measure_little)
FAILS = bench.Part("fails", "What fails", measure_nothing)


def test_a_ratio_is_taken_within_a_round() -> None:
    """The median of the rounds' ratios, which is not the ratio of the medians."""
    (row,) = rows_of([Line("report", "report", yardstick="echo")], ROUNDS)

    assert (row.value, row.yardstick, row.ratio, list(row.rounds)) == (60, 100, 0.5, [50, 90, 60])
    (uneven,) = rows_of([Line("report", "report", yardstick="echo")], [*ROUNDS, {"report": 1.0, "echo": 100.0}])
    assert uneven.ratio == pytest.approx(0.4)


def test_a_round_without_a_figure_is_left_out_of_its_row() -> None:
    """What is measured once stands beside what is measured in each round."""
    memory, report = rows_of([Line("m", "memory", "MB"), Line("r", "report")], [*ROUNDS, {"memory": 7.0}])

    assert (memory.value, list(memory.rounds)) == (7, [7])
    assert len(report.rounds) == 3


@pytest.mark.parametrize(
    ("asked", "is_met"),
    [
        (least(0.5, "here"), True),
        (least(0.51, "here"), False),
        (most(0.5, "here"), True),
        (most(0.49, "here"), False),
        (least(60, "here"), False),
        (None, None),
    ],
)
def test_what_is_asked_is_asked_of_the_ratio_where_there_is_a_yardstick(asked: Asked, *, is_met: bool | None) -> None:
    """The bound itself is enough, and the value does not count."""
    (row,) = rows_of([Line("report", "report", yardstick="echo", asked=asked)], ROUNDS)

    assert row.met is is_met


@pytest.mark.parametrize(("asked", "is_met"), [(least(60, "here"), True), (most(59, "here"), False)])
def test_what_is_asked_is_asked_of_the_value_where_there_is_no_yardstick(asked: Asked, *, is_met: bool) -> None:
    """The median of the rounds is judged."""
    (row,) = rows_of([Line("report", "report", asked=asked)], ROUNDS)

    assert row.met is is_met


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.4567, "0.457"), (99.94, "99.9"), (100, "100"), (8_812.6, "8,813"), (-0.5, "-0.5")],
)
def test_numbers_are_as_long_as_they_need_to_be(value: float | None, shown: str) -> None:
    """Three digits that count, or all before the point."""
    assert number(value) == shown


def test_the_table_says_what_is_asked_and_whether_it_is_met() -> None:
    """Grouped by part, on a terminal and as Markdown."""
    rows = rows_of([Line("  report [p50]", "report", "/s", "echo", least(0.55, "here"))], ROUNDS)
    groups = [Group("http", "Over HTTP", 1, rows), Group("lists", "Lists", 1, [failed(OSError("no | disk"))])]
    printed = StringIO()

    show(groups, Console(file=printed, width=120), "[said] below")

    for text in ("Over HTTP", "report [p50]", ">= 0.55", "not measured: OSError: no | disk", "failed", "[said]"):
        assert text in printed.getvalue()
    assert markdown(groups, "the caption").splitlines() == [
        "| figure | value | unit | yardstick | ratio | asked | met? |",
        "| --- | ---: | --- | ---: | ---: | ---: | --- |",
        "| **Over HTTP** |  |  |  |  |  |  |",
        "| &nbsp;&nbsp;report [p50] | 60 | /s | 100 | 0.5 | >= 0.55 | no |",
        "| **Lists** |  |  |  |  |  |  |",
        "| not measured: OSError: no \\| disk |  |  |  |  |  | failed |",
        "",
        "the caption",
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run parts in this process as from the command line; give the exit code and the rows that were written."""
    monkeypatch.setattr(bench, "apart", lambda measure, effort: measure(effort))

    def run_parts(*options: str, parts: Sequence[bench.Part] = (FAILS, WORKS)) -> tuple[int, Written]:
        written = tmp_path / "made" / "bench.json"
        monkeypatch.setattr(sys, "argv", ["all", f"--json={written}", f"--markdown={tmp_path / 'bench.md'}", *options])
        code = bench.main(parts)
        return code, {part["part"]: part["rows"] for part in json.loads(written.read_text())["parts"]}

    return run_parts


def test_a_part_that_fails_is_a_row_and_the_others_still_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, the row says why, and so does stderr while it runs."""
    code, written = run()

    assert code == 1
    (row,) = written["fails"]
    assert (row["failure"], row["met"]) == ("RuntimeError: no normal | disk [left]", False)
    assert [(row["value"], row["met"], row["asked"]["source"]) for row in written["works"]] == [(60, False, "here")]
    shown = capsys.readouterr()
    assert "[1/2] fails: FAILED" in shown.err
    assert "[2/2] works: 1 rows" in shown.err
    assert "What works: of nothing" in shown.out
    assert "0 of 1 as asked. Failed: fails." in " ".join(shown.out.split())


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_what_is_not_as_asked_makes_the_exit_code_1_only_if_strict(run: Run, options: Sequence[str], code: int) -> None:
    """The machine may be slow or busy; a part that could not be measured is another matter."""
    assert run(*options, parts=(WORKS,))[0] == code


def test_only_the_parts_that_are_named_are_measured(run: Run) -> None:
    """A part that fails is not even tried, and a quick run has one round."""
    code, written = run("--only", "works", "--quick")

    assert code == 0
    assert [row["rounds"] for row in written.pop("works")] == [[50]]
    assert not written


def test_a_part_can_be_measured_from_the_command_line(tmp_path: Path) -> None:
    """The real thing, in processes of its own."""
    written, table = tmp_path / "bench.json", tmp_path / "bench.md"
    command = [sys.executable, "-m", "benchmarks.all", "--quick", "--only", "runtime"]
    command += ["--json", str(written), "--markdown", str(table)]

    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own module

    (part,) = json.loads(written.read_text())["parts"]
    assert all(row["value"] > 0 for row in part["rows"])
    assert "reserve and commit" in done.stdout
    assert "| reserve and commit | " in table.read_text()


def test_each_part_of_the_benches_has_a_name_of_its_own() -> None:
    """Which `--only` takes."""
    assert max(Counter(part.name for part in bench.PARTS).values()) == 1


HTTP, SQL = "answer (/x/src/ironcage_http/edge.py)", "flush (/x/src/ironcage_storage/sqlite/rows.py)"


@pytest.mark.parametrize(
    ("stack", "layer"),
    [
        ((HTTP, SQL), "storage, SQL"),
        ((SQL, HTTP), "our HTTP layer"),
        ((HTTP, SQL, "fdatasync (/usr/lib/libc.so.6)"), "storage, SQL"),
        ((HTTP, "gc_collect_main (libpython3.11.so)", "tupletraverse (libpython3.11.so)"), "garbage collection"),
        ((HTTP, "wait (/usr/lib/python3.11/threading.py)"), "locks and queues"),
        ((HTTP, "write (/usr/lib/python3.11/asyncio/selector_events.py)"), "HTTP parsing, socket"),
        ((HTTP, "_run (/usr/lib/python3.11/asyncio/events.py)"), "event loop"),
        ((HTTP, "report (/x/src/ironcage_core/services/reporting.py)"), "services"),
        ((HTTP, "usd (/x/src/ironcage_core/domain/money.py)"), "domain"),
        (("main (run.py)",), OTHER),
    ],
)
def test_time_belongs_to_the_innermost_layer(stack: tuple[str, ...], layer: str) -> None:
    """What no layer owns counts for the layer that called it."""
    assert layer_of(stack) == layer


def test_a_profile_is_own_time(tmp_path: Path) -> None:
    """Each sample counts for its innermost function alone, and shares are of all samples."""
    folded = tmp_path / "stacks.raw"
    folded.write_text(f"{HTTP} 1\n{HTTP};{SQL} 2\n{SQL} 1\n")

    profile = read_profile(folded)

    assert profile.samples == 4
    assert profile.layers() == {"our HTTP layer", "storage, SQL"}
    assert (profile.share("storage, SQL"), profile.share("our HTTP layer"), profile.share("domain")) == (0.75, 0.25, 0)
    assert profile.hottest("storage, SQL", 5) == ["flush (ironcage_storage/sqlite/rows.py)"]
    assert profile.share("storage, SQL", "flush (ironcage_storage/sqlite/rows.py)") == 0.75
    assert Profile(Counter()).share("domain") == 0


def test_a_function_without_a_name_is_called_the_same_in_each_run(tmp_path: Path) -> None:
    """Its address is another one in each process."""
    folded = tmp_path / "stacks.raw"
    folded.write_text(f"{SQL};0x7f23deea3f16 (/lib/libc.so.6) 1\n{SQL};0x7f23deea4193 (/lib/libc.so.6) 1\n")

    assert read_profile(folded).hottest("storage, SQL", 5) == ["? (/lib/libc.so.6)"]
