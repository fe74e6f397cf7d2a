"""Write the table of actions into docs/reference/permissions.md: `python scripts/permissions_reference.py`."""

from pathlib import Path

from ironcage_core.domain.permissions import ROLE_PERMISSIONS, RULES, Rule
from ironcage_http.app import ROUTES

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "permissions.md"
MARK = "<!-- made by scripts/permissions_reference.py -->\n"


def page() -> str:
    """Return the page with fresh tables."""
    return PAGE.read_text().partition(MARK)[0] + MARK + _actions() + "\n" + _roles()


def _actions() -> str:
    lines = [
        "| action | scope | admin | user | viewer | API token | bound to an agent | IC token | routes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for action, rule in RULES.items():
        routes = [f"`{route.method} {route.path}`" for route in ROUTES if route.action == action]
        if routes:
            lines.append(f"| {action} | {_cells(rule)} | {', '.join(routes)} |")
    return "\n".join(lines) + "\n"


def _cells(rule: Rule) -> str:
    if rule.is_public:
        return " | ".join(["-", *["anybody"] * 6])
    users = [{"none": "-"}.get(reach, reach) for reach in (rule.admin, rule.user, rule.viewer)]
    bound = "own agent" if rule.takes_agent_tokens else "-"
    tokens = [
        _yes(rule.takes_tokens and rule.ic != "only") if rule.takes_sessions else "only",
        bound,
        "-" if rule.ic == "no" else "own agent",
    ]
    return " | ".join([f"`{rule.permission}`" if rule.permission else "-", *users, *tokens])


def _yes(fact: bool) -> str:
    return "yes" if fact else "-"


def _roles() -> str:
    lines = ["| role | permissions |", "|---|---|"]
    lines += [f"| {role} | {', '.join(f'`{each}`' for each in known)} |" for role, known in ROLE_PERMISSIONS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
