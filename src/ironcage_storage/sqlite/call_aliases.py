"""Other names of calls: by event, by UUID, and by request where its own name was taken."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ironcage_core.domain.call_events import uuid_in
from ironcage_core.ports.usage import AliasKind
from ironcage_storage.sqlite.rows import Table
from ironcage_storage.sqlite.session import Session

NAMES_AT_ONCE: Final = 250
"""Parameters of one statement; a few different lengths keep the statement cache small."""


class _Alias(NamedTuple):
    """One other name of a call; a column each, in order."""

    agent_id: str
    kind: AliasKind
    alias: str
    call_key: str


class CallAliases:
    """The table of aliases, as a part of `Usage`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[_Alias] = Table(
            session, "call_aliases", _Alias, ("agent_id", "kind", "alias"), remembers=0, is_often_empty=True
        )

    def expect(self, agent_id: str, kind: AliasKind, names: Sequence[str]) -> list[str]:
        """Fetch these aliases together; return the keys of the calls that they stand for."""
        for start in range(0, len(names), NAMES_AT_ONCE):
            some = names[start : start + NAMES_AT_ONCE]
            where = f"agent_id = ? AND kind = ? AND alias IN ({', '.join('?' * len(some))})"
            self._table.preload([(agent_id, kind, name) for name in some], where, (agent_id, kind, *some))
        found = (self._table.get((agent_id, kind, name)) for name in names)
        return [alias.call_key for alias in found if alias is not None]

    def find(self, agent_id: str, kind: AliasKind, name: str) -> str | None:
        """Return the key of the call with this other name."""
        found = self._table.get((agent_id, kind, name))
        return None if found is None else found.call_key

    def add(self, agent_id: str, kind: AliasKind, name: str, call_key: str) -> None:
        """Give a call another name, unless some call has it."""
        if self._table.get((agent_id, kind, name)) is None:
            self._table.put(_Alias(agent_id, kind, name, call_key))

    def remove(self, agent_id: str, call_key: str, names: Sequence[str]) -> None:
        """Take other names away from a call, in whatever way they name it."""
        kinds: tuple[AliasKind, ...] = ("event", "uuid", "request")
        for name in {*names, *filter(None, map(uuid_in, names))}:
            for kind in kinds:
                if self.find(agent_id, kind, name) == call_key:
                    self._table.remove((agent_id, kind, name))
