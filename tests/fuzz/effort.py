"""How hard the fuzz tests try: a little in every run of the suite, always the same way; a hundred times that in theirs.

The long run is `make fuzz`, which takes other ways each time.
"""

from typing import Final

from hypothesis import settings

LONG: Final = "fuzz"
FACTOR: Final = 100


def examples(bounded: int) -> settings:
    """Return the effort of a test.

    Args:
        bounded: How many examples it tries where the suite runs.
    """
    if settings.get_current_profile_name() == LONG:
        return settings(max_examples=bounded * FACTOR)
    return settings(max_examples=bounded, derandomize=True)
