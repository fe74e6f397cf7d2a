"""The page of metrics is the registry, and what is alerted on is there."""

import re
from pathlib import Path

from scripts import metrics_reference

HOW_TO = Path(__file__).parent.parent.parent / "docs" / "how-to" / "watch-the-server.md"


def test_the_page_lists_what_is_measured() -> None:
    """Run scripts/metrics_reference.py after a change of the metrics."""
    assert metrics_reference.PAGE.read_text() == metrics_reference.page()


def test_every_metric_of_the_guide_exists() -> None:
    """An alert on a name that is not there never fires."""
    rows = re.findall(r"^\| `(\w+)`", metrics_reference.page(), re.MULTILINE)
    known = {name + suffix for name in rows for suffix in ("", "_bucket", "_sum", "_count")}

    named = set(re.findall(r"\b(?:ironcage|process|analytics)_[a-z_]+\b", HOW_TO.read_text()))
    named = {name for name in named if not name.startswith("ironcage_http")}

    assert named - known == set()
    assert len(named) > 8
