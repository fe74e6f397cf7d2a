"""Everything an error could tell, for tests that look for secrets in it."""


def everything_said_by(error: BaseException | None) -> str:
    """Return all that an error and whatever is chained to it would show, arguments and attributes included."""
    said: list[str] = []
    todo = [error]
    while todo:
        each = todo.pop()
        if each is not None:
            said.append(f"{each} {each!r} {each.args!r} {vars(each)!r}")
            todo += [each.__cause__, each.__context__]
    return "\n".join(said)
