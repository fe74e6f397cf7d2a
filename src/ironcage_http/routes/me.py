"""The caller's own account: to look at, and the one thing that everybody may change of it."""

from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.errors.tree import NoFieldsError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.users import any_user, rename
from ironcage_http.calls import Call
from ironcage_http.routes.user_views import AccountView, Seen, account_answer
from ironcage_http.routing import Route


class MeBody(msgspec.Struct, frozen=True):
    """What to change; a name of null is none."""

    name: str | msgspec.UnsetType | None = msgspec.UNSET


async def get_me(call: Call) -> ASGIResponse:
    """Show the caller's own account."""
    who = call.user()
    return account_answer(await call.glance(lambda uow: (any_user(uow, who(uow).user_id), uow.now)))


async def change_me(call: Call) -> ASGIResponse:
    """Change the caller's own account."""
    who = call.user()
    body = call.read(MeBody, is_strict=True)

    def run(uow: UnitOfWork) -> Seen:
        principal = who(uow)
        name = body.value().name
        if isinstance(name, msgspec.UnsetType):
            raise NoFieldsError("At least one field is needed")
        return rename(uow, name, principal=principal), uow.now

    return account_answer(await call.write(run))


ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/users/me", get_me, "Show the caller's own account", answer=AccountView, action="users.me"),
    Route(
        "PATCH", "/users/me", change_me, "Change the caller's own name", body=MeBody, answer=AccountView,
        action="users.change_me", codes=("NO_FIELDS_PROVIDED",), example={"name": "Ann"},
    ),
)  # fmt: skip
