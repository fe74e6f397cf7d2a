"""The small collections: limits of users, agents, provider keys and IC tokens."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.ports.lists import KeyFilter, KeyOrder, Page, Paging
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Session

AMONG: Final = "(SELECT value FROM json_each(?))"
"""The members of a list that is bound as one value, however long it is."""

_ORDERS: Final[Mapping[KeyOrder, str]] = {"name": "name", "created_at": "created_at", "updated_at": "updated_at"}


class SqliteAgents:
    """Implements `Agents`."""

    def __init__(self, session: Session) -> None:
        self.table: Table[Agent] = Table(
            session, "agents", Agent, constant=("created_at",), indexed=("owner_id", "project_id", "deleted_at")
        )
        self._session = session

    def find(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        return self.table.get(agent_id)

    def put(self, agent: Agent) -> None:
        """Store the agent, new or changed."""
        self.table.put(agent)

    def pii_detections(
        self, agent_id: str | None = None, owner_id: str | None = None, project_id: str | None = None
    ) -> int:
        """Return how often private data was found in the calls of these agents."""
        terms, parameters = conjunction({"id = ?": agent_id, "owner_id = ?": owner_id, "project_id = ?": project_id})
        sql = f"SELECT coalesce(sum(pii_detections), 0) FROM agents WHERE {terms}"
        (found,) = self._session.query(sql, parameters, self.table).fetchone()
        return int(found)

    def live_of(self, owner_id: str) -> Sequence[Agent]:
        """Return the agents of an owner that were not deleted, oldest first."""
        return self.table.rows("agents WHERE owner_id = ? AND deleted_at IS NULL ORDER BY id", (owner_id,))

    def names(self, agent_ids: Collection[str]) -> Mapping[str, str]:
        """Return the name of each of these agents."""
        sql = f"SELECT id, name FROM agents WHERE id IN {AMONG}"
        return dict(self._session.query(sql, (json.dumps(list(agent_ids)),), self.table))


class SqliteProviderKeys:
    """Implements `ProviderKeys`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[ProviderKey] = Table(session, "provider_keys", ProviderKey)
        self._session = session

    def find(self, key_id: str) -> ProviderKey | None:
        """Return the key with this id."""
        return self._table.get(key_id)

    def put(self, key: ProviderKey) -> None:
        """Store the key, new or changed."""
        self._table.put(key)

    def assigned_to(self, agent_id: str) -> Sequence[ProviderKey]:
        """Return the agent's keys in their order."""
        sql = "SELECT provider_key_id FROM agent_providers WHERE agent_id = ? ORDER BY position"
        ids = [key_id for (key_id,) in self._session.query(sql, (agent_id,))]
        return [key for key_id in ids if (key := self._table.get(key_id)) is not None]

    def assign(self, agent_id: str, key_ids: Sequence[str]) -> None:
        """Replace the agent's ordered list of keys."""
        self._session.execute("DELETE FROM agent_providers WHERE agent_id = ?", (agent_id,))
        for position, key_id in enumerate(key_ids):
            row = (agent_id, position, key_id)
            sql = "INSERT INTO agent_providers (agent_id, position, provider_key_id) VALUES (?, ?, ?)"
            self._session.execute(sql, row)

    def find_by_name(self, name: str) -> ProviderKey | None:
        """Return the key with this name, in whatever case."""
        rows = self._table.rows("provider_keys WHERE name = ?", (name,))
        return rows[0] if rows else None

    def ids_of(self, agent_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the ordered key ids of each of these agents that has any."""
        found: dict[str, list[str]] = {}
        sql = f"SELECT agent_id, provider_key_id FROM agent_providers WHERE agent_id IN {AMONG} ORDER BY position"
        for agent_id, key_id in self._session.query(sql, (json.dumps(agent_ids),)):
            found.setdefault(agent_id, []).append(key_id)
        return found

    def agent_counts(self, key_ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many agents each of these keys is assigned to, if any."""
        sql = f"SELECT provider_key_id, agents FROM provider_key_counts WHERE provider_key_id IN {AMONG}"
        return dict(self._session.query(sql, (json.dumps(key_ids),)))

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return (maintained, counted) numbers of agents of each key."""
        sql = """SELECT provider_key_id, sum(kept), sum(counted) FROM (
            SELECT provider_key_id, agents AS kept, 0 AS counted FROM provider_key_counts
            UNION ALL SELECT provider_key_id, 0, 1 FROM agent_providers) GROUP BY provider_key_id"""
        return {key_id: (kept, counted) for key_id, kept, counted in self._session.query(sql)}

    def page(
        self, which: KeyFilter, paging: Paging, order: KeyOrder = "created_at", *, descending: bool = True
    ) -> Page[ProviderKey]:
        """Return keys, newest first unless told otherwise."""
        terms, parameters = conjunction(
            {
                "instr(fold(name), fold(?)) > 0": which.name,
                "provider = ?": which.provider,
                "is_enabled = ?": which.is_enabled,
            }
        )
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'}, id DESC"
        where = f"provider_keys WHERE {terms} ORDER BY {by} LIMIT ? OFFSET ?"
        rows = self._table.rows(where, (*parameters, paging.per_page, paging.offset))
        sql = f"SELECT count(*) FROM provider_keys WHERE {terms}"
        (total,) = self._session.query(sql, parameters, self._table).fetchone()
        return Page(rows, total)

    def all(self) -> Sequence[ProviderKey]:
        """Return every key, by id."""
        return self._table.rows("provider_keys ORDER BY id")

    def agents_of(self, key_id: str) -> Sequence[str]:
        """Return the ids of the agents that this key is assigned to."""
        sql = "SELECT agent_id FROM agent_providers WHERE provider_key_id = ? ORDER BY agent_id"
        return [agent_id for (agent_id,) in self._session.query(sql, (key_id,))]

    def remove(self, key_id: str) -> None:
        """Remove the key with its ciphertext; nothing is assigned it any more."""
        self._table.remove(key_id)


class SqliteIcTokens:
    """Implements `IcTokens`."""

    def __init__(self, session: Session) -> None:
        self.table: Table[IcTokenRecord] = Table(
            session, "ic_tokens", IcTokenRecord, constant=("agent_id", "created_at"), indexed=("status",)
        )

    def find(self, token_id: str) -> IcTokenRecord | None:
        """Return the record with this id."""
        return self.table.get(token_id)

    def find_active_of(self, agent_id: str) -> IcTokenRecord | None:
        """Return the agent's active record."""
        rows = self.table.rows("ic_tokens WHERE agent_id = ? AND status = 'active'", (agent_id,))
        return rows[0] if rows else None

    def active_of(self, agent_ids: Sequence[str]) -> Mapping[str, IcTokenRecord]:
        """Return the active record of each of these agents that has one."""
        where = f"ic_tokens WHERE agent_id IN {AMONG} AND status = 'active'"
        return {record.agent_id: record for record in self.table.rows(where, (json.dumps(agent_ids),))}

    def put(self, record: IcTokenRecord) -> None:
        """Store the record, new or changed."""
        self.table.put(record)
