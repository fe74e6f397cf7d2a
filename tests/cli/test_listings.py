"""Lists and records as commands: what of a route they offer, how pages are put together, and what a name stands for."""

import json
import re
from collections.abc import Iterator
from functools import partial

import click
import pytest

from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agents import create_agent
from ironcage_http.app import ROUTES
from ironcage_http.cli import main
from ironcage_http.commands.listings import Reading
from ironcage_http.routing import PAGED
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.support.desk import Desk
from tests.support.world import ADMIN, SIGNING_SECRET, USD

_PART = re.compile(r"{\w+}")
_ROUTES = {_PART.sub("{}", route.path): route for route in ROUTES if route.method == "GET"}
_SIGNER = IcTokenSigner(SIGNING_SECRET)
HIDING = "evil\N{RIGHT-TO-LEFT OVERRIDE}[red]x[/red]"


def _readings(group: click.Group, *names: str) -> Iterator[tuple[str, Reading]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _readings(command, *names, name)
        elif isinstance(command, Reading):
            yield " ".join((*names, name)), command


READINGS = dict(_readings(main))


@pytest.mark.parametrize("name", sorted(READINGS))
def test_a_command_offers_every_parameter_of_its_route_and_no_other(name: str) -> None:
    """Pages come by themselves where the route has them, and an order if there is more than one."""
    command = READINGS[name]
    route = _ROUTES[_PART.sub("{}", command.path)]

    assert set(command.filters) == set(route.query) - set(PAGED)
    assert command.is_list == ("page" in route.query)
    assert "sort" in route.query or not command.is_sorted
    taken = {str(each.name) for each in command.params if isinstance(each, click.Option)}
    assert {*command.filters, *(("page", "per_page") if command.is_list else ())} <= taken
    assert {"--json", "--url"} <= {each for param in command.params for each in param.opts}


def test_the_commands_that_list_are_found() -> None:
    """A walk that found nothing would hold nothing."""
    assert {"agents list", "providers list", "projects list", "tokens list", "agents status"} <= set(READINGS)
    assert set(PAGED) == {"page", "per_page", "sort"}


def _agents(desk: Desk, *names: str) -> list[str]:
    ann = desk.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann is not None
    return [desk.store.write(partial(_add, name=name, owner_id=ann.id)) for name in names]


def _add(uow: UnitOfWork, *, name: str, owner_id: str) -> str:
    return create_agent(
        uow, name=name, budget=USD, owner_id=owner_id, provider_key_ids=[], actor=ADMIN, signer=_SIGNER
    ).agent.id


def test_all_is_every_page(admin_desk: Desk) -> None:
    """More than one request can bring; each record once, in the order asked for."""
    names = [f"agent {number:03}" for number in range(203)]
    _agents(admin_desk, *names)

    told = admin_desk.ask("agents", "list", "--all", "--sort", "name")
    shown = admin_desk.run("agents", "list", "--all")

    assert [each["name"] for each in told["data"]] == names
    assert told["pagination"] == {"page": 1, "per_page": 203, "total": 203, "total_pages": 1}
    assert (shown.out.count("agent_"), "in all" in shown.out) == (203, False)


def test_a_page_says_of_how_many_it_is_one(admin_desk: Desk) -> None:
    """To a person; a program has it in the document."""
    _agents(admin_desk, *"abcde")

    shown = admin_desk.run("agents", "list", "--per-page", "2", "--page", "2", "--sort", "-name")
    told = admin_desk.ask("agents", "list", "--per-page", "2", "--page", "3", "--sort", "name")
    whole = admin_desk.run("agents", "list")

    assert ("page 2 of 3, 5 in all" in shown.words, shown.out.count("agent_"), "│ c │" in shown.words) == (
        True,
        2,
        True,
    )
    assert ([each["name"] for each in told["data"]], told["pagination"]["total"]) == (["e"], 5)
    assert "in all" not in whole.out


def test_an_empty_list_is_its_headings(admin_desk: Desk) -> None:
    """And an empty document."""
    shown = admin_desk.run("agents", "list")

    assert (shown.code, "┃ id ┃ name ┃" in shown.words) == (0, True)
    assert admin_desk.ask("agents", "list")["data"] == []


def test_what_the_route_refuses_is_named(admin_desk: Desk) -> None:
    """A status that there is not, an order that there is not."""
    shown = admin_desk.run("agents", "list", "--status", "asleep", "--sort", "color")

    assert (shown.code, "status: " in shown.err, "sort: " in shown.err) == (4, True, True)
    assert admin_desk.run("agents", "list", "--per-page", "101").code == 2


def test_no_name_hides_or_colours_anything(admin_desk: Desk) -> None:
    """Markup is text, and what does not print is something that does."""
    _agents(admin_desk, HIDING)
    plain = "evil\N{REPLACEMENT CHARACTER}[red]x[/red]"

    for command in (("list",), ("show", HIDING)):
        shown = admin_desk.run("agents", *command)
        assert (shown.code, plain in shown.out, HIDING in shown.out) == (0, True, False)

    assert admin_desk.ask("agents", "show", HIDING)["name"] == HIDING
    assert plain in admin_desk.run("agents", "stop", HIDING).out
    assert HIDING not in admin_desk.run("projects", "show", HIDING).err


def test_a_name_stands_for_the_one_thing_of_exactly_that_name(admin_desk: Desk) -> None:
    """Not for what has it in its name, and not in other letters."""
    _, wanted, _, odd = _agents(admin_desk, "worker 1", "worker", "Worker", "100%_a/b?c=d")

    assert admin_desk.ask("agents", "show", "worker")["id"] == wanted
    assert admin_desk.ask("agents", "show", "100%_a/b?c=d")["id"] == odd
    assert admin_desk.run("agents", "show", "work").code == 4
    assert admin_desk.run("agents", "show", "").err == "Error: There is no agent \n"


def test_a_name_that_more_than_one_has_is_wrong_usage(admin_desk: Desk) -> None:
    """Their ids are told, to choose from; each is found by its own."""
    ids = _agents(admin_desk, "worker", "worker")

    shown = admin_desk.run("agents", "delete", "worker", "--yes")
    told = admin_desk.run("agents", "show", "worker", "--json")

    assert (shown.code, all(each in shown.err for each in ids)) == (2, True)
    assert (json.loads(told.err)["code"], sorted(json.loads(told.err)["details"]["ids"])) == ("AMBIGUOUS_NAME", ids)
    assert [admin_desk.ask("agents", "show", each)["id"] for each in ids] == ids


def test_a_name_is_found_behind_the_first_page_of_those_like_it(admin_desk: Desk) -> None:
    """However many have it in theirs."""
    wanted, *_ = _agents(admin_desk, "a", *(f"a{number}" for number in range(120)))

    assert admin_desk.ask("agents", "show", "a")["id"] == wanted


def test_a_name_may_look_like_the_id_of_something_else(admin_desk: Desk) -> None:
    """An agent's id is an agent's, whatever other agents are named."""
    like_project, like_user = "proj_" + "0" * 32, "user_" + "a" * 32
    first, second = _agents(admin_desk, like_project, like_user)
    (named_as_first,) = _agents(admin_desk, first)

    assert admin_desk.ask("agents", "show", like_project)["id"] == first
    assert admin_desk.ask("agents", "show", like_user)["id"] == second
    assert admin_desk.ask("agents", "show", first)["id"] == first
    assert admin_desk.ask("agents", "show", named_as_first)["name"] == first
    assert admin_desk.run("projects", "show", first).code == 4


def test_a_filter_finds_what_it_names(admin_desk: Desk) -> None:
    """By name under either spelling; what is not there is told before anything is listed."""
    _agents(admin_desk, "worker")

    for option in ("--owner", "--owner-id"):
        assert len(admin_desk.ask("agents", "list", option, "ann")["data"]) == 1
    unknown = admin_desk.run("agents", "list", "--owner", "an", "--json")
    assert (unknown.code, json.loads(unknown.err)["code"]) == (4, "USER_NOT_FOUND")
    assert "There is no project x" in admin_desk.run("agents", "list", "--project", "x").err
