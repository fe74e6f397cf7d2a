"""Write the tables of what the feed tells into docs/reference/events.md: `python scripts/events_reference.py`."""

from pathlib import Path

from ironcage_http.asyncapi import events_reference

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "events.md"
MARK = "<!-- made by scripts/events_reference.py -->\n"


def page() -> str:
    """Return the page with fresh tables."""
    return PAGE.read_text().partition(MARK)[0] + MARK + events_reference()


if __name__ == "__main__":
    PAGE.write_text(page())
