"""The table of faults says what the scenarios say, of a run in which nothing was left out."""

import re

from tests.faults.scenarios import all_scenarios
from tests.faults.table import PAGE, RECOVER, counts_of, rewritten, row, rows_of, without_counts


def test_the_table_has_a_row_for_every_scenario_and_no_other() -> None:
    """In their order; what differs is counts alone."""
    rows = rows_of(PAGE.read_text())

    assert [without_counts(each) for each in rows] == [
        without_counts(row(each.story)) for each in all_scenarios().values()
    ]
    assert all(min(counts_of(each)) > 0 for each in rows)
    assert counts_of(rows[0])[1] >= 50, "the long form kills a server fifty times"


def test_every_row_leads_to_a_section_that_says_what_to_do() -> None:
    """Each link has its heading."""
    sections = dict(part.partition("\n")[::2] for part in RECOVER.read_text().split("\n## ")[1:])
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-"): text for title, text in sections.items()}

    for each in all_scenarios().values():
        assert "**Do**" in anchors[each.story.recover], each.story.name


def test_a_new_run_changes_the_rows_and_nothing_else() -> None:
    """What stands around the marks stays; rows of the same outcomes are the same."""
    page = PAGE.read_text()
    outcomes = [each.story for each in all_scenarios().values()]

    changed = rewritten(page, outcomes)

    assert rows_of(changed) == [row(each) for each in outcomes]
    assert rewritten(changed, outcomes) == changed
    assert changed.replace("\n".join(rows_of(changed)), "") == page.replace("\n".join(rows_of(page)), "")
