"""What no schema can say of a request: refusals of what fits the description, by what they say, and why."""

import re
from typing import Final, NamedTuple


class Beyond(NamedTuple):
    """What a schema cannot say: refusals of what fits it, by what they say, and why."""

    says: str
    reason: str


BEYOND: Final = (
    Beyond(r"may not stand beside|must be before|must not be after|may not name another", "about two parameters"),
    Beyond(
        r"exactly one of|must leave at least one cap|must equal|follow from|are parts of"
        r"|is needed(:| for a completed call)|(timestamp_ms|lease_id|at): is (required|for one agent)|beside providers",
        "about several fields",
    ),
    Beyond(r"may have at most 6 decimals", "binary fractions have no exact multiples"),
    Beyond(r"reaches to row", "about the product of two parameters"),
    Beyond(r"must be a (live user|project)", "about what is there"),
    Beyond(r"in the future|a time after 1970|from the year 2000|Unix seconds or", "about the time it is"),
    Beyond(r"an absolute https URL", "schemas have no word for such a URL"),
    Beyond(r"must have one @|may not contain @|may not be \. or \.\.", "patterns of it would be wrong or unreadable"),
    Beyond(r"not only whitespace|may not be all whitespace", "likewise"),
    Beyond(r"at most 20 entries|only the server sets", "about tags, which count without repetition"),
    Beyond(r"at most \$|to \$", "the operator sets the limit"),
    Beyond(r"must have 20 to 500 characters", "the blanks around it are not counted"),
    Beyond(r"printable characters only", "schemas have no word for them"),
    Beyond(r"has several active leases|is before the agent was made", "about what is there"),
    Beyond(r"cannot be changed|may not change", "about what it was"),
    Beyond(r"be the username|must differ from the current", "about another field"),
)

IGNORED: Final = {"GET /api-tokens": "user_id"}
"""What a route does not look at where the caller sees nobody else's things, so that it may be anything."""


def is_beyond_schemas(told: str) -> bool:
    """Tell whether what is said of a field, after its name, is what no schema could have announced."""
    return any(re.search(each.says, told) for each in BEYOND)
