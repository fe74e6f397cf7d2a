"""Write the table of routes, statuses and codes into docs/reference/http.md: `python scripts/http_reference.py`."""

from pathlib import Path

from ironcage_http.app import ROUTES
from ironcage_http.openapi import codes_reference

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "http.md"
MARK = "<!-- made by scripts/http_reference.py -->\n"


def page() -> str:
    """Return the page with a fresh table."""
    return PAGE.read_text().partition(MARK)[0] + MARK + codes_reference(ROUTES)


if __name__ == "__main__":
    PAGE.write_text(page())
