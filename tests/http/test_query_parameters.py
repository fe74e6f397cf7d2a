"""The query parameters that the documentation names are those that the server knows, and no others."""

import re

import pytest

from ironcage_http.app import ROUTES
from ironcage_http.routing import Route
from tests.support.http_agents import Stage

pytestmark = pytest.mark.usefixtures("silence")

NAMES = sorted({name for route in ROUTES for name in route.query})
READS = [
    route for route in ROUTES
    if route.method == "GET" and route.rule.takes_sessions and not route.rule.is_public and route.rule.ic != "only"
]  # fmt: skip


@pytest.mark.parametrize("route", READS, ids=lambda route: route.path)
def test_an_empty_parameter_is_refused_where_it_is_documented_and_ignored_elsewhere(world: Stage, route: Route) -> None:
    """So the document can neither forget a parameter nor invent one."""
    agent = world.agent()
    path = re.sub("{agent_id}", agent.id, route.path)
    path = re.sub("{(project_id|provider)}", "proj_master_001", path)
    known = []

    for name in NAMES:
        found = world.get(f"{path}?{name}=", user="admin")
        if found.status == 400 and name in found.body["details"]["fields"]:
            known.append(name)

    assert known == sorted(route.query)
