"""Which layer of the server time was spent in, by the stacks of a profile."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LAYERS: Final[Sequence[tuple[str, str]]] = (
    ("garbage collection", r"^(gc_collect|_?PyGC_)"),
    ("locks and queues", r"/(threading|queue)\.py|/concurrent/futures/|ironcage_storage/sqlite/queue\.py"),
    ("tokens, sealing", r"ironcage_storage/sealed/|site-packages/(jwt|cryptography|argon2)/|/(hmac|hashlib)\.py"),
    ("logs, metrics", r"ironcage_http/(logs|metrics)\.py|site-packages/(structlog|prometheus_client)/|/logging/"),
    ("HTTP parsing, socket", r"ironcage_http/protocols\.py|site-packages/(uvicorn|httptools)/|/selector_events\.py"),
    ("event loop", r"/asyncio/|/selectors\.py"),
    ("framework", r"site-packages/(litestar|msgspec)/"),
    ("our HTTP layer", r"/ironcage_http/"),
    ("services", r"/ironcage_core/(services|runtime)/"),
    ("domain", r"/ironcage_core/"),
    ("storage, SQL", r"/ironcage_storage/|sqlite3"),
)
"""Each layer's functions as py-spy names them; the first that fits."""

OTHER: Final = "everything else"

_FOLDERS: Final = re.compile(r"\(/.*/(?:site-packages|src|lib/python[\d.]+)/")
_ADDRESS: Final = re.compile(r"^0x[0-9a-f]+")
_PATTERNS: Final = tuple((layer, re.compile(pattern)) for layer, pattern in LAYERS)


def layer_of(stack: Sequence[str]) -> str:
    """Return the layer of a stack, outermost frame first: that of the innermost frame which belongs to one.

    So what no layer owns, be it a helper of the standard library or C code, counts for the layer that called it.
    """
    for function in reversed(stack):
        for layer, pattern in _PATTERNS:
            if pattern.search(function):
                return layer
    return OTHER


class Profile:
    """Own time by layer and function.

    Args:
        stacks: In how many samples each stack was seen; frames are outermost first.
    """

    def __init__(self, stacks: Counter[tuple[str, ...]]) -> None:
        self.samples = stacks.total()
        self._layers: dict[str, Counter[str]] = {}
        for stack, count in stacks.items():
            self._layers.setdefault(layer_of(stack), Counter())[_name_of(stack[-1])] += count

    def layers(self) -> set[str]:
        """Return the layers that were seen."""
        return set(self._layers)

    def share(self, layer: str, function: str | None = None) -> float:
        """Return the share of a layer, or of one function in it, of all samples."""
        found = self._layers.get(layer, Counter())
        return (found.total() if function is None else found[function]) / max(1, self.samples)

    def hottest(self, layer: str, count: int) -> list[str]:
        """Return the functions of a layer that took the most."""
        return [function for function, _ in self._layers.get(layer, Counter()).most_common(count)]


def _name_of(function: str) -> str:
    """Return a function as it is shown: the same in each run, whatever its address is and wherever its file lies."""
    return _ADDRESS.sub("?", _FOLDERS.sub("(", function))


def read_profile(path: Path) -> Profile:
    """Read folded stacks: in each line frames from the outermost on, between semicolons, and a count."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] += int(count)
    return Profile(stacks)
