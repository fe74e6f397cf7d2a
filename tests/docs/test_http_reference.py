"""The one list of routes, statuses and codes."""

import json

from ironcage_http import openapi
from ironcage_http.app import ROUTES
from scripts import command_reference, events_reference, http_reference, permissions_reference


def test_the_page_lists_what_the_app_serves() -> None:
    """Run scripts/http_reference.py after a change of the routes."""
    assert http_reference.PAGE.read_text() == http_reference.page()


def test_the_page_of_permissions_is_the_table_that_judges() -> None:
    """Run scripts/permissions_reference.py after a change of the table or the routes."""
    assert permissions_reference.PAGE.read_text() == permissions_reference.page()


def test_the_page_of_events_is_the_catalogue_that_tells() -> None:
    """Run scripts/events_reference.py after a change of the catalogue or the messages."""
    assert events_reference.PAGE.read_text() == events_reference.page()


def test_openapi_lists_the_same_statuses_and_codes() -> None:
    """Both are made from the routes, and say the same."""
    paths = openapi.describe(ROUTES)["paths"]

    for route in ROUTES:
        responses = paths[f"{openapi.BASE}{route.path}"][route.method.lower()]["responses"]
        told = {
            (code, int(status))
            for status, response in responses.items()
            if int(status) >= 400
            for code in response["description"].split(", ")
        }
        assert told == set(openapi.codes_of(route).items())


def test_openapi_names_every_media_type_of_an_answer() -> None:
    """An export may come as CSV, and nothing else comes as anything but JSON."""
    paths = openapi.describe(ROUTES)["paths"]

    other = {
        (path, media_type)
        for path, methods in paths.items()
        for operation in methods.values()
        for response in operation["responses"].values()
        for media_type in response.get("content", ())
        if media_type != "application/json"
    }

    assert other == {(f"{openapi.BASE}/analytics/export/{what}", "text/csv") for what in ("usage", "spending")}


def test_the_page_of_the_command_line_is_what_the_commands_take() -> None:
    """Run scripts/command_reference.py after a change of a command."""
    assert command_reference.PAGE.read_text() == command_reference.page()


def test_amounts_are_numbers_in_answers_and_may_be_texts_in_bodies() -> None:
    """As they are on the wire, not as the library that writes the schemas would write them."""
    document = openapi.describe(ROUTES)
    schemas = document["components"]["schemas"]

    budget = schemas["AgentBody"]["properties"]["budget"]
    assert [each["type"] for each in budget["anyOf"]] == ["number", "string"]
    assert schemas["AgentView"]["properties"]["budget"] == {"type": "number"}
    assert '"decimal"' not in json.dumps(document)
